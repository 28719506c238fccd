"""The model of `--model`, loaded, with a line for what had to be assumed of it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from facespace.cli.shared.output import say

if TYPE_CHECKING:
    from facespace.embedding.embedder import Embedder


def load_embedder(model: str, device: str = "auto", *, say_remarks: bool = True, **options: Any) -> Embedder:
    """`Embedder.load`; its remarks are said on stderr, once."""
    from facespace.embedding.embedder import Embedder
    from facespace.models.opening import AssumptionWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssumptionWarning)  # the remarks say it
        embedder = Embedder.load(model, device=device, **options)  # type: ignore[arg-type]
    for remark in embedder.remarks if say_remarks else ():
        say(remark)
    return embedder
