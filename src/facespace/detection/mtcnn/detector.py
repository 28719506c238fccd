"""MTCNN: faces and five landmarks by a cascade of three networks (Zhang et al. 2016).

P-Net scans an image pyramid, R-Net refines its candidates, O-Net refines them again and places the landmarks. The
arithmetic is that of the 2018 program, so its boxes and crops are reproduced. Inside this module boxes count pixels
from 1 and include both end pixels.
"""

from __future__ import annotations

import collections
import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from facespace.detection.mtcnn.area_resize import area_crop, area_resize
from facespace.detection.mtcnn.networks import output_network, proposal_network, refinement_network
from facespace.detection.mtcnn.pyramid import CELL, Layout, layout
from facespace.detection.nms import non_maximum_suppression, non_maximum_suppressions
from facespace.faces.face import Face
from facespace.io.image import Source, are_several, as_rgb
from facespace.runtime.blas_threads import one_blas_thread
from facespace.runtime.cores import usable_cores
from facespace.runtime.devices import Device
from facespace.runtime.forks import call_after_fork
from facespace.runtime.onnx_network import OnnxNetwork

Array = npt.NDArray[np.float64]


_STRIDE = 2
# Crops per call of a network, by their side: few enough that the intermediate values stay in a core's cache. R-Net takes
# 38 µs a crop in batches of 6 and 42 µs in batches of 48; O-Net 233 µs in batches of 4 and 246 µs in batches of 24.
_AT_ONCE = {24: 6, 48: 4}
_CALLS = 12  # calls that a driver makes before it waits for its turn again
_WAITING = 8  # inputs per core that are prepared in advance for the helpers
_CHUNK_IMAGES = 6
_CHUNK_PIXELS = 400_000
_LARGE_AT_ONCE = 2  # images larger than a chunk that are processed at the same time, which bounds memory
_FLOAT_PIXELS = 16_000_000  # images up to this size are kept in float32 while they are scanned


class _Threads(NamedTuple):
    """Represents how a cascade uses threads.

    `each` applies a function to many inputs, like `map`. `run` takes a network and an iterator that prepares its inputs
    one by one, and returns the network's first output for each input.
    """

    each: Callable[..., Iterator[Any]]
    run: Callable[[OnnxNetwork, Iterable[npt.NDArray[Any]]], list[npt.NDArray[np.float32]]]


class _Candidates(NamedTuple):
    """Represents P-Net's n candidates in several photos of one size.

    For each candidate: its box and offsets (n,4), its score (n,), the number of its photo (n,), the pyramid level (n,)
    and the cell (row, column) of that level (n,2).
    """

    boxes: Array
    offsets: Array
    scores: Array
    photo: npt.NDArray[np.int64]
    level: npt.NDArray[np.int64]
    cells: npt.NDArray[np.int64]


