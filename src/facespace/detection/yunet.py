"""YuNet: faces and five landmarks by one small network (Wu, Peng and Yu 2023, "YuNet: A Tiny Millisecond-level Face Detector").

The network looks at cells of 8, 16 and 32 pixels. A cell in column c and row r of stride s gives a score
√(class · objectness), a centre ((c + dx)·s, (r + dy)·s), a size (eʷ·s, eʰ·s) and five points ((c + x)·s, (r + y)·s).
It is always computed by plain ONNX Runtime in float32: photos come in all sizes, and other runtimes compile for each.
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
from facespace.runtime.forks import tell_after_fork
from facespace.runtime.onnx_network import OnnxNetwork

_IOU = 0.3  # of two boxes that overlap by more, the better stays
_SMALLEST = 20.0  # pixels of a face that the network finds reliably
_REPORTED = 0.55  # share of the wanted size from which a face is reported
# Faces of 500 px and more are found badly, those of 800 px never: photos with room for them are searched a second time,
# with the shorter side this long, and faces of the second search count from this size on in the first.
_REDUCED_SIDE = 180.0
_LARGE_FACE = 400.0
_ROOM_FOR_LARGE = 480.0  # shorter side of a photo from which it is searched a second time
_WELL_PLACED = 0.88  # score from which a face of the full search has its box where it belongs
_INSIDE = 0.8  # share of a box inside another from which it is a part of that face
# Some faces are looked at again on square patches, on which their longer side has `_PATCH_FACE` pixels: small ones, to
# place their landmarks again, and unsure ones, to see whether they are faces.
_SMALL_FACE = 36.0
_SURE = 0.8
_SEEN_AGAIN = 0.4  # score on the patch that an unsure face must reach, or `min_score` where that is less
_PATCH_FACE = 72.0
_PATCH = 128
_PATCHES = 8
_PATCH_SCORE = 0.3
_PATCH_IOU = 0.4
_VOTE_POWER = 64  # of a cell's score over the surest one's: how much its landmarks weigh
_VOTE_IOU = 0.7  # with the surest box, of those whose landmarks are averaged
_TINY_PHOTO = 160.0  # longer side below which a photo is searched enlarged
_MAX_PIXELS = 6_000_000  # of one search; its memory is about 50 bytes a pixel
# Photos that are made smaller for the search need not be searched with so many pixels: the network half sees smaller faces,
# with low scores, and a second look tells them from what is none. With `_SMALLER` times smaller sides and such candidates as
# many faces of each size are found (benchmarks/large_jpegs.py).
_SMALLER = 1.45
_FEWER_PIXELS = _MAX_PIXELS / _SMALLER**2
_CANDIDATE = 0.15
_SEEN_SURELY = 0.7  # score on the patch that a face must reach which did not reach `min_score` before
_NEARLY = 0.8  # of its size from which a photo that was read smaller is searched as it is
_BATCH_PIXELS = 600_000  # small photos of one size are searched together
_UNEVEN = 1.15  # of an equal share of the work: how much one core may have before all cores compute together
_ONE_CORE_PIXELS = 4_000_000  # larger searches take all cores, one after the other, so that memory stays bounded

Pixels = npt.NDArray[np.uint8]


class _Search(NamedTuple):
    """One run of the network over a photo, told by its number, at one size (height, width), for faces of some size on.

    Faces of `min_score` and more are candidates; of 0 those of the detector's own.
    """

    photo: int
    pixels: Pixels
    size: tuple[int, int]
    min_side: float
    min_score: float = 0.0

    @property
    def scale(self) -> npt.NDArray[np.float64]:
        """(2,), across and down."""
        return np.array([self.size[1] / self.pixels.shape[1], self.size[0] / self.pixels.shape[0]])

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width as multiples of the largest stride, the only sizes that the network can compute."""
        return -(-self.size[0] // STRIDES[-1]) * STRIDES[-1], -(-self.size[1] // STRIDES[-1]) * STRIDES[-1]

    def resized(self) -> Pixels:
        if self.size == self.pixels.shape[:2]:
            return self.pixels
        height, width = self.pixels.shape[:2]
        step, first = _row_step(height, self.size[0])
        rows = self.pixels[first::step]
        return resized(rows, self.size, box=(0, 0, width, min(height / step, len(rows))), reducing_gap=1.0)


class _Found(NamedTuple):
    """Candidates of one photo: boxes (n,4), scores (n,), landmarks (n,5,2), and those for crops, of the same shape."""

    boxes: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    landmarks: npt.NDArray[np.float64]
    crop_points: npt.NDArray[np.float64]


class YuNet:
    """The detector.

    `min_size`: side in pixels of the smallest face to look for. At 20 a photo is searched at its full size; for larger
    faces it is made smaller first, which is faster, and for smaller ones larger. Boxes vary by a few pixels, so faces are
    reported whose longer side has 0.55 of it. A search takes at most 6 megapixels: larger photos are made smaller.
    `min_score`: the score a face must reach. `device`: see `OnnxNetwork`.
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
        tell_after_fork(self)

    def after_fork(self) -> None:
        """Make the threads, at first and again in a child process."""
        self._pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="facespace-yunet")

    @property
    def runtime(self) -> str:
        """What computes: `onnxruntime` or `cuda`."""
        return self._one_core.runtime

    @functools.cached_property
    def _all_cores(self) -> OnnxNetwork:
        """For single and large photos; compiled when the first of them comes."""
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
        """The faces of one image, the highest score first; an empty list if there is none.

        The image is (H,W,3) uint8 RGB, or anything else that `facespace.read` takes: a path, a PIL image, a gray array.
        Raises `ImageError`, `TypeError` and `ValueError` as `io.image.as_rgb` does.
        """
        pixels = as_rgb(image)
        parts = [found for search in self._searches(0, pixels) for found in self._run(self._all_cores, [search])]
        return self._faces([pixels], [parts])[0]

    def detect_many(self, images: Iterable[Source]) -> list[list[Face]]:
        """`detect` for images of any sizes: small ones of one size run in one batch, and batches side by side."""
        if not are_several(images):
            raise TypeError(f"detect_many takes several images; got {type(images).__name__} (detect takes one image)")
        photos = [as_rgb(image) for image in images]
        return self.detect_reduced(photos, [1] * len(photos))

    def least_scale(self, height: int, width: int) -> float:
        """The scale, at most 1, to which a photo of this size can be made smaller before it is searched."""
        return min(1.0, self._scale(height, width))

    def detect_reduced(self, photos: Sequence[Pixels], reductions: Sequence[int]) -> list[list[Face]]:
        """`detect_many` for photos (H,W,3) that were read at 1/n of their size, for the `reductions` n.

        The faces that are found are those that are wanted of the photos in full size. Coordinates are those of the photos
        as they are here.
        """
        searches = [
            search
            for k, (pixels, n) in enumerate(zip(photos, reductions, strict=True))
            for search in self._searches(k, pixels, n)
        ]
        batches = sorted(_batches(searches), key=_n_pixels, reverse=True)
        # A core computes a batch of its own, the largest first; one that would keep it much longer than the others is
        # computed by all, which wait for each other at every layer.
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
        """The network's raw boxes (M,4) for an image whose sides are multiples of 32: is it computed right here?"""
        boxes: npt.NDArray[np.float32] = self._all_cores.run(image[None])[1][0, :4].T
        return boxes

    def _searches(self, photo: int, pixels: Pixels, reduction: int = 1) -> list[_Search]:
        """The full search of a photo, and one for large faces where the photo has room for them."""
        scale, shorter = self._scale_here(pixels, reduction), min(pixels.shape[:2])
        height, width = (side * reduction for side in pixels.shape[:2])
        fewer = self._scale(height, width) < self._full_scale(height, width)
        min_score = min(self.min_score, _CANDIDATE) if fewer else 0.0
        searches = [_search(photo, pixels, scale, _REPORTED * self.min_size / reduction, min_score)]
        if shorter * scale > _ROOM_FOR_LARGE:
            searches.append(_search(photo, pixels, _REDUCED_SIDE / shorter, _LARGE_FACE / scale))
        return searches

    def _full_scale(self, height: int, width: int) -> float:
        """How much larger than itself a photo is searched so that the smallest faces are surely found."""
        enlarged = max(1.0, min(_TINY_PHOTO / max(height, width), 3.0))  # what is in a thumbnail is small
        # The network sees no photo that is lower or narrower than its largest stride.
        most = min(math.sqrt(_MAX_PIXELS / (height * width)), _MAX_PIXELS / (STRIDES[-1] * max(height, width)))
        return float(min(enlarged * _SMALLEST / self.min_size, most))

    def _scale(self, height: int, width: int) -> float:
        """How much larger than itself a photo is searched."""
        full = self._full_scale(height, width)
        if full >= 1:
            return full
        return min(full, max(full / _SMALLER, math.sqrt(_FEWER_PIXELS / (height * width))))

    def _scale_here(self, pixels: Pixels, reduction: int) -> float:
        """How much larger than it is here a photo is searched that was read at 1/`reduction` of its size."""
        scale = self._scale(pixels.shape[0] * reduction, pixels.shape[1] * reduction) * reduction
        return 1.0 if reduction > 1 and _NEARLY <= scale <= 1 else scale

    def _run(self, network: OnnxNetwork, batch: Sequence[_Search]) -> list[_Found]:
        """Compute the network once for searches of one padded size; the faces of each, every one once."""
        images = np.empty((len(batch), *batch[0].padded, 3), np.uint8)
        for image, search in zip(images, batch, strict=True):
            height, width = search.size
            image[:height, :width] = search.resized()
            image[height:] = image[:height, width:] = 0
        found = []
        least_score = min(search.min_score or self.min_score for search in batch)
        for search, candidates in zip(batch, _candidates(network, images, least_score), strict=True):
            wanted = _sides(candidates) / max(search.scale) >= search.min_side
            large = _chosen(candidates, wanted & (candidates.scores >= (search.min_score or self.min_score)))
            found.append(
                large if search.size == search.pixels.shape[:2] else _moved(large, 1 / search.scale, np.zeros(2))
            )
        return _suppressed(found)

    def _looked_at_again(
        self, photos: Sequence[Pixels], found: Sequence[_Found], reductions: Sequence[int] | None = None
    ) -> list[_Found]:
        """The faces of each photo after a second look at the small and the unsure ones, on patches of their photos.

        Landmarks of small faces are those of the patch. At 15 px a landmark that is wrong by one pixel turns the crop by ten
        degrees: placed on patches, the same small face in two copies of a photo becomes a third more alike. Unsure faces
        that are not seen again are left out: most are hands, hair, the backs of heads, the leather of a sofa. Small
        candidates below `min_score` become faces, placed and scored as on the patch, where they are surely seen.
        """
        small = [
            self._small(pixels, one, n)
            for pixels, one, n in zip(photos, found, reductions or [1] * len(photos), strict=True)
        ]
        worth = [is_small | (one.scores >= self.min_score) for is_small, one in zip(small, found, strict=True)]
        found = [_chosen(one, rows) for one, rows in zip(found, worth, strict=True)]
        small = [is_small[rows] for is_small, rows in zip(small, worth, strict=True)]
        again = [
            (k, row) for k, one in enumerate(found) for row in np.flatnonzero(small[k] | (one.scores < _SURE)).tolist()
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
                kept[k][row] = before >= _SURE or score >= min(_SEEN_AGAIN, self.min_score)
                if before < self.min_score:
                    kept[k][row] = score >= max(_SEEN_SURELY, self.min_score)
                    if kept[k][row]:
                        found[k].boxes[row] = seen.boxes[same[seen.scores[same].argmax()]]
                        found[k].scores[row] = score
                        placed_again.add(k)
        found = [_chosen(one, rows) for one, rows in zip(found, kept, strict=True)]
        return [_each_once(one) if k in placed_again else one for k, one in enumerate(found)]

    def _small(self, pixels: Pixels, found: _Found, reduction: int = 1) -> npt.NDArray[np.bool_]:
        """Which faces (n,) are small in the search of their photo."""
        small: npt.NDArray[np.bool_] = _sides(found) * min(self._scale_here(pixels, reduction), 1.0) < _SMALL_FACE
        return small

    def _faces(
        self, photos: Sequence[Pixels], parts: Sequence[Sequence[_Found]], reductions: Sequence[int] | None = None
    ) -> list[list[Face]]:
        """The faces of each photo out of its searches: the full one and, perhaps, the one for large faces."""
        return [
            [
                Face(tuple(box.tolist()), float(score), _points(landmarks), crop_points=_points(crop_points))
                for box, score, landmarks, crop_points in zip(*one, strict=True)
            ]
            for one in self._looked_at_again(photos, [_joined(part) for part in parts], reductions)
        ]


def _candidates(network: OnnxNetwork, images: Pixels, min_score: float) -> list[_Found]:
    """What the network finds in each image (N,H,W,3) with at least that score, overlapping ones included."""
    height, width = images.shape[1:3]
    scores, numbers = network.run(images)
    strides = np.repeat(STRIDES, [(height // s) * (width // s) for s in STRIDES])
    first = np.searchsorted(strides, strides)  # the first cell of each cell's stride
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
    """Coordinates p as p · scale + shift, both (2,)."""
    points = found.landmarks * scale + shift, found.crop_points * scale + shift
    return _Found((found.boxes.reshape(-1, 2, 2) * scale + shift).reshape(-1, 4), found.scores, *points)


def _patch(pixels: Pixels, corner: npt.NDArray[np.float64], scale: float) -> Pixels:
    """The square of the photo from `corner` on, enlarged or made smaller; black where it leaves the photo."""
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
    """Every how many rows, and from which on, an image `side` high is looked at when it becomes `size` high.

    Of an image that gets much smaller, rows left out are not missed, as two and more make one. They cost the most.
    """
    step = max(1, math.floor(side / size / 2))
    return step, (step - 1) // 2


def _means(seen: _Found, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The landmarks (n,5,2) of the faces in these rows, as the weighted mean of all cells that see the same face.

    Each cell's landmarks have an error of their own, so that faces of a person are more alike when cut by their means.
    """
    near = (overlaps(seen.boxes[rows], seen.boxes) > _VOTE_IOU) * (
        seen.scores / seen.scores[rows][:, None]
    ) ** _VOTE_POWER
    near[np.arange(len(rows)), rows] = 1.0  # of a box without area too
    means: npt.NDArray[np.float64] = near / near.sum(axis=1, keepdims=True) @ seen.landmarks.reshape(-1, 10)
    return means.reshape(len(rows), 5, 2)


def _points(points: npt.NDArray[np.float64]) -> tuple[Point, ...]:
    return tuple((x, y) for x, y in points.tolist())


def _sides(found: _Found) -> npt.NDArray[np.float64]:
    """The longer side (n,) of each box."""
    longer: npt.NDArray[np.float64] = (found.boxes[:, 2:] - found.boxes[:, :2]).max(axis=1, initial=0)
    return longer


def _joined(parts: Sequence[_Found]) -> _Found:
    """The faces of a photo's searches, each face once, the highest score first."""
    full, *reduced = parts
    for large in reduced:
        full = _merged(full, large)
    return _chosen(full, np.argsort(-full.scores, kind="stable"))


def _suppressed(found: Sequence[_Found]) -> list[_Found]:
    """Of each image, each face once, with the points to cut it by."""
    rows = non_maximum_suppressions([one.boxes for one in found], [one.scores for one in found], _IOU, end_pixels=False)
    return [
        _chosen(one, kept)._replace(crop_points=_means(one, kept)) if len(kept) else _chosen(one, kept)
        for one, kept in zip(found, rows, strict=True)
    ]


def _each_once(found: _Found) -> _Found:
    """Each face once, the highest score first."""
    (rows,) = non_maximum_suppressions([found.boxes], [found.scores], _IOU, end_pixels=False)
    return _chosen(found, rows)


def _chosen(found: _Found, rows: npt.NDArray[Any]) -> _Found:
    return _Found(*(part[rows] for part in found))


def _merged(full: _Found, large: _Found) -> _Found:
    """Faces of both searches, each once.

    Where they overlap, the surer one is right, but a face that the full search is sure enough of is placed more exactly by
    it. What the full search took for a face inside a surer large face is a part of it.
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
    """How much of each box (N,4) lies inside each other one (M,4): (N,M), 0 to 1."""
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
    """Searches of one padded size together, up to `_BATCH_PIXELS`, in the order of their first ones."""
    of_size: dict[tuple[int, int], list[_Search]] = {}
    for search in searches:
        of_size.setdefault(search.padded, []).append(search)
    for (height, width), members in of_size.items():
        n = max(1, _BATCH_PIXELS // (height * width))
        yield from (members[start : start + n] for start in range(0, len(members), n))
