"""Finds images of faces that show the same photo: exact copies and edited copies.

Similarities are computed in blocks and only the copies found are kept, so memory grows with the number of images, not
with its square.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.metrics.disjoint_sets import DisjointSets

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]

_ROWS, _COLUMNS = 512, 8192  # of one block of similarities: 16 MB

# Two pictures show one photo if both their embeddings and their grey thumbnails agree. A copy of lower quality keeps its
# thumbnail, and a copy that was cropped differently keeps its embedding, so one of the two may agree less if the other
# agrees well.
_CANDIDATE = 0.85
_SAME_VIEW = 0.95
_SAME_PIXELS = 0.95
_SIMILAR_PIXELS = 0.70
_SHIFT = 3  # pixels, of the 24 of a thumbnail
_MAX_CANDIDATES = 64  # of one image in one block, so that a thousand near copies are not all paired with each other

Pictures = tuple[Floats, npt.NDArray[np.uint8], Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class Copy:
    """Two images that show one photo, as indices; `second` is the copy.

    `exact` means that all pixels are equal. `similarity` is that of the embeddings, `correlation` that of the thumbnails.
    """

    first: int
    second: int
    exact: bool
    similarity: float
    correlation: float


def duplicates(
    embeddings: Floats, thumbnails: npt.NDArray[np.uint8], labels: Ints, digests: Sequence[bytes]
) -> list[Copy]:
    """Find which of N images show the same photo.

    For each copy, return the best earlier image with the same label and the best one with another label, if found.

    `embeddings` (N,D) are unit vectors that are equal for an image and its mirror image, `thumbnails` (N,24,24) are gray,
    and `digests` are hashes of the pixels, equal for exact copies. Every pair with a similarity s of at least 0.85 is a
    candidate for a near copy, and shows one photo if the correlation r (see `correlation`) is high enough too:

        (s ≥ 0.95 and r ≥ 0.70) or (s ≥ 0.85 and r ≥ 0.95)

    >>> two = np.array([[1, 0], [1, 0]], np.float32)
    >>> duplicates(two, np.zeros((2, 24, 24), np.uint8), np.array([0, 1]), [b"a", b"a"])
    [Copy(first=0, second=1, exact=True, similarity=1.0, correlation=1.0)]
    """
    best: dict[tuple[int, bool], Copy] = {}
    seen: dict[bytes, dict[int, int]] = {}  # pixels → label → the first such image
    for index, digest in enumerate(digests):
        label = int(labels[index])
        earlier = seen.setdefault(digest, {})
        elsewhere = next((first for of, first in earlier.items() if of != label), None)
        for first, within in ((earlier.get(label), True), (elsewhere, False)):
            if first is not None:
                best[index, within] = Copy(first, index, True, 1.0, 1.0)
        earlier.setdefault(label, index)
    kept = np.array(sorted(first for earlier in seen.values() for first in earlier.values()), np.int64)
    for i, j, similarity, agreement in _near(embeddings[kept], thumbnails[kept]):
        second, first = int(kept[i]), int(kept[j])
        key = second, bool(labels[first] == labels[second])
        if key not in best or (not best[key].exact and similarity > best[key].similarity):
            best[key] = Copy(first, second, digests[first] == digests[second], similarity, agreement)
    return [best[key] for key in sorted(best)]


def copies_between(images: Pictures, others: Pictures) -> list[Copy]:
    """Find images that show a photo of `others`, by the rule of `duplicates`: `second` is in `images`, `first` in `others`.

    `images` and `others` are each embeddings, thumbnails and digests as for `duplicates`.
    """
    theirs = {digest: index for index, digest in reversed(list(enumerate(others[2])))}
    best = {
        index: Copy(theirs[digest], index, True, 1.0, 1.0) for index, digest in enumerate(images[2]) if digest in theirs
    }
    for i, j, similarity, agreement in _near(images[0], images[1], others[:2]):
        if i not in best or (not best[i].exact and similarity > best[i].similarity):
            best[i] = Copy(j, i, False, similarity, agreement)
    return [best[index] for index in sorted(best)]


def _near(
    embeddings: Floats, thumbnails: npt.NDArray[np.uint8], others: tuple[Floats, npt.NDArray[np.uint8]] | None = None
) -> Iterator[tuple[int, int, float, float]]:
    """Yield near copies as (i, j, similarity of embeddings, correlation of thumbnails).

    i is an image of `embeddings`, j one of `others`. If `others` is None, j < i is an earlier image of the same set.
    """
    their_embeddings, their_thumbnails = others or (embeddings, thumbnails)
    for top in range(0, len(embeddings), _ROWS):
        rows = embeddings[top : top + _ROWS]
        end = len(their_embeddings) if others else top + len(rows)
        for left in range(0, end, _COLUMNS):
            block = rows @ their_embeddings[left : min(left + _COLUMNS, end)].T
            if others is None and left + block.shape[1] > top:
                later = np.arange(left, left + block.shape[1]) >= np.arange(top, top + len(rows))[:, None]
                block[later] = -1
            if block.max(initial=-1) < _CANDIDATE:
                continue  # fast path: nearly all blocks of a large dataset have no candidate
            if block.shape[1] > _MAX_CANDIDATES:
                crowded = np.flatnonzero((block >= _CANDIDATE).sum(axis=1) > _MAX_CANDIDATES)
                least = np.partition(block[crowded], -_MAX_CANDIDATES, axis=1)[:, -_MAX_CANDIDATES]
                block[crowded] = np.where(block[crowded] >= least[:, None], block[crowded], -1)
            i, j = np.nonzero(block >= _CANDIDATE)
            for start in range(0, len(i), _ROWS):
                part = slice(start, start + _ROWS)
                similarity = np.minimum(block[i[part], j[part]], 1)
                agreement = correlation(thumbnails[top + i[part]], their_thumbnails[left + j[part]])
                same = (agreement >= _SAME_PIXELS) | ((similarity >= _SAME_VIEW) & (agreement >= _SIMILAR_PIXELS))
                for k in np.flatnonzero(same):
                    at = start + k
                    yield int(top + i[at]), int(left + j[at]), float(similarity[k]), float(agreement[k])


def correlation(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> Floats:
    """Return the correlation (M,) of M pairs of gray thumbnails (M,24,24), 1 for equal, mirrored or shifted thumbnails.

    The mean of the 5×5 pixels around each pixel is subtracted, which removes lighting and keeps shapes. Then r is the
    highest normalised correlation of the inner 18×18 of the first with any 18×18 of the second or its mirror image.

    >>> noise = np.random.default_rng(0).integers(0, 256, (1, 24, 24)).astype(np.uint8)
    >>> correlation(noise, noise[:, :, ::-1] // 2 + 60).round(2).tolist()
    [1.0]
    """
    inner = first.shape[1] - 2 * _SHIFT
    a = _normalised(_shapes(first)[:, _SHIFT : _SHIFT + inner, _SHIFT : _SHIFT + inner])
    shapes = _shapes(second)
    best = np.full(len(first), -1, np.float32)
    for turned in (shapes, shapes[:, :, ::-1]):
        for y in range(2 * _SHIFT + 1):
            for x in range(2 * _SHIFT + 1):
                b = _normalised(turned[:, y : y + inner, x : x + inner])
                best = np.maximum(best, np.einsum("nd,nd->n", a, b))
    return best


def _shapes(thumbnails: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    padded = np.pad(thumbnails.astype(np.float32), ((0, 0), (2, 2), (2, 2)), mode="edge")
    height, width = thumbnails.shape[1:]
    around = sum(padded[:, y : y + height, x : x + width] for y in range(5) for x in range(5))
    result: npt.NDArray[np.float32] = thumbnails - np.asarray(around, np.float32) / np.float32(25)
    return result


def _normalised(windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    flat = windows.reshape(len(windows), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    result: npt.NDArray[np.float32] = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-3)
    return result


def group(n: int, copies: Iterable[Copy]) -> Ints:
    """Return a number (n,) for each of `n` images. All images that are copies of one picture have the same number.

    It is the lowest index among these images.

    >>> group(4, [Copy(0, 2, True, 1.0, 1.0), Copy(2, 3, False, 0.97, 0.9)]).tolist()
    [0, 1, 0, 0]
    """
    pictures = DisjointSets(n)
    for copy in copies:
        pictures.join(copy.first, copy.second)
    return pictures.smallest()
