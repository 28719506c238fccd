"""YuNet: faces and five landmarks by one small network (Wu, Peng and Yu 2023, "YuNet: A Tiny Millisecond-level Face Detector").

The network looks at cells of 8, 16 and 32 pixels. A cell in column c and row r of stride s gives a score
√(class · objectness), a centre ((c + dx)·s, (r + dy)·s), a size (eʷ·s, eʰ·s) and five points ((c + x)·s, (r + y)·s).
It is always computed by plain ONNX Runtime in float32: photos come in all sizes, and other runtimes compile for each.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from facespace.detection.nms import non_maximum_suppression
from facespace.errors import ModelError
from facespace.faces.face import Face, overlaps
from facespace.formats.onnx_dequantization import dequantize_blocks
from facespace.formats.onnx_model import add_tensor, describe, new_node, parse_model
from facespace.io.image import Source, are_several, as_rgb
from facespace.io.packed_weights import read_packed
from facespace.runtime.devices import Device
from facespace.runtime.onnx_network import OnnxNetwork, usable_cores

FILE = "face_detection_yunet_2023mar_int8bq.onnx"
SHA256 = "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10"

_STRIDES = (8, 16, 32)
_IOU = 0.3  # of two boxes that overlap by more, the better stays
_SMALLEST = 20.0  # pixels of a face that the network finds reliably
_REPORTED = 0.55  # share of the wanted size from which a face is reported
# Faces of 500 px and more are found badly, those of 800 px never: photos with room for them are searched a second time,
# with the shorter side this long, and faces of the second search count from this size on in the first.
_REDUCED_SIDE = 300.0
_LARGE_FACE = 400.0
_ROOM_FOR_LARGE = 400.0  # shorter side of a photo from which it is searched a second time
_WELL_PLACED = 0.88  # score from which a face of the full search has its box where it belongs
_INSIDE = 0.8  # share of a box inside another from which it is a part of that face
# Landmarks of faces below this side are placed again on square patches, on which the face has that side.
_PATCH_FACE = 64.0
_PATCH = 160
_PATCHES = 16
_PATCH_SCORE = 0.3
_PATCH_IOU = 0.4
_TINY_PHOTO = 160.0  # longer side below which a photo is searched enlarged
_MAX_PIXELS = 6_000_000  # of one search; its memory is about 50 bytes a pixel
_BATCH_PIXELS = 600_000  # small photos of one size are searched together
_PARALLEL_PIXELS = 2_000_000  # larger searches take all cores, one after the other

Pixels = npt.NDArray[np.uint8]


class _Search(NamedTuple):
    """One run of the network over one photo: its number, its pixels, their scale, and the smallest face to report."""

    photo: int
    pixels: Pixels
    scale: tuple[float, float]
    min_side: float


class _Found(NamedTuple):
    """Candidates of one photo: boxes (n,4), scores (n,), landmarks (n,5,2)."""

    boxes: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    landmarks: npt.NDArray[np.float64]


class YuNet:
    """The detector.

    `min_size`: side in pixels of the smallest face to look for. At 20 a photo is searched at its full size; for larger
    faces it is made smaller first, which is faster, and for smaller ones larger. Boxes vary by a few pixels, so faces are
    reported whose longer side has 0.7 of it. A search takes at most 6 megapixels: larger photos are made smaller. `min_score`: the score a face must reach. `device`: see `OnnxNetwork`.
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
        self._pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="facespace-yunet")
        self._large = threading.Lock()

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
            _model(),
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
        return self._faces(pixels, parts)

    def detect_many(self, images: Iterable[Source]) -> list[list[Face]]:
        """`detect` for images of any sizes: small ones of one size run in one batch, and batches side by side."""
        if not are_several(images):
            raise TypeError(f"detect_many takes several images; got {type(images).__name__} (detect takes one image)")
        photos = [as_rgb(image) for image in images]
        searches = [search for k, pixels in enumerate(photos) for search in self._searches(k, pixels)]
        parts: list[list[_Found]] = [[] for _ in photos]
        batches = list(_batches(searches))
        for batch, found in zip(batches, self._pool.map(self._run_batch, batches), strict=True):
            for search, of_search in zip(batch, found, strict=True):
                parts[search.photo].append(of_search)
        return list(self._pool.map(self._faces, photos, parts))

    def boxes(self, image: Pixels) -> npt.NDArray[np.float32]:
        """The network's raw boxes (M,4) for an image whose sides are multiples of 32: is it computed right here?"""
        boxes: npt.NDArray[np.float32] = self._all_cores.run(image[None])[1][0]
        return boxes

    def _searches(self, photo: int, pixels: Pixels) -> list[_Search]:
        """The full search of a photo, and one for large faces where the photo has room for them."""
        height, width = pixels.shape[:2]
        enlarged = max(1.0, min(_TINY_PHOTO / max(height, width), 3.0))  # what is in a thumbnail is small
        scale = min(enlarged * _SMALLEST / self.min_size, math.sqrt(_MAX_PIXELS / (height * width)))
        searches = [_search(photo, pixels, scale, _REPORTED * self.min_size)]
        reduced = _REDUCED_SIDE / min(height, width)
        if min(height, width) * scale > _ROOM_FOR_LARGE:
            searches.append(_search(photo, pixels, reduced, _LARGE_FACE / scale))
        return searches

    def _run_batch(self, batch: Sequence[_Search]) -> list[_Found]:
        if sum(search.pixels.shape[0] * search.pixels.shape[1] for search in batch) <= _PARALLEL_PIXELS:
            return self._run(self._one_core, batch)
        with self._large:
            return self._run(self._all_cores, batch)

    def _run(self, network: OnnxNetwork, batch: Sequence[_Search]) -> list[_Found]:
        """Compute the network once for searches of one padded size, and decode what it found."""
        height, width = _padded(batch[0].pixels)
        images = np.zeros((len(batch), height, width, 3), np.uint8)
        for k, search in enumerate(batch):
            images[k, : search.pixels.shape[0], : search.pixels.shape[1]] = search.pixels
        found = []
        for search, candidates in zip(batch, _candidates(network, images, self.min_score), strict=True):
            sides = (candidates.boxes[:, 2:] - candidates.boxes[:, :2]).max(axis=1, initial=0) / max(search.scale)
            found.append(
                _moved(_chosen(candidates, sides >= search.min_side), 1 / np.asarray(search.scale), np.zeros(2))
            )
        return found

    def _placed(self, pixels: Pixels, found: _Found) -> npt.NDArray[np.float64]:
        """The landmarks (n,5,2) of the faces, those of small ones found again on an enlarged patch of the photo.

        At 15 px a landmark that is wrong by one pixel turns the crop by ten degrees: placed on patches, the same small face
        in two copies of a photo becomes a third more alike.
        """
        landmarks: npt.NDArray[np.float64] = found.landmarks.copy()
        sides = (found.boxes[:, 2:] - found.boxes[:, :2]).max(axis=1, initial=0)
        small = np.flatnonzero(sides < _PATCH_FACE)
        if not len(small):
            return landmarks
        photo = Image.fromarray(np.ascontiguousarray(pixels))
        scales = _PATCH_FACE / sides[small]
        corners = found.boxes[small].reshape(-1, 2, 2).mean(axis=1) - _PATCH / 2 / scales[:, None]
        for start in range(0, len(small), _PATCHES):
            part = slice(start, start + _PATCHES)
            patches = [_patch(photo, corner, scale) for corner, scale in zip(corners[part], scales[part], strict=True)]
            again = _candidates(self._one_core, np.stack(patches), _PATCH_SCORE)
            for row, corner, scale, candidates in zip(small[part], corners[part], scales[part], again, strict=True):
                here = _moved(candidates, np.full(2, 1 / scale), corner)
                same = np.flatnonzero(overlaps(found.boxes[row : row + 1], here.boxes)[0] > _PATCH_IOU)
                if len(same):
                    landmarks[row] = here.landmarks[same[here.scores[same].argmax()]]
        return landmarks

    def _faces(self, pixels: Pixels, parts: Sequence[_Found]) -> list[Face]:
        """The faces of one photo out of its searches: the full one and, perhaps, the one for large faces."""
        full, *reduced = [_suppressed(part) for part in parts]
        for large in reduced:
            full = _merged(full, large)
        full = _chosen(full, np.argsort(-full.scores, kind="stable"))
        return [
            Face(tuple(box.tolist()), float(score), tuple((x, y) for x, y in points.tolist()))
            for box, score, points in zip(full.boxes, full.scores, self._placed(pixels, full), strict=True)
        ]


