"""Reads and writes classifiers: one safetensors file with arrays and a JSON record. No pickle is written or read."""

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
# The errors that inconsistent content may cause.
DAMAGE = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError)
_DIGEST = 72  # "photo:" and 64 digits, padded with blanks


@dataclass(frozen=True, slots=True, eq=False)
class ClassifierRecord:
    """The content of a classifier's file.

    The N training photos have `embeddings` (N,D), and `owners` (N,), which are indices into the P `names`; `digests`
    (N,) identify their contents. `thresholds` (P,) belong to the names. `arrays` are those of the fitted method
    (`Method.arrays`), and `model` is what `compatibility.model_of` returns for the embedder.
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
    """Write a classifier atomically."""
    if len(saved.digests) != len(saved.owners):
        raise ValueError(f"there must be one digest for each of {len(saved.owners)} photos, got {len(saved.digests)}")
    if any(len(digest) > _DIGEST for digest in saved.digests):
        raise ValueError(f"a digest must have at most {_DIGEST} characters")
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
    """Read a classifier; with an `embedder`, check that it was trained on that model's embeddings.

    Raise `ClassifierError` if the classifier was trained on embeddings of another model, or if the file is damaged, is
    not a classifier, or is a pickle (loading a pickle can run any code).
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
    """Return the error for a classifier with inconsistent content."""
    return damaged(path, _KIND, ClassifierError, wrong, remedy=_REMEDY)


def _checked(record: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> ClassifierRecord:
    embeddings, owners, thresholds = arrays["embeddings"], arrays["owners"], arrays["thresholds"]
    if embeddings.dtype != np.float32 or owners.dtype != np.int64 or thresholds.dtype != np.float64:
        raise ValueError("its arrays have the wrong types")
    names = record["names"]
    if not isinstance(names, list) or names != sorted({clean_name(name) for name in names}):
        raise ValueError("its names are not sorted")
    if not names:
        raise ValueError("it has no people")
    types = {"closed_set": bool, "rate": float, "seed": int, "evidence": dict, "model": dict}
    if wrong := [name for name, kind in types.items() if type(record[name]) is not kind]:
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
