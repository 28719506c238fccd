"""Classifiers on disk: one safetensors file, arrays and a record in JSON. No pickle is written, and none is read."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from facespace.classifier import Classifier
from facespace.embedder import Embedder
from facespace.errors import ClassifierError
from facespace.files import atomic_path
from facespace.text import clean_name, plain_text

_FORMAT, _VERSION = "facespace-classifier", "1"
_MAX_BYTES = 4 << 30  # two million photos of 512 numbers
_MAX_HEADER = 256 << 20  # safetensors' own limit is 100 MB
_PICKLES = (
    b"\x80\x02",
    b"\x80\x03",
    b"\x80\x04",
    b"\x80\x05",
    b"(dp",
    b"(lp",
    b"ccopy_reg",
    b"(i",
    b"cnumpy",
    b"csklearn",
)
_DIGEST = 72  # "photo:" and 64 digits, filled up with blanks


@dataclass(slots=True, eq=False)
class Kept:
    """A classifier as a file has it: with the digest of every training photo, and the model it belongs to."""

    classifier: Classifier
    digests: tuple[str, ...]
    model: dict[str, Any]


def model_of(embedder: Embedder) -> dict[str, Any]:
    """What makes embeddings comparable: weights, what they want to see, and whether a mean is taken off."""
    return {
        "model": embedder.name,
        "fingerprint": embedder.fingerprint,
        "dimension": embedder.dimension,
        "input_spec": embedder.spec.as_dict(),
        "centered": embedder.calibration is not None,
    }


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
    data = save_tensors(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()},
        {"format": _FORMAT, "version": _VERSION, "record": json.dumps(record)},
    )
    with atomic_path(path) as unfinished:
        unfinished.write_bytes(data)


def load(path: Path, embedder: Embedder | None = None) -> Kept:
    """Read a classifier; with an `embedder`, `ClassifierError` where it was trained on another model's embeddings.

    `ClassifierError` too for a pickle, which could run any code, and for what is damaged or something else.
    """
    name = plain_text(str(path))
    if not path.is_file():
        raise ClassifierError(f"{name}: no classifier there; facespace classify train makes one")
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise ClassifierError(f"{name}: {size} bytes; a classifier has at most {_MAX_BYTES}")
    with path.open("rb") as file:
        start = file.read(16)
        if start.startswith(_PICKLES):
            raise ClassifierError(
                f"{name}: a pickle, which could run any code when it is loaded, so it is not; "
                "train again from the photos: facespace classify train DIR --output FILE"
            )
        header = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
        if not 2 <= header <= min(size - 8, _MAX_HEADER):
            raise ClassifierError(f"{name}: not a classifier of facespace, or cut short")
        data = start + file.read()
    try:
        metadata = json.loads(data[8 : 8 + header]).get("__metadata__", {})
        if metadata.get("format") != _FORMAT:
            raise ClassifierError(f"{name}: not a classifier of facespace")
        if metadata.get("version") != _VERSION:
            raise ClassifierError(f"{name}: version {metadata.get('version')!r}; this facespace reads {_VERSION}")
        record = json.loads(metadata["record"])
        kept = _restore(record, load_tensors(data))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        reason = plain_text(str(error) or type(error).__name__)[:150]
        raise ClassifierError(f"{name}: a damaged classifier ({reason}); train again") from None
    if embedder is not None:
        _check_model(name, kept.model, model_of(embedder))
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


def _check_model(name: str, held: dict[str, Any], wanted: dict[str, Any]) -> None:
    if {**held, "model": ""} != {**wanted, "model": ""}:
        made_by = plain_text(str(held.get("model", "another")))
        same = " (other weights or another input spec)" if made_by == wanted["model"] else ""
        raise ClassifierError(
            f"{name}: trained on embeddings of the model {made_by!r}{same}, which cannot be compared with those of "
            f"{wanted['model']!r}; use --model {made_by}, or train again"
        )
