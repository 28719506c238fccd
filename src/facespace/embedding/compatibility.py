"""Whether stored vectors can be compared with those of an embedder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from facespace.io.text import plain_text

if TYPE_CHECKING:
    from facespace.embedding.embedder import Embedder


def model_of(embedder: Embedder) -> dict[str, Any]:
    """What makes embeddings comparable: weights, what they want to see, and whether a mean is taken off."""
    return {
        "model": embedder.name,
        "fingerprint": embedder.fingerprint,
        "dimension": embedder.dimension,
        "input_spec": embedder.spec.as_dict(),
        "centered": embedder.calibration is not None,
    }


def other_model(held: Any, embedder: Embedder) -> str | None:
    """Whose vectors a file has, in words, where they cannot be compared with this embedder's; `held` is `model_of`'s."""
    wanted = model_of(embedder)
    if isinstance(held, dict) and {**held, "model": ""} == {**wanted, "model": ""}:
        return None
    made_by = plain_text(str(held.get("model", "another"))) if isinstance(held, dict) else "another"
    same_name = " (other weights or another input spec)" if made_by == embedder.name else ""
    return (
        f"its vectors were made by the model {made_by!r}{same_name} and cannot be compared with those of "
        f"{embedder.name!r}; use --model {made_by}"
    )
