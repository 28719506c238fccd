"""MTCNN: faces and five landmarks by a cascade of three networks (Zhang et al. 2016).

The arithmetic is that of the 2018 program, so its boxes and crops are reproduced: P-Net scans an image pyramid,
R-Net refines its candidates, O-Net refines again and places the landmarks. Boxes count pixels from 1 and include
both ends until the result is made.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from facespace.face import Face
from facespace.mtcnn_networks import output_network, proposal_network, refinement_network
from facespace.network import Device, Network, usable_cores
from facespace.pyramid import CELL, layout
from facespace.resample import area_crop, area_resize
from facespace.suppression import non_maximum_suppression, non_maximum_suppressions

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
_BATCHES = (1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96)
_CHUNK_IMAGES = 6
_CHUNK_PIXELS = 400_000
_LARGE_AT_ONCE = 2  # photos beyond that size, which memory is counted for
_FLOAT_PIXELS = 16_000_000  # images up to this size are kept in float32 while they are scanned


class _Threads(NamedTuple):
    """How a cascade works: `each` applies a function to many inputs, `run` computes a network."""

    each: Callable[..., Iterator[Any]]
    run: Callable[..., list[npt.NDArray[np.float32]]]


class _Candidates(NamedTuple):
    """What P-Net found on one canvas, n cells: boxes (n,4), offsets (n,4), scores, level, and cell (row, column)."""

    boxes: Array
    offsets: Array
    scores: Array
    level: npt.NDArray[np.int64]
    cells: npt.NDArray[np.int64]


class MTCNN:
    """The detector.

    `min_size`: side in pixels of the smallest face looked for; raising it is the way to be faster on large photos.
    `thresholds`: probabilities a candidate must reach in P-Net and exceed in R-Net and O-Net. `factor`: ratio of
    successive pyramid levels. The defaults are those of the 2018 programs. `device`: see `Network`.
    """

    def __init__(
        self,
        *,
        min_size: float = 20,
        thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7),
        factor: float = 0.709,
        device: Device = "auto",
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
        self._pnet = proposal_network(device)
        self._rnet = refinement_network(device)
        self._onet = output_network(device)
        # Drivers take whole photos or several small ones; a large one hands its pieces to the pool. They are apart, as a
        # thread that waits for its own pool may wait forever.
        self._drivers = ThreadPoolExecutor(usable_cores(), thread_name_prefix="facespace-detect")
        self._pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="facespace-detect-part")
        self._large = threading.Semaphore(_LARGE_AT_ONCE)
        self._spread = _Threads(self._pool.map, Network.run)
        # Between the networks are many short NumPy calls. Threads that make them at once hand the interpreter's lock to
        # and fro and take longer for it, so only half of the drivers do while the others compute.
        self._turns = threading.Semaphore(max(1, usable_cores() // 2))
        self._alone = _Threads(map, self._run_between_turns)

    @property
    def runtime(self) -> str:
        """What computes: `openvino` or `onnxruntime`."""
        return self._pnet.runtime

    def detect(self, image: npt.NDArray[np.uint8]) -> list[Face]:
        """The faces of one image (H,W,3) uint8 RGB; an empty list where there is none."""
        with _BLAS.one_thread():
            return self._cascade([_planes(image)], self._spread)[0]

    def detect_many(self, images: Iterable[npt.NDArray[np.uint8]]) -> list[list[Face]]:
        """`detect` for images of any sizes: the same faces, candidates of several images in one batch."""
        with _BLAS.one_thread():
            return [faces for part in self._drivers.map(self._detect_chunk, _chunks(images)) for faces in part]

    def _detect_chunk(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[list[Face]]:
        if images[0].shape[0] * images[0].shape[1] <= _CHUNK_PIXELS:
            with self._turns:
                return self._cascade([_planes(image) for image in images], self._alone)
        with self._large:
            return self._cascade([_planes(images[0])], self._spread)

    def _run_between_turns(self, network: Network, inputs: npt.NDArray[Any]) -> list[npt.NDArray[np.float32]]:
        self._turns.release()
        try:
            return network.run(inputs)
        finally:
            self._turns.acquire()

    def _cascade(self, images: Sequence[npt.NDArray[Any]], threads: _Threads) -> list[list[Face]]:
        """The faces of images (3,H,W)."""
        proposed = [self._propose(image, threads) for image in images]
        owner = np.repeat(np.arange(len(images)), [len(boxes) for boxes in proposed])
        boxes = _squared(np.concatenate(proposed))

        head = self._classify(self._rnet, images, owner, boxes, threads)
        scores = _probability(head[:, 0]).astype(np.float64)
        passed = np.flatnonzero(scores > self.thresholds[1])
        of_image = np.split(passed, np.searchsorted(owner[passed], np.arange(1, len(images))))
        kept = non_maximum_suppressions([boxes[part] for part in of_image], [scores[part] for part in of_image], 0.7)
        keep = np.concatenate([part[chosen] for part, chosen in zip(of_image, kept, strict=True)])
        owner = owner[keep]
        boxes = _squared(_regressed(boxes[keep], head[keep, 1:5]))

        head = self._classify(self._onet, images, owner, boxes, threads)
        scores = _probability(head[:, 0]).astype(np.float64)
        keep = np.flatnonzero(scores > self.thresholds[2])
        owner, boxes, head, scores = owner[keep], boxes[keep], head[keep], scores[keep]
        width, height = (boxes[:, 2:] - boxes[:, :2] + 1).T[:, :, None]
        landmarks = np.stack(
            [width * head[:, 5:10] + boxes[:, :1] - 1, height * head[:, 10:15] + boxes[:, 1:2] - 1], axis=2
        )
        boxes = _regressed(boxes, head[:, 1:5])
        results = []
        for part in np.split(np.arange(len(owner)), np.searchsorted(owner, np.arange(1, len(images)))):
            keep = part[non_maximum_suppression(boxes[part], scores[part], 0.7, overlap="min")]
            results.append([_face(boxes[k], scores[k], landmarks[k]) for k in keep if _valid(boxes[k])])
        return results

    def _propose(self, planes: npt.NDArray[Any], threads: _Threads) -> Array:
        """Candidate boxes (n,4) of P-Net, regressed, not yet square."""
        _, height, width = planes.shape
        plan = layout(height, width, self.min_size, self.factor)
        levels = list(
            threads.each(
                lambda level: area_resize(planes, np.empty((3, level.height, level.width), np.uint8)), plan.levels
            )
        )

        def scan(index: int) -> tuple[npt.NDArray[np.float32], _Candidates]:
            mask = plan.masks[index]
            canvas = np.zeros((1, 4, *mask.shape), np.uint8)
            canvas[0, 3] = mask
            for tile in plan.on_canvas(index):
                part = levels[tile.level][:, tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
                canvas[0, :3, tile.y : tile.y + tile.height, tile.x : tile.x + tile.width] = part
            (heads,) = threads.run(self._pnet, canvas)
            return heads[0], self._decode(heads[0], plan.owners[index], plan)

        scanned = list(threads.each(scan, range(len(plan.masks))))
        if not any(len(found.boxes) for _, found in scanned):
            return np.empty((0, 4))
        parts = zip(*(found for _, found in scanned), strict=True)
        boxes, offsets, scores, level, cells = (np.concatenate(part) for part in parts)
        # Where a level has one candidate alone, the 2018 program reads its offsets from the mirrored column. That is a
        # slip, and it is kept: it decides the crop of 8 in 1,000 photos of LFW, and with it what networks were shown.
        for lone in np.flatnonzero(np.bincount(level) == 1):
            index = int(np.flatnonzero(level == lone)[0])
            canvas, y, x = plan.mirrored(int(lone), *cells[index].tolist())
            offsets[index] = scanned[canvas][0][1:, y, x]
        # The 2018 program meets candidates level by level, column by column; that decides between equal scores.
        order = np.lexsort((boxes[:, 1], boxes[:, 0], level))
        starts = np.searchsorted(level[order], np.arange(len(plan.levels) + 1))
        by_level = [order[start:stop] for start, stop in itertools.pairwise(starts) if stop > start]
        kept = non_maximum_suppressions([boxes[part] for part in by_level], [scores[part] for part in by_level], 0.5)
        keep = np.concatenate([part[chosen] for part, chosen in zip(by_level, kept, strict=True)])
        keep = keep[non_maximum_suppression(boxes[keep], scores[keep], 0.7)]
        boxes, offsets = boxes[keep], offsets[keep]
        result: Array = boxes + offsets * np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        return result

    def _decode(self, heads: npt.NDArray[np.float32], owner: npt.NDArray[np.int32], plan: Any) -> _Candidates:
        """The cells of one canvas that pass P-Net's threshold."""
        # The sigmoid of few: those whose logit may pass, and whose cell is part of a tile.
        low = self.thresholds[0]
        cells = np.flatnonzero(heads[0] > np.log(low / (1 - low)) - 0.01)
        scores = _probability(heads[0].ravel()[cells])
        tiles = owner.ravel()[cells]
        passed = (scores >= low) & (tiles >= 0)
        scores = scores[passed]
        rows, columns = np.divmod(cells[passed], owner.shape[1])
        level, dy, dx, scale = plan.origins[tiles[passed]].T
        corner = np.stack([_STRIDE * columns + dx, _STRIDE * rows + dy], axis=1)
        boxes = np.trunc(np.hstack([corner + 1, corner + CELL]) / scale[:, None])
        offsets = heads[1:, rows, columns].T.astype(np.float64)
        cells = corner[:, ::-1].astype(np.int64) // _STRIDE
        return _Candidates(boxes, offsets, scores.astype(np.float64), level.astype(np.int64), cells)

    def _classify(
        self,
        network: Network,
        images: Sequence[npt.NDArray[Any]],
        owner: npt.NDArray[np.int64],
        boxes: Array,
        threads: _Threads,
    ) -> npt.NDArray[np.float32]:
        """The network's outputs for n boxes; box k is of image number `owner[k]`."""
        side = int(network.inputs["crops"][2])
        pending = list(zip(owner.tolist(), boxes.astype(np.int64).tolist(), strict=True))

        def run(start: int) -> npt.NDArray[np.float32]:
            part = pending[start : start + _BATCHES[-1]]
            # A runtime compiles for each batch size it meets, so few are used.
            n = min(size for size in _BATCHES if size >= len(part))
            crops = np.empty((n, 3, side, side), np.float32)
            crops[len(part) :] = 0
            for crop, (k, (x1, y1, x2, y2)) in zip(crops, part, strict=False):
                area_crop(images[k], (y1 - 1, x1 - 1, y2 - y1 + 1, x2 - x1 + 1), crop)
            return threads.run(network, crops)[0][: len(part)]

        width = int(network.outputs["heads"][1])
        return np.concatenate(
            [np.empty((0, width), np.float32), *threads.each(run, range(0, len(pending), _BATCHES[-1]))]
        )