class MTCNN:
    """The MTCNN detector.

    `min_size`: side in pixels of the smallest face to look for; a larger value is faster on large photos.
    `thresholds`: the probabilities that a candidate must reach in P-Net and exceed in R-Net and O-Net. `factor`: the
    ratio of successive pyramid levels. The defaults are those of the 2018 programs. `device`: see `OnnxNetwork`.
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
            raise ValueError(f"min_size must be at least 2 pixels, got {min_size}")
        if len(thresholds) != 3 or not all(0 < value < 1 for value in thresholds):
            raise ValueError(f"thresholds must be three probabilities between 0 and 1, got {thresholds}")
        if not 0.1 <= factor <= 0.95:
            raise ValueError(f"factor must be a ratio from 0.1 to 0.95, got {factor}")
        self.min_size = float(min_size)
        self.thresholds = thresholds
        self.factor = float(factor)
        self._device: Device = device
        self._pnet = proposal_network(device)
        self._rnet = refinement_network(device)
        self._onet = output_network(device)
        self.after_fork()
        call_after_fork(self)

    def after_fork(self) -> None:
        """Create threads and locks; called at the start, and again in a child process after a fork."""
        self._n_cores = usable_cores()
        # Drivers process whole photos or several small ones; helpers compute for a driver or a caller. They are separate
        # pools, because a thread that waits for its own pool may wait forever.
        self._drivers = ThreadPoolExecutor(self._n_cores, thread_name_prefix="facespace-detect")
        self._helpers = ThreadPoolExecutor(max(1, self._n_cores - 1), thread_name_prefix="facespace-detect-beside")
        self._large = threading.Semaphore(_LARGE_AT_ONCE)
        # Resizing a large photo is faster with threads. Resizing a small one is many short NumPy calls, which threads would
        # slow down, because they contend for the interpreter's lock.
        self._large_alone = _Threads(self._map_with_helpers, self._run_with_helpers)
        self._small_alone = _Threads(map, self._run_with_helpers)
        # With many small photos, only half of the drivers make NumPy calls at a time, while the others run networks.
        self._turns = threading.Semaphore(max(1, self._n_cores // 2))
        self._together = _Threads(map, self._run_between_turns)

    @property
    def runtime(self) -> str:
        """The runtime that computes the networks: `onnxruntime` or `cuda`."""
        return self._pnet.runtime

    def __reduce__(self) -> tuple[Any, ...]:
        kind: Any = type(self)
        options: dict[str, Any] = {
            "min_size": self.min_size,
            "thresholds": tuple(self.thresholds),
            "factor": self.factor,
        }
        return functools.partial(_created_again, kind, **options, device=self._device), ()

    def detect(self, image: Source) -> list[Face]:
        """Return the faces of one image; an empty list if it shows no face.

        The image is (H,W,3) uint8 RGB, or anything else that `facespace.read` takes: a path, a PIL image, a gray array.
        Raises `ImageError`, `TypeError` and `ValueError` as `io.image.as_rgb` does.
        """
        pixels = as_rgb(image)
        with one_blas_thread():
            return self._cascade([pixels], self._large_alone if _is_large(pixels) else self._small_alone)[0]

    def detect_many(self, images: Iterable[Source]) -> list[list[Face]]:
        """Return the faces of images of any sizes, the same as `detect` finds, with several small images in one batch."""
        if not are_several(images):
            raise TypeError(f"detect_many takes several images; got {type(images).__name__} (detect takes one image)")
        with one_blas_thread():
            return [faces for part in self._drivers.map(self._detect_chunk, _chunks(images)) for faces in part]

    def _detect_chunk(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[list[Face]]:
        if _is_large(images[0]):
            with self._large:
                return self._cascade(images, self._large_alone)
        with self._turns:
            return self._cascade(images, self._together)

    def _map_with_helpers(self, function: Callable[[Any], Any], inputs: Iterable[Any]) -> Iterator[Any]:
        """Apply a function like `map`, with helper threads. This thread makes the inputs and helps to compute."""
        if self._n_cores == 1:
            return map(function, inputs)
        outputs: list[Any] = []
        begun: collections.deque[tuple[int, Any, Future[Any]]] = collections.deque()
        for one in inputs:
            while begun and begun[0][2].done():
                number, _, run = begun.popleft()
                outputs[number] = run.result()
            if len(begun) < _WAITING * self._n_cores:
                begun.append((len(outputs), one, self._helpers.submit(function, one)))
                outputs.append(None)
            else:
                outputs.append(function(one))
        for number, one, run in begun:
            if run.cancel():
                outputs[number] = function(one)
        for number, _, run in begun:
            if not run.cancelled():
                outputs[number] = run.result()
        return iter(outputs)

    def _run_with_helpers(
        self, network: OnnxNetwork, inputs: Iterable[npt.NDArray[Any]]
    ) -> list[npt.NDArray[np.float32]]:
        return list(self._map_with_helpers(lambda one: network.run(one)[0], inputs))

    def _run_between_turns(
        self, network: OnnxNetwork, inputs: Iterable[npt.NDArray[Any]]
    ) -> list[npt.NDArray[np.float32]]:
        outputs = []
        inputs = iter(inputs)
        while part := list(itertools.islice(inputs, _CALLS)):
            self._turns.release()
            try:
                outputs += [network.run(one)[0] for one in part]
            finally:
                self._turns.acquire()
        return outputs

    def _cascade(self, photos: Sequence[npt.NDArray[np.uint8]], threads: _Threads) -> list[list[Face]]:
        """Return the faces of photos (H,W,3). P-Net scans photos of one size together."""
        of_size: dict[tuple[int, ...], list[int]] = {}
        for k, photo in enumerate(photos):
            of_size.setdefault(photo.shape, []).append(k)
        images: list[npt.NDArray[Any]] = [np.empty(0)] * len(photos)
        proposed: list[Array] = [np.empty(0)] * len(photos)
        for members in of_size.values():
            stack = _planes([photos[k] for k in members])
            for k, planes, boxes in zip(members, stack, self._propose(stack, threads), strict=True):
                images[k], proposed[k] = planes, boxes
        owner = np.repeat(np.arange(len(images)), [len(boxes) for boxes in proposed])
        boxes = _squared(np.concatenate(proposed))

        head = self._classify(self._rnet, images, owner, boxes, threads)
        scores = _probability(head[:, 0]).astype(np.float64)
        passed = np.flatnonzero(scores > self.thresholds[1])
        ends = np.searchsorted(owner[passed], np.arange(1, len(images)))
        keep = _suppressed(passed, ends, boxes, scores, 0.7)
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

    def _propose(self, images: npt.NDArray[Any], threads: _Threads) -> list[Array]:
        """Return P-Net's candidate boxes (n,4) for each of K images of one size (K,3,H,W), regressed but not yet square."""
        n_images, _, height, width = images.shape
        plan = layout(height, width, self.min_size, self.factor)
        resized: Iterator[npt.NDArray[np.uint8]] = threads.each(
            lambda level: area_resize(images, np.empty((n_images, 3, level.height, level.width), np.uint8)), plan.levels
        )
        levels: list[npt.NDArray[np.uint8]] = []

        def canvases() -> Iterator[npt.NDArray[np.uint8]]:
            for index, mask in enumerate(plan.masks):
                drawn = np.zeros((n_images, 4, *mask.shape), np.uint8)
                drawn[:, 3] = mask
                for tile in plan.on_canvas(index):
                    levels.extend(itertools.islice(resized, max(0, tile.level + 1 - len(levels))))
                    part = levels[tile.level][
                        ..., tile.top : tile.top + tile.height, tile.left : tile.left + tile.width
                    ]
                    drawn[:, :3, tile.y : tile.y + tile.height, tile.x : tile.x + tile.width] = part
                yield from np.split(drawn, n_images)

        outputs = threads.run(self._pnet, canvases())
        heads = [np.concatenate(outputs[k : k + n_images]) for k in range(0, len(outputs), n_images)]
        boxes, offsets, scores, photo, level, cells = self._decode(heads, plan)
        if not len(boxes):
            return [np.empty((0, 4))] * n_images
        n_sets = n_images * len(plan.levels)
        one_set = photo * len(plan.levels) + level
        # If a level has only one candidate, the 2018 program reads its offsets from the mirrored column. This bug is kept,
        # because it changes the crop of 8 in 1,000 photos of LFW, and networks were trained on such crops.
        for index in np.flatnonzero(np.bincount(one_set)[one_set] == 1).tolist():
            canvas, y, x = plan.mirrored(int(level[index]), *cells[index].tolist())
            offsets[index] = heads[canvas][photo[index], 1:, y, x]
        # The 2018 program lists candidates level by level and column by column; this order decides between equal scores.
        order = np.lexsort((boxes[:, 1], boxes[:, 0], one_set))
        keep = _suppressed(order, np.searchsorted(one_set[order], np.arange(1, n_sets)), boxes, scores, 0.5)
        ends = np.searchsorted(photo[keep], np.arange(1, n_images))
        keep = _suppressed(keep, ends, boxes, scores, 0.7)
        regressed = boxes[keep] + offsets[keep] * np.tile(boxes[keep, 2:] - boxes[keep, :2], 2)
        return np.split(regressed, np.searchsorted(photo[keep], np.arange(1, n_images)))

    def _decode(self, heads: Sequence[npt.NDArray[np.float32]], plan: Layout) -> _Candidates:
        """Return the candidates that reach P-Net's threshold.

        `heads` are P-Net's outputs for K photos, an array (K,5,rows,columns) for each canvas.
        """
        # Compute the sigmoid only of logits that may pass the threshold.
        low = self.thresholds[0]
        least = np.log(low / (1 - low)) - 0.01
        found = [(np.empty((0, 5), np.float32), *np.empty((4, 0), np.int64))]
        for of_canvas, owner in zip(heads, plan.owners, strict=True):
            photo, cells = np.divmod(np.flatnonzero(of_canvas[:, 0] > least), owner.size)
            rows, columns = np.divmod(cells, owner.shape[1])
            found.append((of_canvas[photo, :, rows, columns], photo, rows, columns, owner[rows, columns]))
        numbers, *where = (np.concatenate(parts) for parts in zip(*found, strict=True))
        scores = _probability(numbers[:, 0])
        passed = (scores >= low) & (where[3] >= 0)
        offsets = numbers[passed, 1:].astype(np.float64)
        photo, rows, columns, tiles = (part[passed] for part in where)
        level, dy, dx, scale = plan.origins[tiles].T
        corner = np.stack([_STRIDE * columns + dx, _STRIDE * rows + dy], axis=1)
        boxes = np.trunc(np.hstack([corner + 1, corner + CELL]) / scale[:, None])
        cells = corner[:, ::-1].astype(np.int64) // _STRIDE
        return _Candidates(boxes, offsets, scores[passed].astype(np.float64), photo, level.astype(np.int64), cells)

    def _classify(
        self,
        network: OnnxNetwork,
        images: Sequence[npt.NDArray[Any]],
        owner: npt.NDArray[np.int64],
        boxes: Array,
        threads: _Threads,
    ) -> npt.NDArray[np.float32]:
        """Return the network's outputs for n boxes; box k is in the image with the number `owner[k]`."""
        side = int(network.inputs["crops"][2])
        pending = list(zip(owner.tolist(), boxes.astype(np.int64).tolist(), strict=True))
        at_once = _AT_ONCE[side] * (_CALLS if network.runtime == "cuda" else 1)  # GPUs are faster with larger batches

        def crops() -> Iterator[npt.NDArray[np.float32]]:
            for part in _parts(len(pending), at_once, self._n_cores):
                made = np.empty((len(part), 3, side, side), np.float32)
                for crop, number in zip(made, part, strict=True):
                    k, (x1, y1, x2, y2) = pending[number]
                    area_crop(images[k], (y1 - 1, x1 - 1, y2 - y1 + 1, x2 - x1 + 1), crop)
                yield made

        width = int(network.outputs["heads"][1])
        return np.concatenate([np.empty((0, width), np.float32), *threads.run(network, crops())])


