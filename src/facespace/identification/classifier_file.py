"""Classifiers on disk: one safetensors file, arrays and a record in JSON. No pickle is written, and none is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.embedding.compatibility import other_model
from facespace.embedding.embedder import Embedder
from facespace.errors import ClassifierError
from facespace.io.tensor_file import damaged, read_tensor_file, write_tensor_file
from facespace.io.text import clean_name, plain_text

_KIND = "classifier"
_REMEDY = "train one from the photos: facespace classify train DIR --output FILE"
# What content that does not fit together may raise.
DAMAGE = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError)
_DIGEST = 72  # "photo:" and 64 digits, filled up with blanks


@dataclass(frozen=True, slots=True, eq=False)
class ClassifierRecord:
    """All that a classifier's file holds.

    `embeddings` (N,D), `owners` (N,) as indices into the P `names`, `thresholds` (P,); `arrays` are those of the method,
    `digests` (N,) name the content of each training photo, `model` is `model_of` the embedder.
    """

    method: str
    rate: float
    closed_set: bool
    seed: int
    names: tuple[str, ...]
    embeddings: npt.NDArray[np.float32]
    owners: npt.NDArray[np.int64]
    thresholds: npt.NDArray[np.float64]
    arrays: Mapping[str, npt.NDArray[np.float32]]
    probability: tuple[float, float] | None
    evidence: dict[str, Any]
    digests: tuple[str, ...]
    model: dict[str, Any] = field(repr=False)


def write_classifier(path: Path, saved: ClassifierRecord) -> None:
    """Write a classifier, whole or not at all."""
    if len(saved.digests) != len(saved.owners):
        raise ValueError(f"{len(saved.owners)} photos want a digest each; got {len(saved.digests)}")
    if any(len(digest) > _DIGEST for digest in saved.digests):
        raise ValueError(f"a digest has at most {_DIGEST} characters")
    record = {
        "method": saved.method,
        "rate": saved.rate,
        "closed_set": saved.closed_set,
        "seed": saved.seed,
        "names": list(saved.names),
        "probability": saved.probability,
        "evidence": saved.evidence,
        "model": saved.model,
    }
    digests = "".join(digest.ljust(_DIGEST) for digest in saved.digests)
    arrays: dict[str, npt.NDArray[Any]] = {
        "embeddings": np.asarray(saved.embeddings),
        "owners": saved.owners,
        "thresholds": saved.thresholds,
        "digests": np.frombuffer(digests.encode("ascii"), np.uint8),
        **saved.arrays,
    }
    write_tensor_file(path, _KIND, arrays, record)


def read_classifier(path: Path, embedder: Embedder | None = None) -> ClassifierRecord:
    """Read a classifier; with an `embedder`, `ClassifierError` where it was trained on another model's embeddings.

    `ClassifierError` too for a pickle, which could run any code, and for what is damaged or something else.
    """
    arrays, record = read_tensor_file(path, _KIND, ClassifierError, remedy=_REMEDY)
    try:
        saved = _checked(record, arrays)
    except DAMAGE as wrong:
        raise damaged_classifier(path, wrong) from None
    if embedder is not None and (reason := other_model(saved.model, embedder)):
        raise ClassifierError(f"{plain_text(str(path))}: {reason}, or train again")
    return saved


def damaged_classifier(path: Path, wrong: Exception) -> Exception:
    """The error for a classifier whose content does not fit together."""
    return damaged(path, _KIND, ClassifierError, wrong, remedy=_REMEDY)


def _checked(record: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> ClassifierRecord:
    embeddings, owners, thresholds = arrays["embeddings"], arrays["owners"], arrays["thresholds"]
    if embeddings.dtype != np.float32 or owners.dtype != np.int64 or thresholds.dtype != np.float64:
        raise ValueError("its arrays have other types")
    names = record["names"]
    if not isinstance(names, list) or names != sorted({clean_name(name) for name in names}):
        raise ValueError("its names are not in order")
    if not names:
        raise ValueError("it knows nobody")
    wanted = {"closed_set": bool, "rate": float, "seed": int, "evidence": dict, "model": dict}
    if wrong := [name for name, kind in wanted.items() if type(record[name]) is not kind]:
        raise ValueError(f"{wrong[0]} is a {type(record[wrong[0]]).__name__}")
    if not 0 < record["rate"] < 1:
        raise ValueError(f"its rate is {record['rate']}")
    methods: dict[str, npt.NDArray[np.float32]] = {name: arrays[name] for name in ("weights", "bias") if name in arrays}
    if not all(np.isfinite(array).all() for array in methods.values()):
        raise ValueError("its weights are not finite")
    probability = record["probability"]
    if probability is not None:
        slope, intercept = (float(value) for value in probability)
        if not np.isfinite([slope, intercept]).all():
            raise ValueError("its probability is not finite")
        probability = slope, intercept
    digests = bytes(arrays["digests"]).decode("ascii")
    if len(digests) != _DIGEST * len(owners):
        raise ValueError("photos and digests differ in number")
    return ClassifierRecord(
        method=record["method"],
        rate=record["rate"],
        closed_set=record["closed_set"],
        seed=record["seed"],
        names=tuple(names),
        embeddings=embeddings,
        owners=owners,
        thresholds=thresholds,
        arrays=methods,
        probability=probability,
        evidence=record["evidence"],
        digests=tuple(digests[k : k + _DIGEST].rstrip() for k in range(0, len(digests), _DIGEST)),
        model=record["model"],
    )