def _chunks(images: Iterable[npt.NDArray[np.uint8]]) -> Iterator[list[npt.NDArray[np.uint8]]]:
    """Groups of images worth one batch, bounded in number and in pixels."""
    chunk: list[npt.NDArray[np.uint8]] = []
    pixels = 0
    for image in images:
        _check(image)
        size = image.shape[0] * image.shape[1]
        if chunk and (len(chunk) >= _CHUNK_IMAGES or pixels + size > _CHUNK_PIXELS):
            yield chunk
            chunk, pixels = [], 0
        chunk.append(image)
        pixels += size
    if chunk:
        yield chunk


def _check(image: npt.NDArray[np.uint8]) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image must be (H, W, 3) uint8 RGB; got {image.dtype} of shape {image.shape}")


def _planes(image: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """The image as (3,H,W), in float32 for the products to come unless that takes too much memory."""
    _check(image)
    dtype: npt.DTypeLike = np.float32 if image.size <= 3 * _FLOAT_PIXELS else np.uint8
    # In two steps: NumPy transposes and converts at once more slowly.
    return np.ascontiguousarray(image.transpose(2, 0, 1)).astype(dtype, copy=False)


def _probability(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """p(face) in float32, like the softmax it stands for."""
    result: npt.NDArray[np.float32] = np.reciprocal(1 + np.exp(-np.clip(logits, -80, 80)))
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
    square: Array = np.trunc(np.hstack([corner, corner + side]))
    return square


def _valid(box: Array) -> bool:
    return bool(np.isfinite(box).all() and box[2] > box[0] and box[3] > box[1])


def _face(box: Array, score: float, landmarks: Array) -> Face:
    x1, y1, x2, y2 = (float(value) for value in box)
    return Face((x1, y1, x2, y2), float(score), tuple((float(x), float(y)) for x, y in landmarks))