def _parts(n: int, most: int, n_cores: int) -> list[range]:
    """Split `range(n)` into nearly equal parts of at most `most` numbers, larger parts first.

    The number of parts is a multiple of `n_cores`, so that each core gets equally many, or `n` if that is smaller.

    >>> _parts(9, 4, 2)
    [range(0, 3), range(3, 5), range(5, 7), range(7, 9)]
    """
    n_parts = min(n, -(-n // (most * n_cores)) * n_cores)
    ends = [-(-n * k // n_parts) for k in range(n_parts + 1)] if n_parts else [0]
    return [range(start, end) for start, end in itertools.pairwise(ends)]


def _is_large(image: npt.NDArray[np.uint8]) -> bool:
    return bool(image.shape[0] * image.shape[1] > _CHUNK_PIXELS)


@functools.lru_cache(maxsize=1)  # worker processes unpickle the same detector with every task
def _created_again(kind: Callable[..., MTCNN], **options: Any) -> MTCNN:
    return kind(**options)


def _chunks(images: Iterable[Source]) -> Iterator[list[npt.NDArray[np.uint8]]]:
    """Yield groups of images to process together, bounded in number and in pixels."""
    chunk: list[npt.NDArray[np.uint8]] = []
    pixels = 0
    for image in map(as_rgb, images):
        size = image.shape[0] * image.shape[1]
        if chunk and (len(chunk) >= _CHUNK_IMAGES or pixels + size > _CHUNK_PIXELS):
            yield chunk
            chunk, pixels = [], 0
        chunk.append(image)
        pixels += size
    if chunk:
        yield chunk


def _planes(photos: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[Any]:
    """Return K photos of one size as an array (K,3,H,W): float32, which resizing needs, or uint8 for large photos."""
    height, width, _ = photos[0].shape
    planes = np.empty((len(photos), 3, height, width), np.uint8)
    for k, photo in enumerate(photos):
        planes[k] = photo.transpose(2, 0, 1)
    # Two steps are faster than NumPy's transposition and conversion in one.
    return planes.astype(np.float32) if photos[0].size <= 3 * _FLOAT_PIXELS else planes


def _suppressed(
    candidates: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], boxes: Array, scores: Array, threshold: float
) -> npt.NDArray[np.int64]:
    """Return the `candidates` (indices of boxes) that non-maximum suppression keeps.

    `candidates` are split into sets at the positions `ends`, and each set is suppressed by itself.
    """
    sets = [part for part in np.split(candidates, ends) if len(part)]
    kept = non_maximum_suppressions([boxes[part] for part in sets], [scores[part] for part in sets], threshold)
    return np.concatenate([candidates[:0], *(part[chosen] for part, chosen in zip(sets, kept, strict=True))])


def _probability(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the probability of a face: the sigmoid of the difference of the logits of `face` and `not face`."""
    result: npt.NDArray[np.float32] = np.reciprocal(1 + np.exp(-np.clip(logits, -80, 80)))
    return result


def _regressed(boxes: Array, offsets: npt.NDArray[Any]) -> Array:
    """Return boxes (n,4) with each side moved by its offset, in units of the box's width (x2 − x1 + 1) or height."""
    result: Array = boxes + offsets * np.tile(boxes[:, 2:] - boxes[:, :2] + 1, 2)
    return result


def _squared(boxes: Array) -> Array:
    """Return a square for each box (n,4): its side is the box's longer side, its centre the box's centre.

    The coordinates are then truncated to whole pixels.
    """
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
