"""Classifiers on disk: one safetensors file, arrays and a record in JSON. No pickle is written, and none is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.embedding.compatibility import model_of, other_model
from facespace.embedding.embedder import Embedder
from facespace.errors import ClassifierError
from facespace.identification.classifier import Classifier
from facespace.io.tensor_file import damaged, read_tensor_file, write_tensor_file
from facespace.io.text import clean_name, plain_text

_KIND = "classifier"
_REMEDY = "train one from the photos: facespace classify train DIR --output FILE"
_DIGEST = 72  # "photo:" and 64 digits, filled up with blanks


@dataclass(slots=True, eq=False)
class Kept:
    """A classifier as a file has it: with the digest of every training photo, and the model it belongs to."""

    classifier: Classifier
    digests: tuple[str, ...]
    model: dict[str, Any]


def save(path: Path, classifier: Classifier, digests: tuple[str, ...], embedder: Embedder) -> None:
    """Write a fitted classifier, whole or not at all. `digests` (N,) name the content of each training photo."""
    save_kept(path, Kept(classifier, digests, model_of(embedder)))


def save_kept(path: Path, kept: Kept) -> None:
    """Write what `load` gave, changed or not."""
    classifier, digests = kept.classifier, kept.digests
    if len(digests) != len(classifier.owners_):
        raise ValueError(f"{len(classifier.owners_)} photos want a digest each; got {len(digests)}")
    record = {
        "method": classifier.method,
        "rate": classifier.rate,
        "closed_set": classifier.closed_set,
        "seed": classifier.seed,
        "names": list(classifier.names_),
        "probability": classifier.probability_,
        "evidence": classifier.evidence_,
        "model": kept.model,
    }
    arrays: dict[str, npt.NDArray[Any]] = {
        "embeddings": classifier.embeddings_,
        "owners": classifier.owners_,
        "thresholds": classifier.thresholds_,
        "digests": np.frombuffer("".join(d.ljust(_DIGEST)[:_DIGEST] for d in digests).encode("ascii"), np.uint8),
        **classifier.namer_.arrays(),
    }
    write_tensor_file(path, _KIND, arrays, record)


def load(path: Path, embedder: Embedder | None = None) -> Kept:
    """Read a classifier; with an `embedder`, `ClassifierError` where it was trained on another model's embeddings.

    `ClassifierError` too for a pickle, which could run any code, and for what is damaged or something else.
    """
    arrays, record = read_tensor_file(path, _KIND, ClassifierError, remedy=_REMEDY)
    try:
        kept = _restore(record, arrays)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as wrong:
        raise damaged(path, _KIND, ClassifierError, wrong, remedy=_REMEDY) from None
    if embedder is not None and (reason := other_model(kept.model, embedder)):
        raise ClassifierError(f"{plain_text(str(path))}: {reason}, or train again")
    return kept


def _restore(record: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> Kept:
    embeddings, owners, thresholds = arrays["embeddings"], arrays["owners"], arrays["thresholds"]
    if embeddings.dtype != np.float32 or owners.dtype != np.int64 or thresholds.dtype != np.float64:
        raise ValueError("its arrays have other types")
    names = record["names"]
    if not isinstance(names, list) or names != sorted({clean_name(name) for name in names}):
        raise ValueError("its names are not in order")
    wanted = {"closed_set": bool, "rate": float, "seed": int, "evidence": dict, "model": dict}
    if wrong := [name for name, kind in wanted.items() if type(record[name]) is not kind]:
        raise ValueError(f"{wrong[0]} is a {type(record[wrong[0]]).__name__}")
    probability = record["probability"]
    if probability is not None:
        slope, intercept = (float(value) for value in probability)
        if not np.isfinite([slope, intercept]).all():
            raise ValueError("its probability is not finite")
        probability = slope, intercept
    digests = bytes(arrays["digests"]).decode("ascii")
    if len(digests) != _DIGEST * len(owners):
        raise ValueError("photos and digests differ in number")
    classifier = Classifier(
        record["method"], rate=record["rate"], closed_set=record["closed_set"], seed=record["seed"]
    ).restore(
        embeddings,
        owners,
        names,
        thresholds,
        arrays={name: arrays[name] for name in ("weights", "bias") if name in arrays},
        probability=probability,
        evidence=record["evidence"],
    )
    return Kept(
        classifier,
        tuple(digests[k : k + _DIGEST].rstrip() for k in range(0, len(digests), _DIGEST)),
        record["model"],
    )
