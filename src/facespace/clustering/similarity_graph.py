"""The similarity graph: pairs of faces above a threshold, found in tiles so that 100,000 faces fit in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Embeddings = npt.NDArray[np.float32]
Neighbours = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.float32]]

_ROWS, _COLUMNS = 2048, 8192  # a tile of similarities takes 64 MiB
_DENSE = 64  # if a tile has more pairs a row than this, only the `_MOST` most similar of each row are kept
_MOST = 32


@dataclass(frozen=True, slots=True, eq=False)
class SimilarityGraph:
    """Represents E pairs of similar faces among N faces.

    Pair e consists of the rows `first[e]` < `second[e]`; `similarity[e]` is their cosine minus handicaps, if any.
    `whole` is False if a tile had too many similar pairs, so that only the most similar ones of each face were kept.
    """

    n: int
    first: npt.NDArray[np.int32]
    second: npt.NDArray[np.int32]
    similarity: npt.NDArray[np.float32]
    whole: bool

    def neighbours(self) -> Neighbours:
        """Return (starts, others, similarities): face k is similar to `others[starts[k]:starts[k + 1]]`."""
        from scipy.sparse import coo_array

        both = coo_array((self.similarity, (self.first, self.second)), shape=(self.n, self.n)).tocsr()
        both = (both + both.T).tocsr()
        return both.indptr.astype(np.int64), both.indices, both.data


def similar_pairs(
    embeddings: Embeddings,
    threshold: float,
    *,
    handicaps: npt.NDArray[np.float32] | None = None,
    photos: npt.NDArray[np.int64] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SimilarityGraph:
    """Find the pairs of `embeddings` (N,D), of length 1, whose cosine similarity is at least `threshold`.

    The `handicaps` (N,) of both rows are subtracted from their cosine first. Rows with the same number in `photos` (N,)
    are not compared. Raises `ValueError` for a threshold that is not above 0 and at most 1.

    >>> vectors = np.array([[1, 0], [0, 1], [0.8, 0.6]], np.float32)
    >>> graph = similar_pairs(vectors, 0.7)
    >>> graph.first.tolist(), graph.second.tolist(), graph.similarity.round(2).tolist()
    ([0], [2], [0.800000011920929])
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
    n = len(embeddings)
    firsts, seconds, similarities = [], [], []
    whole = True
    tiles = [(row, column) for row in range(0, n, _ROWS) for column in range(row // _COLUMNS * _COLUMNS, n, _COLUMNS)]
    for done, (row, column) in enumerate(tiles):
        tile = embeddings[row : row + _ROWS] @ embeddings[column : column + _COLUMNS].T
        if handicaps is not None:
            tile -= handicaps[row : row + _ROWS, None] + handicaps[None, column : column + _COLUMNS]
        if photos is not None:
            tile[photos[row : row + _ROWS, None] == photos[None, column : column + _COLUMNS]] = -1
        if column <= row + len(tile) - 1:  # the diagonal crosses this tile: pairs on it or below it are excluded
            tile[np.arange(column, column + tile.shape[1])[None] <= np.arange(row, row + len(tile))[:, None]] = -1
        alike = tile >= threshold
        if alike.sum() > _DENSE * len(tile):
            whole = False
            strongest = np.argpartition(tile, -_MOST, axis=1)[:, -_MOST:] if tile.shape[1] > _MOST else None
            if strongest is not None:
                kept = np.zeros_like(alike)
                np.put_along_axis(kept, strongest, True, axis=1)
                alike &= kept
        i, j = np.nonzero(alike)
        firsts.append((i + row).astype(np.int32))
        seconds.append((j + column).astype(np.int32))
        similarities.append(tile[i, j])
        if progress:
            progress(done + 1, len(tiles))
    empty = np.empty(0, np.int32)
    return SimilarityGraph(
        n,
        np.concatenate([empty, *firsts]),
        np.concatenate([empty, *seconds]),
        np.concatenate([np.empty(0, np.float32), *similarities]),
        whole,
    )