def _candidates(network: OnnxNetwork, images: Pixels, min_score: float) -> list[_Found]:
    """What the network finds in each image (N,H,W,3) with at least that score, overlapping ones included."""
    height, width = images.shape[1:3]
    scores, boxes, landmarks = network.run(images)
    strides = np.repeat(_STRIDES, [(height // s) * (width // s) for s in _STRIDES])
    first = np.searchsorted(strides, strides)  # the first cell of each cell's stride
    found = []
    for k in range(len(images)):
        cells = np.flatnonzero(scores[k] >= min_score)
        stride = strides[cells].astype(np.float64)
        row, column = np.divmod(cells - first[cells], width // strides[cells])
        corner = np.stack([column, row], axis=1)
        centre = (corner + boxes[k, cells, :2]) * stride[:, None]
        half = np.exp(boxes[k, cells, 2:].astype(np.float64)) * stride[:, None] / 2
        points = (corner[:, None] + landmarks[k, cells].reshape(-1, 5, 2)) * stride[:, None, None]
        here = np.concatenate([centre - half, centre + half], axis=1)
        good = np.isfinite(here).all(axis=1) & (half > 0).all(axis=1) & np.isfinite(points).all(axis=(1, 2))
        found.append(_Found(here[good], scores[k, cells].astype(np.float64)[good], points[good]))
    return found


def _moved(found: _Found, scale: npt.NDArray[np.float64], shift: npt.NDArray[np.float64]) -> _Found:
    """Coordinates p as p · scale + shift, both (2,)."""
    return _Found(found.boxes * np.tile(scale, 2) + np.tile(shift, 2), found.scores, found.landmarks * scale + shift)


def _patch(photo: Image.Image, corner: npt.NDArray[np.float64], scale: float) -> Pixels:
    x, y = corner
    side = _PATCH / scale
    extent = (x, y, x + side, y + side)
    return np.asarray(photo.transform((_PATCH, _PATCH), Image.Transform.EXTENT, extent, Image.Resampling.BILINEAR))


def _suppressed(found: _Found) -> _Found:
    return _chosen(found, non_maximum_suppression(found.boxes, found.scores, _IOU, end_pixels=False))


def _chosen(found: _Found, rows: npt.NDArray[Any]) -> _Found:
    return _Found(found.boxes[rows], found.scores[rows], found.landmarks[rows])


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


def _search(photo: int, pixels: Pixels, scale: float, min_side: float) -> _Search:
    height, width = pixels.shape[:2]
    wanted = max(1, round(width * scale)), max(1, round(height * scale))
    if wanted == (width, height):
        return _Search(photo, pixels, (1.0, 1.0), min_side)
    resized = Image.fromarray(np.ascontiguousarray(pixels)).resize(wanted, Image.Resampling.BILINEAR, reducing_gap=2.0)
    return _Search(photo, np.asarray(resized), (wanted[0] / width, wanted[1] / height), min_side)


def _padded(pixels: Pixels) -> tuple[int, int]:
    """Height and width as multiples of the largest stride; the network wants no others."""
    return -(-pixels.shape[0] // _STRIDES[-1]) * _STRIDES[-1], -(-pixels.shape[1] // _STRIDES[-1]) * _STRIDES[-1]


def _batches(searches: Iterable[_Search]) -> Iterator[list[_Search]]:
    """Searches of one padded size together, up to `_BATCH_PIXELS`, in the order of their first ones."""
    of_size: dict[tuple[int, int], list[_Search]] = {}
    for search in searches:
        of_size.setdefault(_padded(search.pixels), []).append(search)
    for (height, width), members in of_size.items():
        n = max(1, _BATCH_PIXELS // (height * width))
        yield from (members[start : start + n] for start in range(0, len(members), n))


@functools.cache
def _model() -> bytes:
    """The published network, for any number of RGB images (N,H,W,3) uint8, with its twelve outputs joined to three.

    They are scores (N,M), boxes (N,M,4) and landmarks (N,M,10), M cells of all strides. Raises `ModelError` for a
    missing or changed file.
    """
    model = parse_model(read_packed(FILE, SHA256), FILE)
    graph = model.graph
    dequantize_blocks(graph, FILE)
    shapes = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    for tensor in [tensor for tensor in graph.initializer if tensor.name in shapes]:
        # (1, −1, k): one image. 0 keeps the number of images as it is.
        k = tensor.int64_data[2] if tensor.int64_data else int(np.frombuffer(tensor.raw_data, "<i8")[2])
        tensor.raw_data = np.array([0, -1, k], "<i8").tobytes()
        del tensor.int64_data[:]
    if len(graph.input) != 1:
        raise ModelError(f"{FILE}: the network must have one input, it has {len(graph.input)}")
    seen = graph.input[0].name
    nodes = [
        new_node("Transpose", "planes", ["images"], {"perm": [0, 3, 1, 2]}),
        new_node("Cast", "floats", ["planes"], {"to": 1}),
        # The network was trained on BGR.
        new_node("Gather", seen, ["floats", "bgr"], {"axis": 1}),
    ]
    add_tensor(graph, "bgr", np.array([2, 1, 0], np.int64))
    add_tensor(graph, "last", np.array([2], np.int64))
    nodes += list(graph.node)
    for stride in _STRIDES:
        nodes.append(new_node("Mul", f"product_{stride}", [f"cls_{stride}", f"obj_{stride}"], {}))
        nodes.append(new_node("Sqrt", f"root_{stride}", [f"product_{stride}"], {}))
        nodes.append(new_node("Squeeze", f"score_{stride}", [f"root_{stride}", "last"], {}))
    for joined, parts in (("scores", "score"), ("boxes", "bbox"), ("landmarks", "kps")):
        nodes.append(new_node("Concat", joined, [f"{parts}_{stride}" for stride in _STRIDES], {"axis": 1}))
    nodes = [_copied(node) for node in nodes]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    describe(graph.input.add(name="images"), np.uint8, ["n", "height", "width", 3])
    describe(graph.output.add(name="scores"), np.float32, ["n", "cells"])
    describe(graph.output.add(name="boxes"), np.float32, ["n", "cells", 4])
    describe(graph.output.add(name="landmarks"), np.float32, ["n", "cells", 10])
    return bytes(model.SerializeToString())


def _copied(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy
