"""YuNet: faces and five landmarks by one small network (Wu, Peng and Yu 2023, "YuNet: A Tiny Millisecond-level Face Detector").

The network has cells of 8, 16 and 32 pixels. A cell in column c and row r of stride s predicts a score
√(class · objectness), a centre ((c + dx)·s, (r + dy)·s), a size (eʷ·s, eʰ·s) and five points ((c + x)·s, (r + y)·s).
Plain ONNX Runtime always computes it in float32, because photos have all sizes and other runtimes compile for each.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from facespace.detection.nms import non_maximum_suppressions
from facespace.detection.yunet_network import FILE, STRIDES, yunet_network
from facespace.faces.face import Face, Point, overlaps
from facespace.io.image import Source, are_several, as_rgb
from facespace.io.resizing import resized
from facespace.runtime.cores import usable_cores
from facespace.runtime.devices import Device
from facespace.runtime.forks import call_after_fork
from facespace.runtime.onnx_network import OnnxNetwork

_IOU = 0.3  # if two boxes overlap by more, only the one with the better score is kept
_SMALLEST = 20.0  # side in pixels of the smallest face that the network finds reliably
_REPORTED = 0.55  # smallest size of a reported face, as a fraction of `min_size`
# The network rarely finds faces of 500 px and more, and never those of 800 px. So photos in which such a face fits are
# searched a second time with a shorter side of `_REDUCED_SIDE`. The second search counts only for faces that have at
# least `_LARGE_FACE` pixels in the first.
_REDUCED_SIDE = 180.0
_LARGE_FACE = 400.0
_ROOM_FOR_LARGE = 480.0  # photos whose shorter side is longer than this are searched a second time
_WELL_PLACED = 0.88  # from this score on, the box of the full search is more exact than that of the second search
_INSIDE = 0.8  # a box with a larger fraction inside another box is a part of that face
# Some faces are detected again on square patches, in which their longer side has `_PATCH_FACE` pixels: small faces, to
# place their landmarks better, and uncertain ones, to check that they are faces.
_SMALL_FACE = 36.0
_CERTAIN = 0.8
_CONFIRMED = 0.4  # score on the patch that an uncertain face must reach, or `min_score` if that is less
_PATCH_FACE = 72.0
_PATCH = 128
_PATCHES = 8
_PATCH_SCORE = 0.3
_PATCH_IOU = 0.4
_VOTE_POWER = 64  # a cell's landmarks are weighted by its score relative to the best one, to this power
_VOTE_IOU = 0.7  # landmarks are averaged over the boxes that overlap the best one by more than this
_TINY_PHOTO = 160.0  # photos whose longer side is shorter than this are enlarged for the search
_MAX_PIXELS = 6_000_000  # of one search, which takes about 50 bytes of memory a pixel
# Photos that are downscaled for the search may be downscaled further. The network then gives smaller faces low scores,
# from `_CANDIDATE` on, and a second detection on patches separates them from false positives. With sides `_SMALLER` times
# shorter it finds as many faces of each size (benchmarks/large_jpegs.py).
_SMALLER = 1.45
_FEWER_PIXELS = _MAX_PIXELS / _SMALLER**2
_CANDIDATE = 0.15
_PROMOTED = 0.7  # score on the patch that a face must reach whose first score was below `min_score`
_NEARLY = 0.8  # a reduced photo is not resized again if the search needs at least this fraction of its size
_BATCH_PIXELS = 600_000  # small photos of one size are searched together, up to this many pixels
_UNEVEN = 1.15  # a batch with more than this many times a core's equal share of the work is computed by all cores
_ONE_CORE_PIXELS = 4_000_000  # larger searches use all cores, one after the other, so that memory stays bounded

Pixels = npt.NDArray[np.uint8]


class _Search(NamedTuple):
    """Represents one run of the network over a photo at one `size` (height, width).

    `photo` is the photo's number. Faces are candidates if their longer side has at least `min_side` pixels and their
    score is at least `min_score`. If `min_score` is 0, the detector's `min_score` applies.
    """

    photo: int
    pixels: Pixels
    size: tuple[int, int]
    min_side: float
    min_score: float = 0.0

    @property
    def scale(self) -> npt.NDArray[np.float64]:
        """The scale (2,) of x and y."""
        return np.array([self.size[1] / self.pixels.shape[1], self.size[0] / self.pixels.shape[0]])

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width rounded up to multiples of the largest stride, as the network requires."""
        return -(-self.size[0] // STRIDES[-1]) * STRIDES[-1], -(-self.size[1] // STRIDES[-1]) * STRIDES[-1]

    def resized(self) -> Pixels:
        if self.size == self.pixels.shape[:2]:
            return self.pixels
        height, width = self.pixels.shape[:2]
        step, first = _row_step(height, self.size[0])
        rows = self.pixels[first::step]
        return resized(rows, self.size, box=(0, 0, width, min(height / step, len(rows))), reducing_gap=1.0)


class _Found(NamedTuple):
    """Represents candidates in one photo: boxes (n,4), scores (n,), landmarks and `Face.crop_points`, both (n,5,2)."""

    boxes: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    landmarks: npt.NDArray[np.float64]
    crop_points: npt.NDArray[np.float64]


class YuNet:
    """The YuNet detector.

    `min_size`: side in pixels of the smallest face to look for. At 20 a photo is searched at its full size. A larger
    value downscales the photo first, which is faster; a smaller one enlarges it. Boxes vary by a few pixels, so faces
    are reported from 0.55 times this size on, measured by the longer side. A search takes at most 6 megapixels; larger
    photos are downscaled. `min_score`: the score that a face must reach. `device`: see `OnnxNetwork`.
    """

    def __init__(self, *, min_size: float = 20, min_score: float = 0.6, device: Device = "auto") -> None:
        if not min_size >= 2:
            raise ValueError(f"min_size must be at least 2 pixels, got {min_size}")
        if not 0 < min_score < 1:
            raise ValueError(f"min_score must be between 0 and 1, got {min_score}")
        self.min_size = float(min_size)
        self.min_score = float(min_score)
        self._device: Device = device
        self._one_core = self._network(side_by_side=True)
        self.after_fork()
        call_after_fork(self)

    def after_fork(self) -> None:
        """Create the threads; called at the start, and again in a child process after a fork."""
        self._pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="facespace-yunet")

    @property
    def runtime(self) -> str:
        """The runtime that computes the network: `onnxruntime` or `cuda`."""
        return self._one_core.runtime

    @functools.cached_property
    def _all_cores(self) -> OnnxNetwork:
        """The network for single and large photos, compiled at its first use."""
        return self._network(side_by_side=False)

    def _network(self, *, side_by_side: bool) -> OnnxNetwork:
        return OnnxNetwork(
            yunet_network(),
            source=FILE,
            precision="float32",
            device=self._device,
            runtime="onnxruntime",
            side_by_side=side_by_side,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        kind: Any = type(self)
        return functools.partial(
            _created_again, kind, min_size=self.min_size, min_score=self.min_score, device=self._device
        ), ()

    def detect(self, image: Source) -> list[Face]:
        """Return the faces of one image, best score first; an empty list if it shows no face.

        The image is (H,W,3) uint8 RGB, or anything else that `facespace.read` takes: a path, a PIL image, a gray array.
        Raises `ImageError`, `TypeError` and `ValueError` as `io.image.as_rgb` does.
        """
        pixels = as_rgb(image)
        parts = [found for search in self._searches(0, pixels) for found in self._run(self._all_cores, [search])]
        return self._faces([pixels], [parts])[0]

    def detect_many(self, images: Iterable[Source]) -> list[list[Face]]:
        """Return the faces of images of any sizes. Small images of one size form a batch; batches run in parallel."""
        if not are_several(images):
            raise TypeError(f"detect_many takes several images; got {type(images).__name__} (detect takes one image)")
        photos = [as_rgb(image) for image in images]
        return self.detect_reduced(photos, [1] * len(photos))

    def least_scale(self, height: int, width: int) -> float:
        """Return the least scale at which a photo of this size may be decoded: the scale of its search, at most 1."""
        return min(1.0, self._scale(height, width))

    def detect_reduced(self, photos: Sequence[Pixels], reductions: Sequence[int]) -> list[list[Face]]:
        """Return the faces of photos (H,W,3), each decoded at 1/n of its full size, where `reductions` gives its n.

        `min_size` refers to the photos at full size. Coordinates refer to the reduced photos.
        """
        searches = [
            search
            for k, (pixels, n) in enumerate(zip(photos, reductions, strict=True))
            for search in self._searches(k, pixels, n)
        ]
        batches = sorted(_batches(searches), key=_n_pixels, reverse=True)
        # Each core computes its own batch, the largest first. A batch that would take one core much longer than the others
        # is computed by all cores, which is less efficient because they wait for each other at every layer.
        most = min(_ONE_CORE_PIXELS, _UNEVEN * sum(map(_n_pixels, batches)) / usable_cores())
        large = [batch for batch in batches if _n_pixels(batch) > most]
        small = batches[len(large) :]
        found = [self._run(self._all_cores, batch) for batch in large]
        found += self._pool.map(functools.partial(self._run, self._one_core), small)
        parts: list[list[_Found]] = [[] for _ in photos]
        for batch, of_batch in zip(large + small, found, strict=True):
            for search, of_search in zip(batch, of_batch, strict=True):
                parts[search.photo].append(of_search)
        return self._faces(photos, parts, reductions)

    def boxes(self, image: Pixels) -> npt.NDArray[np.float32]:
        """Return the network's raw boxes (M,4) of an image whose sides are multiples of 32; the self-test compares them."""
        boxes: npt.NDArray[np.float32] = self._all_cores.run(image[None])[1][0, :4].T
        return boxes

    def _searches(self, photo: int, pixels: Pixels, reduction: int = 1) -> list[_Search]:
        """Return the main search of a photo, and one at a smaller scale if the photo has room for large faces."""
        scale, shorter = self._scale_here(pixels, reduction), min(pixels.shape[:2])
        height, width = (side * reduction for side in pixels.shape[:2])
        fewer = self._scale(height, width) < self._full_scale(height, width)
        min_score = min(self.min_score, _CANDIDATE) if fewer else 0.0
        searches = [_search(photo, pixels, scale, _REPORTED * self.min_size / reduction, min_score)]
        if shorter * scale > _ROOM_FOR_LARGE:
            searches.append(_search(photo, pixels, _REDUCED_SIDE / shorter, _LARGE_FACE / scale))
        return searches

    def _full_scale(self, height: int, width: int) -> float:
        """Return the scale at which the network finds faces of `min_size` reliably."""
        enlarged = max(1.0, min(_TINY_PHOTO / max(height, width), 3.0))  # faces in thumbnails are small
        # Photos are padded to at least the largest stride in both directions, which counts as pixels too.
        most = min(math.sqrt(_MAX_PIXELS / (height * width)), _MAX_PIXELS / (STRIDES[-1] * max(height, width)))
        return float(min(enlarged * _SMALLEST / self.min_size, most))

    def _scale(self, height: int, width: int) -> float:
        """Return the scale at which a photo is searched."""
        full = self._full_scale(height, width)
        if full >= 1:
            return full
        return min(full, max(full / _SMALLER, math.sqrt(_FEWER_PIXELS / (height * width))))

    def _scale_here(self, pixels: Pixels, reduction: int) -> float:
        """Return the scale of the search relative to a photo that was decoded at 1/`reduction` of its size."""
        scale = self._scale(pixels.shape[0] * reduction, pixels.shape[1] * reduction) * reduction
        return 1.0 if reduction > 1 and _NEARLY <= scale <= 1 else scale

    def _run(self, network: OnnxNetwork, batch: Sequence[_Search]) -> list[_Found]:
        """Run the network once for searches that share a padded size; return the faces of each without duplicates."""
        images = np.empty((len(batch), *batch[0].padded, 3), np.uint8)
        for image, search in zip(images, batch, strict=True):
            height, width = search.size
            image[:height, :width] = search.resized()
            image[height:] = image[:height, width:] = 0
        found = []
        least_score = min(search.min_score or self.min_score for search in batch)
        for search, candidates in zip(batch, _candidates(network, images, least_score), strict=True):
            large_enough = _sides(candidates) / max(search.scale) >= search.min_side
            large = _chosen(candidates, large_enough & (candidates.scores >= (search.min_score or self.min_score)))
            found.append(
                large if search.size == search.pixels.shape[:2] else _moved(large, 1 / search.scale, np.zeros(2))
            )
        return _suppressed(found)

    def _refined(
        self, photos: Sequence[Pixels], found: Sequence[_Found], reductions: Sequence[int] | None = None
    ) -> list[_Found]:
        """Detect small and uncertain faces a second time, on patches of their photos, and return the faces of each photo.

        Small faces get the landmarks found on the patch. On a face of 15 px, a landmark that is wrong by one pixel
        rotates the crop by ten degrees; with landmarks from patches, the embeddings of the same small face in two
        copies of a photo are a third more similar. Uncertain faces that are not detected on their patch are dropped:
        most are hands, hair or backs of heads. Small candidates below `min_score` become faces, with the box and score
        of the patch, if they reach `_PROMOTED` there.
        """
        small = [
            self._small(pixels, one, n)
            for pixels, one, n in zip(photos, found, reductions or [1] * len(photos), strict=True)
        ]
        worth = [is_small | (one.scores >= self.min_score) for is_small, one in zip(small, found, strict=True)]
        found = [_chosen(one, rows) for one, rows in zip(found, worth, strict=True)]
        small = [is_small[rows] for is_small, rows in zip(small, worth, strict=True)]
        again = [
            (k, row)
            for k, one in enumerate(found)
            for row in np.flatnonzero(small[k] | (one.scores < _CERTAIN)).tolist()
        ]
        found = [_Found(*(part.copy() for part in one)) for one in found]
        kept = [np.ones(len(one.scores), bool) for one in found]
        placed_again: set[int] = set()  # photos with candidates that became faces
        running = []
        n_together = max(1, min(_PATCHES, -(-len(again) // usable_cores())))
        for start in range(0, len(again), n_together):
            part = again[start : start + n_together]
            boxes = np.stack([found[k].boxes[row] for k, row in part])
            scales = _PATCH_FACE / (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
            corners = boxes.reshape(-1, 2, 2).mean(axis=1) - _PATCH / 2 / scales[:, None]
            patches = [_patch(photos[k], *one) for (k, _), *one in zip(part, corners, scales, strict=True)]
            run = self._pool.submit(_candidates, self._one_core, np.stack(patches), _PATCH_SCORE)
            running.append((part, boxes, corners, scales, run))
        for part, boxes, corners, scales, run in running:
            for (k, row), box, corner, scale, candidates in zip(
                part, boxes, corners, scales, run.result(), strict=True
            ):
                seen = _moved(candidates, np.full(2, 1 / scale), corner)
                same = np.flatnonzero(overlaps(box[None], seen.boxes)[0] > _PATCH_IOU)
                score = seen.scores[same].max(initial=0)
                if len(same) and small[k][row]:
                    points = _means(seen, same[[seen.scores[same].argmax()]])[0]
                    found[k].landmarks[row] = found[k].crop_points[row] = points
                before = found[k].scores[row]
                kept[k][row] = before >= _CERTAIN or score >= min(_CONFIRMED, self.min_score)
                if before < self.min_score:
                    kept[k][row] = score >= max(_PROMOTED, self.min_score)
                    if kept[k][row]:
                        found[k].boxes[row] = seen.boxes[same[seen.scores[same].argmax()]]
                        found[k].scores[row] = score
                        placed_again.add(k)
        found = [_chosen(one, rows) for one, rows in zip(found, kept, strict=True)]
        return [_without_duplicates(one) if k in placed_again else one for k, one in enumerate(found)]

    def _small(self, pixels: Pixels, found: _Found, reduction: int = 1) -> npt.NDArray[np.bool_]:
        """Return a mask (n,) of the faces that are small in the search of their photo."""
        small: npt.NDArray[np.bool_] = _sides(found) * min(self._scale_here(pixels, reduction), 1.0) < _SMALL_FACE
        return small

    def _faces(
        self, photos: Sequence[Pixels], parts: Sequence[Sequence[_Found]], reductions: Sequence[int] | None = None
    ) -> list[list[Face]]:
        """Combine the results of each photo's searches into its faces."""
        return [
            [
                Face(tuple(box.tolist()), float(score), _points(landmarks), crop_points=_points(crop_points))
                for box, score, landmarks, crop_points in zip(*one, strict=True)
            ]
            for one in self._refined(photos, [_joined(part) for part in parts], reductions)
        ]


def _candidates(network: OnnxNetwork, images: Pixels, min_score: float) -> list[_Found]:
    """Return the candidates with at least `min_score` in each image (N,H,W,3), before non-maximum suppression."""
    height, width = images.shape[1:3]
    scores, numbers = network.run(images)
    strides = np.repeat(STRIDES, [(height // s) * (width // s) for s in STRIDES])
    first = np.searchsorted(strides, strides)  # for each cell, the number of its stride's first cell
    found = []
    for k in range(len(images)):
        cells = np.flatnonzero(scores[k] >= min_score)
        stride = strides[cells].astype(np.float64)
        row, column = np.divmod(cells - first[cells], width // strides[cells])
        corner = np.stack([column, row], axis=1)
        boxes, landmarks = np.split(numbers[k][:, cells].T.astype(np.float64), [4], axis=1)
        centre = (corner + boxes[:, :2]) * stride[:, None]
        half = np.exp(boxes[:, 2:]) * stride[:, None] / 2
        points = (corner[:, None] + landmarks.reshape(-1, 5, 2)) * stride[:, None, None]
        here = np.concatenate([centre - half, centre + half], axis=1)
        good = np.isfinite(here).all(axis=1) & (half > 0).all(axis=1) & np.isfinite(points).all(axis=(1, 2))
        found.append(_Found(here[good], scores[k, cells].astype(np.float64)[good], points[good], points[good]))
    return found


def _moved(found: _Found, scale: npt.NDArray[np.float64], shift: npt.NDArray[np.float64]) -> _Found:
    """Map all coordinates p to p · scale + shift, both (2,)."""
    points = found.landmarks * scale + shift, found.crop_points * scale + shift
    return _Found((found.boxes.reshape(-1, 2, 2) * scale + shift).reshape(-1, 4), found.scores, *points)


def _patch(pixels: Pixels, corner: npt.NDArray[np.float64], scale: float) -> Pixels:
    """Return the square patch of a photo with this upper left `corner`, resized by `scale`; black outside the photo."""
    side = _PATCH / scale
    low, high = np.floor(corner).astype(int), np.ceil(corner + side).astype(int)
    x, y = corner - low
    step, first = _row_step(side, _PATCH)
    rows = np.arange(low[1] + first, high[1], step)
    inside = (rows >= 0) & (rows < len(pixels))
    part = np.zeros((len(rows), high[0] - low[0], 3), np.uint8)
    x1, x2 = np.clip([low[0], high[0]], 0, pixels.shape[1])
    part[inside, x1 - low[0] : x2 - low[0]] = pixels[rows[inside], x1:x2]
    box = (x, y / step, x + side, min((y + side) / step, len(rows)))
    return resized(part, (_PATCH, _PATCH), box=box, reducing_gap=1.0)


def _row_step(side: float, size: int) -> tuple[int, int]:
    """Return (step, first): to resize an image from `side` to `size` rows, use every `step`-th row from row `first` on.

    At least two of the used rows still make one output row if the image becomes much smaller. So skipping the other
    rows does not change the result much, and it saves most of the time.
    """
    step = max(1, math.floor(side / size / 2))
    return step, (step - 1) // 2


def _means(seen: _Found, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the landmarks (n,5,2) of the faces in these rows: weighted means over all cells that detect the same face.

    The cells' errors are partly independent, so crops aligned to mean landmarks give a person more similar embeddings.
    """
    near = (overlaps(seen.boxes[rows], seen.boxes) > _VOTE_IOU) * (
        seen.scores / seen.scores[rows][:, None]
    ) ** _VOTE_POWER
    near[np.arange(len(rows)), rows] = 1.0  # even if the box has no area
    means: npt.NDArray[np.float64] = near / near.sum(axis=1, keepdims=True) @ seen.landmarks.reshape(-1, 10)
    return means.reshape(len(rows), 5, 2)


def _points(points: npt.NDArray[np.float64]) -> tuple[Point, ...]:
    return tuple((x, y) for x, y in points.tolist())


def _sides(found: _Found) -> npt.NDArray[np.float64]:
    """Return the longer side (n,) of each box."""
    longer: npt.NDArray[np.float64] = (found.boxes[:, 2:] - found.boxes[:, :2]).max(axis=1, initial=0)
    return longer


def _joined(parts: Sequence[_Found]) -> _Found:
    """Merge the results of a photo's searches, without duplicates, best score first."""
    full, *reduced = parts
    for large in reduced:
        full = _merged(full, large)
    return _chosen(full, np.argsort(-full.scores, kind="stable"))


def _suppressed(found: Sequence[_Found]) -> list[_Found]:
    """Return the candidates of each image that non-maximum suppression keeps, with `crop_points` as in `_means`."""
    rows = non_maximum_suppressions([one.boxes for one in found], [one.scores for one in found], _IOU, end_pixels=False)
    return [
        _chosen(one, kept)._replace(crop_points=_means(one, kept)) if len(kept) else _chosen(one, kept)
        for one, kept in zip(found, rows, strict=True)
    ]


def _without_duplicates(found: _Found) -> _Found:
    """Apply non-maximum suppression, best score first."""
    (rows,) = non_maximum_suppressions([found.boxes], [found.scores], _IOU, end_pixels=False)
    return _chosen(found, rows)


def _chosen(found: _Found, rows: npt.NDArray[Any]) -> _Found:
    return _Found(*(part[rows] for part in found))


def _merged(full: _Found, large: _Found) -> _Found:
    """Merge the faces of the full search and the search for large faces, without duplicates.

    If two faces overlap, the face with the better score is kept. But if the score in the full search is at least
    `_WELL_PLACED`, that face is kept, because the boxes of the full search are more exact. A face of the full search
    inside a large face with a better score is dropped, because it is a part of that face.
    """
    if not len(large.scores) or not len(full.scores):
        return _Found(*(np.concatenate(parts) for parts in zip(full, large, strict=True)))
    common = overlaps(large.boxes, full.boxes)
    surer = large.scores[:, None] > full.scores[None]
    inside = _share_inside(full.boxes, large.boxes).T > _INSIDE
    beaten = (common > _IOU) & ~(surer & (full.scores < _WELL_PLACED))
    large_kept: npt.NDArray[np.bool_] = np.logical_not(beaten.any(axis=1), dtype=np.bool_)
    worse = ((common > _IOU) | inside) & surer & large_kept[:, None]
    full_kept: npt.NDArray[np.bool_] = np.logical_not(worse.any(axis=0), dtype=np.bool_)
    full, large = _chosen(full, full_kept), _chosen(large, large_kept)
    return _Found(*(np.concatenate(parts) for parts in zip(full, large, strict=True)))


def _share_inside(boxes: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the fraction (N,M), 0 to 1, of each of the `boxes` (N,4) that is inside each of the `others` (M,4)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    share: npt.NDArray[np.float64] = np.maximum(high - low, 0).prod(axis=2) / area[:, None]
    return share


def _created_again(kind: type[YuNet], **options: Any) -> YuNet:
    return kind(**options)


def _search(photo: int, pixels: Pixels, scale: float, min_side: float, min_score: float = 0.0) -> _Search:
    height, width = pixels.shape[:2]
    return _Search(photo, pixels, (max(1, round(height * scale)), max(1, round(width * scale))), min_side, min_score)


def _n_pixels(batch: Sequence[_Search]) -> int:
    return sum(search.size[0] * search.size[1] for search in batch)


def _batches(searches: Iterable[_Search]) -> Iterator[list[_Search]]:
    """Yield batches of searches with the same padded size, up to `_BATCH_PIXELS`."""
    of_size: dict[tuple[int, int], list[_Search]] = {}
    for search in searches:
        of_size.setdefault(search.padded, []).append(search)
    for (height, width), members in of_size.items():
        n = max(1, _BATCH_PIXELS // (height * width))
        yield from (members[start : start + n] for start in range(0, len(members), n))
