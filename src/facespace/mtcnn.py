"""MTCNN: faces and five landmarks by a cascade of three networks (Zhang et al. 2016).

The arithmetic is that of the 2018 program, so its boxes and crops are reproduced: P-Net scans an image pyramid,
R-Net refines its candidates, O-Net refines again and places the landmarks. Boxes count pixels from 1 and include
both ends until the result is made.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from facespace.face import Face
from facespace.mtcnn_networks import output_network, proposal_network, refinement_network
from facespace.network import Network
from facespace.pyramid import CANVAS, CELL, layout
from facespace.resample import area_matrix, area_resize

Array = npt.NDArray[np.float64]


class _Blas:
    """Keeps the threads of NumPy's BLAS away from the runtime's.

    The products of resizing are small; several BLAS threads gain nothing on them and, spinning while they wait,
    take the cores from the networks: detection was seen to take twice as long. Counted, so that threads that
    detect at the same time leave the setting as they found it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._controller: ThreadpoolController | None = None
        self._limit: Any = None

    @contextlib.contextmanager
    def one_thread(self) -> Iterator[None]:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._controller = self._controller or ThreadpoolController()
                self._limit = self._controller.limit(limits=1, user_api="blas")
                self._limit.__enter__()
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._limit.__exit__(None, None, None)


_BLAS = _Blas()
_STRIDE = 2
_MAX_BATCH = 64
_CHUNK_IMAGES = 16
_CHUNK_PIXELS = 16_000_000
_MATRIX_NMS = 1_000  # boxes up to which all overlaps are computed at once


