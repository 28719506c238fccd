"""Loading the model of `--model`, or the model that a gallery, classifier or folder of crops was made with."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facespace.cli.shared.output import say
from facespace.defaults import DEFAULT_MODEL

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from facespace.embedding.embedder import Embedder


def load_embedder(
    model: str | None, device: str = "auto", *, made_with: str = "", say_remarks: bool = True, **options: Any
) -> Embedder:
    """Load a model, and report its remarks on stderr.

    If `model` is None, load `made_with`, the model name stored in a gallery, classifier or folder of crops. If that is
    empty too, load the default model. `options` are passed to `Embedder.load`. Raises `ModelError` if `made_with` is
    needed and is not a named model.
    """
    from facespace.embedding.embedder import Embedder
    from facespace.errors import ModelError
    from facespace.models.opening import AssumptionWarning
    from facespace.models.zoo import find_card

    if model is None and made_with and find_card(made_with) is None:
        raise ModelError(
            f"the input was made with the model {made_with!r}, which is not a named model; give its path with --model"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssumptionWarning)  # reported as a remark
        embedder = Embedder.load(model or made_with or DEFAULT_MODEL, device=device, **options)  # type: ignore[arg-type]
    for remark in embedder.remarks if say_remarks else ():
        say(remark)
    return embedder


def say_if_people_are_alike(embedder: Embedder, people: npt.NDArray[np.float32]) -> None:
    """Report on stderr if the templates (P,D) of different people are all alike, unless `load_embedder` reported it."""
    from facespace.embedding.collapse import collapse_remark, looks_collapsed

    if looks_collapsed(people) and not embedder.collapse_remark():
        say(f"{embedder.name}: {collapse_remark(people, f'{len(people)} known people')}")


def model_of_classifier(path: Path) -> str:
    """Return the name of the model a classifier was fitted with; empty if the file does not exist or names no model."""
    from facespace.identification.classifier import Classifier

    return name_in(Classifier.load(path).model_) if path.exists() else ""


def model_of_crops(folder: Path, *, aligned: bool = False) -> str:
    """Return the name of the model that a folder of crops was made for; empty for photos.

    If the folder's record names no known model, return the first named model that accepts crops like those recorded.
    Images without a record are photos, unless `aligned` says that they are crops; then return the first named model
    that accepts their size.
    """
    from facespace.faces.crops import may_be_cut, read_record, size_of_first
    from facespace.models.zoo import MODELS, find_card
    from facespace.pipeline.photos import find_images

    record = read_record(folder) if folder.is_dir() else None
    if record is None:
        size = size_of_first(find_images([folder])) if aligned and folder.is_dir() else None
        if size is None:
            return ""
        exact = (card.name for card in MODELS.values() if size == (card.spec.size, card.spec.size))
        cut = (card.name for card in MODELS.values() if may_be_cut(*size, card.spec.size))
        return next(exact, next(cut, ""))
    if record.model and find_card(record.model) is not None:
        return record.model
    return next((card.name for card in MODELS.values() if record.misfit(card.spec) is None), "")


def name_in(held: Any) -> str:
    """Return the model name in a record from `embedding.compatibility.model_of`; empty if the record has no name."""
    name = held.get("model") if isinstance(held, dict) else None
    return name if isinstance(name, str) else ""
