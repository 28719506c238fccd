"""InsightFace's protocol for `.bin` files: raw features of image and mirror image added, then scaled to unit length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from facespace.datasets.pairs.insightface_bin import as_pairs, read_bin
from facespace.embedding.embedder import Embedder
from facespace.errors import DatasetError, ImageError
from facespace.faces.crops import resize
from facespace.io import image
from facespace.metrics.unit_vectors import to_unit_length
from facespace.metrics.verification import Verification, evaluate

_BATCH = 64


@dataclass(frozen=True, slots=True)
class BinFigures:
    """Results on a `.bin` file: `xnorm`, the mean length of raw features; `verification`; `size`, its crops' side."""

    xnorm: float
    verification: Verification
    size: int


def measure_bin(path: Path, embedder: Embedder, *, progress: Callable[[int, int], None] | None = None) -> BinFigures:
    """Measure a model on a `.bin` file.

    With f and f′ the raw features of an image and its mirror image, the embedding is (f + f′)/|f + f′|, and `xnorm` is
    the mean of all |f| and |f′|. The pairs are evaluated in ten contiguous folds; without folds if one of them has only
    same-person pairs, or none. Crops whose size is not the model's are resized. Raises `DatasetError` if the file is
    damaged.
    """
    pairs, images = as_pairs(read_bin(path))
    size = embedder.spec.size
    lengths = 0.0
    embeddings = np.empty((len(images), embedder.dimension), np.float32)
    side = 0
    for start in range(0, len(images), _BATCH):
        try:
            stored = [image.read(encoded) for encoded in images[start : start + _BATCH]]
        except ImageError as error:
            raise DatasetError(f"{path}: an image from number {start} on cannot be read ({error.reason})") from None
        side = side or stored[0].shape[0]
        crops = np.stack([resize(crop, size) for crop in stored])
        both = embedder.features(np.concatenate([crops, crops[:, :, ::-1]]))
        lengths += float(np.linalg.norm(both, axis=1).sum())
        added = both[: len(crops)] + both[len(crops) :]
        embeddings[start : start + len(crops)] = to_unit_length(added)
        if progress is not None:
            progress(min(start + _BATCH, len(images)), len(images))
    fold = pairs.fold
    if fold is not None and not all(_has_both(pairs.same[fold == number]) for number in np.unique(fold)):
        fold = None
    try:
        verification = evaluate(embeddings, pairs.first, pairs.second, pairs.same, fold=fold)
    except ValueError as error:
        raise DatasetError(f"{path}: {error}") from None
    return BinFigures(lengths / (2 * len(images)), verification, side)


def _has_both(same: npt.NDArray[np.bool_]) -> bool:
    return bool(same.any() and not same.all())