class MTCNN:
    """The detector.

    `min_size`: side in pixels of the smallest face looked for; raising it is the way to be faster on large photos.
    `thresholds`: probabilities a candidate must reach in P-Net and exceed in R-Net and O-Net. `factor`: ratio of
    successive pyramid levels. The defaults are those of the 2018 programs.
    """

    def __init__(
        self,
        *,
        min_size: float = 20,
        thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7),
        factor: float = 0.709,
    ) -> None:
        if not min_size >= 2:
            raise ValueError(f"min_size wants at least 2 pixels; got {min_size}")
        if len(thresholds) != 3 or not all(0 < value < 1 for value in thresholds):
            raise ValueError(f"thresholds wants three probabilities between 0 and 1; got {thresholds}")
        if not 0.1 <= factor <= 0.95:
            raise ValueError(f"factor wants a ratio from 0.1 to 0.95; got {factor}")
        self.min_size = float(min_size)
        self.thresholds = thresholds
        self.factor = float(factor)
        self._pnet = proposal_network()
        self._rnet = refinement_network()
        self._onet = output_network()

    @property
    def runtime(self) -> str:
        return self._pnet.runtime

    def detect(self, image: npt.NDArray[np.uint8]) -> list[Face]:
        """The faces of one image (H,W,3) uint8 RGB; an empty list where there is none."""
        return self._detect([image])[0]

    def detect_many(self, images: Iterable[npt.NDArray[np.uint8]]) -> list[list[Face]]:
        """`detect` for images of any sizes: the same faces, candidates of several images in one batch."""
        return [faces for chunk in _chunks(images) for faces in self._detect(chunk)]

    def _detect(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[list[Face]]:
        with _BLAS.one_thread():
            return self._cascade([_planes(image) for image in images])

    def _cascade(self, planes: Sequence[npt.NDArray[Any]]) -> list[list[Face]]:
        boxes = [_squared(self._propose(plane)) for plane in planes]

        heads = self._classify(self._rnet, planes, boxes, 24)
        for i, (box, head) in enumerate(zip(boxes, heads, strict=True)):
            scores = _probability(head[:, 0]).astype(np.float64)
            keep = np.flatnonzero(scores > self.thresholds[1])
            keep = keep[non_maximum_suppression(box[keep], scores[keep], 0.7)]
            boxes[i] = _squared(_regressed(box[keep], head[keep, 1:5]))

        heads = self._classify(self._onet, planes, boxes, 48)
        results = []
        for box, head in zip(boxes, heads, strict=True):
            scores = _probability(head[:, 0]).astype(np.float64)
            keep = np.flatnonzero(scores > self.thresholds[2])
            box, head, scores = box[keep], head[keep], scores[keep]
            width, height = (box[:, 2:] - box[:, :2] + 1).T[:, :, None]
            landmarks = np.stack(
                [width * head[:, 5:10] + box[:, :1] - 1, height * head[:, 10:15] + box[:, 1:2] - 1], axis=2
            )
            box = _regressed(box, head[:, 1:5])
            keep = non_maximum_suppression(box, scores, 0.7, overlap="min")
            results.append([_face(box[k], scores[k], landmarks[k]) for k in keep if _valid(box[k])])
        return results

    def _propose(self, planes: npt.NDArray[Any]) -> Array:
        """Candidate boxes (n,4) of P-Net, regressed, not yet square."""
        height, width = planes.shape[1:]
        plan = layout(height, width, self.min_size, self.factor)
        levels = [area_resize(planes, level.height, level.width) for level in plan.levels]
        found = []
        tiles = sorted(plan.tiles, key=lambda tile: tile.canvas)
        for index, group in itertools.groupby(tiles, key=lambda tile: tile.canvas):
            canvas = np.zeros((1, 3, CANVAS, CANVAS), np.uint8)
            for tile in group:
                part = levels[tile.level][:, tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
                canvas[0, :, tile.y : tile.y + tile.height, tile.x : tile.x + tile.width] = part
            (heads,) = self._pnet.run(canvas, plan.masks[index][None])
            found.append(self._decode(heads[0], plan.owner[index], plan))
        if not any(len(part[0]) for part in found):
            return np.empty((0, 4))
        boxes, offsets, scores, level = (np.concatenate(parts) for parts in zip(*found, strict=True))
        # The 2018 program meets candidates level by level, column by column; that decides between equal scores.
        order = np.lexsort((boxes[:, 1], boxes[:, 0], level))
        starts = np.searchsorted(level[order], np.arange(len(plan.levels) + 1))
        parts = (order[start:stop] for start, stop in itertools.pairwise(starts) if stop > start)
        keep = np.concatenate([part[non_maximum_suppression(boxes[part], scores[part], 0.5)] for part in parts])
        keep = keep[non_maximum_suppression(boxes[keep], scores[keep], 0.7)]
        boxes, offsets = boxes[keep], offsets[keep]
        return boxes + offsets * np.tile(boxes[:, 2:] - boxes[:, :2], 2)

    def _decode(
        self, heads: npt.NDArray[np.float32], owner: npt.NDArray[np.int32], plan: Any
    ) -> tuple[Array, Array, Array, npt.NDArray[np.int64]]:
        """Boxes, offsets, scores and pyramid levels of the cells of one canvas that pass P-Net's threshold."""
        probability = _probability(heads[0])
        rows, columns = np.nonzero((probability >= self.thresholds[0]) & (owner >= 0))
        scores = probability[rows, columns].astype(np.float64)
        table = np.array(
            [(t.level, t.top - t.y, t.left - t.x, plan.levels[t.level].scale) for t in plan.tiles], np.float64
        )
        level, dy, dx, scale = table[owner[rows, columns]].T
        corner = np.stack([_STRIDE * columns + dx, _STRIDE * rows + dy], axis=1)
        boxes = np.trunc(np.hstack([corner + 1, corner + CELL]) / scale[:, None])
        return boxes, heads[1:, rows, columns].T.astype(np.float64), scores, level.astype(np.int64)

    def _classify(
        self, network: Network, planes: Sequence[npt.NDArray[Any]], boxes: Sequence[Array], size: int
    ) -> list[npt.NDArray[np.float32]]:
        """The network's outputs for every box of every image, crops of all images batched together."""
        n_boxes = [len(box) for box in boxes]
        outputs: list[npt.NDArray[np.float32]] = []
        pending = [(plane, row) for plane, box in zip(planes, boxes, strict=True) for row in box]
        for start in range(0, len(pending), _MAX_BATCH):
            part = pending[start : start + _MAX_BATCH]
            # A runtime compiles for each batch size it meets: powers of two are few.
            crops = np.zeros((1 << (len(part) - 1).bit_length(), 3, size, size), np.float32)
            for crop, (plane, row) in zip(crops, part, strict=False):
                _crop(plane, row, crop)
            outputs.append(network.run(crops)[0][: len(part)])
        width = int(list(network.outputs.values())[0][1])
        joined = np.concatenate(outputs) if outputs else np.empty((0, width), np.float32)
        return np.split(joined, np.cumsum(n_boxes)[:-1])


def non_maximum_suppression(
    boxes: Array,
    scores: Array,
    threshold: float,
    *,
    overlap: Literal["union", "min"] = "union",
) -> npt.NDArray[np.int64]:
    """Indices of the boxes kept, best score first: each kept box removes those it overlaps by more than `threshold`.

    Overlap is intersection over union, or over the smaller box for `min`; sides count both end pixels
    (x2 − x1 + 1). Equal scores, which saturated float32 probabilities often are, come in the order NumPy's default
    sort leaves them, as in the 2018 program; that order may differ between processors.

    >>> boxes = np.array([[1.0, 1, 10, 10], [2, 1, 11, 10], [50, 50, 60, 60]])
    >>> non_maximum_suppression(boxes, np.array([0.8, 0.9, 0.7]), 0.5).tolist()
    [1, 2]
    """
    order = np.argsort(scores)[::-1]
    boxes = boxes[order]
    area = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)

    def overlapped(first: Any, others: Any) -> npt.NDArray[np.bool_]:
        a, b = boxes[first], boxes[others]
        sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + 1
        common = np.maximum(sides[..., 0], 0) * np.maximum(sides[..., 1], 0)
        smaller = np.minimum(area[first], area[others])
        whole = smaller if overlap == "min" else area[first] + area[others] - common
        result: npt.NDArray[np.bool_] = common / whole > threshold
        return result

    kept = []
    everyone = np.arange(len(boxes))
    if len(boxes) <= _MATRIX_NMS:
        matrix = overlapped(everyone[:, None], everyone[None, :])
        alive = np.ones(len(boxes), np.bool_)
        for index in everyone:
            if alive[index]:
                kept.append(index)
                alive &= ~matrix[index]
    else:
        while len(everyone):
            kept.append(everyone[0])
            rest = everyone[1:]
            everyone = rest[~overlapped(everyone[0], rest)]
    return order[np.array(kept, np.int64)]


def _chunks(images: Iterable[npt.NDArray[np.uint8]]) -> Iterator[list[npt.NDArray[np.uint8]]]:
    """Groups of images worth one batch, bounded in number and in pixels."""
    chunk: list[npt.NDArray[np.uint8]] = []
    pixels = 0
    for image in images:
        size = image.shape[0] * image.shape[1]
        if chunk and (len(chunk) >= _CHUNK_IMAGES or pixels + size > _CHUNK_PIXELS):
            yield chunk
            chunk, pixels = [], 0
        chunk.append(image)
        pixels += size
    if chunk:
        yield chunk


def _planes(image: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """The image as (3,H,W), in float32 for the products to come unless that takes too much memory."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image must be (H, W, 3) uint8 RGB; got {image.dtype} of shape {image.shape}")
    dtype = np.float32 if image.size <= 3 * _CHUNK_PIXELS else np.uint8
    return np.ascontiguousarray(image.transpose(2, 0, 1), dtype)


def _probability(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """p(face) in float32, like the softmax it stands for."""
    result: npt.NDArray[np.float32] = 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
    return result


def _regressed(boxes: Array, offsets: npt.NDArray[Any]) -> Array:
    """Each side moved by its offset, in units of the box's width or height (both ends counted)."""
    result: Array = boxes + offsets * np.tile(boxes[:, 2:] - boxes[:, :2] + 1, 2)
    return result


def _squared(boxes: Array) -> Array:
    """Squares of the longer side about the same centres, truncated to whole pixels."""
    size = boxes[:, 2:] - boxes[:, :2]
    side = size.max(axis=1, keepdims=True)
    corner = boxes[:, :2] + size * 0.5 - side * 0.5
    return np.trunc(np.hstack([corner, corner + side]))


def _crop(planes: npt.NDArray[Any], box: Array, out: npt.NDArray[np.float32]) -> None:
    """The box (counted from 1, both ends in) of an image, black beyond the border, resized into `out` (3,s,s)."""
    n_rows, n_columns = planes.shape[1:]
    x1, y1, x2, y2 = (int(value) for value in box)
    width, height = x2 - x1 + 1, y2 - y1 + 1
    if width < 1 or height < 1:
        return
    left, top = max(x1, 1), max(y1, 1)
    right, bottom = min(x2, n_columns), min(y2, n_rows)
    if left > right or top > bottom:
        return
    size = out.shape[1]
    shrink = width >= size and height >= size
    rows = area_matrix(height, size, shrink)[:, top - y1 : bottom - y1 + 1]
    columns = area_matrix(width, size, shrink)[:, left - x1 : right - x1 + 1]
    part = planes[:, top - 1 : bottom, left - 1 : right].astype(np.float32, copy=False)
    np.matmul(np.matmul(rows, part), columns.T, out=out)


def _valid(box: Array) -> bool:
    return bool(np.isfinite(box).all() and box[2] > box[0] and box[3] > box[1])


def _face(box: Array, score: float, landmarks: Array) -> Face:
    x1, y1, x2, y2 = (float(value) for value in box)
    return Face((x1, y1, x2, y2), float(score), tuple((float(x), float(y)) for x, y in landmarks))
