"""One detected face, what a model wants to see of it, and the crop that shows it so."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from facespace.errors import ModelError

Point = tuple[float, float]
Box = tuple[float, float, float, float]

# Left eye, right eye, nose, left mouth, right mouth in a crop of 112 px: the ArcFace papers' template.
ARCFACE_TEMPLATE: tuple[Point, ...] = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
ARCFACE_SIZE = 112


@dataclass(frozen=True, slots=True)
class Face:
    """One face of an image, in pixels of that image.

    `box` is (x1, y1, x2, y2) and may reach beyond the border; `landmarks` are left eye, right eye, nose, left
    mouth corner, right mouth corner as seen in the image; `score` is the detector's probability. Raises
    `ValueError` when the box is empty, a number is not finite, or the landmarks are not five.

    >>> face = Face((10, 20, 50, 70), 0.99, ((20, 40), (40, 40), (30, 50), (22, 60), (38, 60)))
    >>> face.width, face.height
    (40, 50)
    """

    box: Box
    score: float
    landmarks: tuple[Point, ...]

    def __post_init__(self) -> None:
        if len(self.box) != 4 or len(self.landmarks) != 5 or any(len(point) != 2 for point in self.landmarks):
            raise ValueError(
                f"a face wants a box of 4 numbers and 5 landmarks of 2; got {len(self.box)} and {len(self.landmarks)}"
            )
        numbers = [*self.box, self.score, *(value for point in self.landmarks for value in point)]
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError(f"a face wants finite numbers; got {numbers}")
        if self.box[2] <= self.box[0] or self.box[3] <= self.box[1]:
            raise ValueError(f"a face's box wants x1 < x2 and y1 < y2; got {self.box}")

    @property
    def width(self) -> float:
        """Of the box, in pixels."""
        return self.box[2] - self.box[0]

    @property
    def height(self) -> float:
        """Of the box, in pixels."""
        return self.box[3] - self.box[1]

    def as_dict(self) -> dict[str, Any]:
        """The face as JSON writes it, coordinates to a thousandth of a pixel."""
        return {
            "box": [round(float(value), 3) for value in self.box],
            "score": round(float(self.score), 6),
            "landmarks": [[round(float(x), 3), round(float(y), 3)] for x, y in self.landmarks],
        }


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a network was trained to see; it belongs to the weights and is never an option of recognising.

    `size`: side of the square crop in pixels. `template`: `box`, the detector's box widened by `crop_margin`
    source pixels in all (half on each side) and resized, as FaceNet's aligner does; or `arcface`, the five landmarks
    moved onto a fixed template by a similarity transform. `channel_order`: RGB or BGR. `standardization`:
    `fixed`, (x − mean) / std; or `per-image`, (x − mean of the crop) / max(its std, 1/√N), N values in the crop.
    """

    size: int
    template: Literal["box", "arcface"]
    crop_margin: int = 0
    channel_order: Literal["RGB", "BGR"] = "RGB"
    standardization: Literal["fixed", "per-image"] = "fixed"
    mean: float = 127.5
    std: float = 128.0

    def __post_init__(self) -> None:
        wanted = {
            "size": isinstance(self.size, int) and 16 <= self.size <= 1024,
            "template": self.template in ("box", "arcface"),
            "crop_margin": isinstance(self.crop_margin, int) and 0 <= self.crop_margin <= 1024,
            "channel_order": self.channel_order in ("RGB", "BGR"),
            "standardization": self.standardization in ("fixed", "per-image"),
            "mean": isinstance(self.mean, (int, float)) and -1e6 <= self.mean <= 1e6,
            "std": isinstance(self.std, (int, float)) and 1e-6 <= self.std <= 1e6,
        }
        for field, good in wanted.items():
            if not good:
                raise ModelError(f"input spec: {field} cannot be {getattr(self, field)!r}")

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON takes them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> InputSpec:
        """The inverse of `as_dict`; `ModelError` names a field that is missing or unknown."""
        fields = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(data) - fields):
            raise ModelError(f"input spec: unknown field {unknown[0]!r}; it has {', '.join(sorted(fields))}")
        if missing := sorted({"size", "template"} - set(data)):
            raise ModelError(f"input spec: the field {missing[0]!r} is missing")
        return cls(**data)

    def check(self, crops: npt.NDArray[np.uint8]) -> None:
        """Raises `ValueError` unless `crops` are (N,S,S,3) uint8."""
        if crops.ndim != 4 or crops.shape[1:] != (self.size, self.size, 3) or crops.dtype != np.uint8:
            raise ValueError(
                f"crops must be uint8 of shape (N, {self.size}, {self.size}, 3); "
                f"got {crops.dtype} of shape {crops.shape}"
            )

    def preprocess(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Crops (N,S,S,3) uint8 RGB as the network's numbers, (N,S,S,3) float32.

        Raises `ValueError` for any other shape or type.
        """
        self.check(crops)
        if self.channel_order == "BGR":
            crops = crops[..., ::-1]
        x = crops.astype(np.float32)
        if self.standardization == "fixed":
            x -= np.float32(self.mean)
            x *= np.float32(1 / self.std)
            return x
        mean = x.mean(axis=(1, 2, 3), keepdims=True, dtype=np.float64)
        std = x.std(axis=(1, 2, 3), keepdims=True, dtype=np.float64)
        floor = 1 / math.sqrt(3 * self.size**2)
        result: npt.NDArray[np.float32] = ((x - mean) / np.maximum(std, floor)).astype(np.float32)
        return result


# Presets that need no file: how the field's published weights were trained.
INPUT_SPECS: dict[str, InputSpec] = {
    "facenet-2018": InputSpec(160, "box", crop_margin=32),
    "facenet-2017": InputSpec(160, "box", crop_margin=32, standardization="per-image"),
    "arcface-112": InputSpec(ARCFACE_SIZE, "arcface", mean=127.5, std=127.5),
}


def central_face(faces: Sequence[Face], width: int, height: int) -> Face:
    """The one face the 2018 aligner keeps of a photo of that size: the largest of area − 2·d².

    d is the distance of the box's centre from the photo's, in pixels; of equals the first. Nothing but a sequence
    with at least one face will do.

    >>> points = ((20, 40), (40, 40), (30, 50), (22, 60), (38, 60))
    >>> corner, middle = Face((0, 0, 20, 20), 1.0, points), Face((40, 40, 55, 55), 0.9, points)
    >>> central_face([corner, middle], 100, 100) is middle
    True
    """

    def value(face: Face) -> float:
        x, y = (face.box[0] + face.box[2] - width) / 2, (face.box[1] + face.box[3] - height) / 2
        return face.width * face.height - 2 * (x * x + y * y)

    return max(faces, key=value)


def align(image: npt.NDArray[np.uint8], face: Face, spec: InputSpec) -> npt.NDArray[np.uint8]:
    """The crop (S,S,3) uint8 of one face that a network of this `spec` wants.

    `image` is (H,W,3) uint8 RGB. Parts outside the image are black under `arcface` and cut off under `box`.

    >>> image = np.zeros((100, 100, 3), np.uint8)
    >>> face = Face((10, 20, 50, 70), 0.99, ((20, 40), (40, 40), (30, 50), (22, 60), (38, 60)))
    >>> align(image, face, INPUT_SPECS["arcface-112"]).shape
    (112, 112, 3)
    """
    if spec.template == "box":
        height, width = image.shape[:2]
        x1, y1, x2, y2 = crop_box(face.box, width, height, spec.crop_margin)
        crop = Image.fromarray(np.ascontiguousarray(image[y1:y2, x1:x2]))
        return np.asarray(crop.resize((spec.size, spec.size), Image.Resampling.BILINEAR))
    template = np.asarray(ARCFACE_TEMPLATE) * (spec.size / ARCFACE_SIZE)
    return _warp(image, similarity_transform(np.asarray(face.landmarks), template), spec.size)


def crop_box(box: Box, width: int, height: int, crop_margin: int) -> tuple[int, int, int, int]:
    """The 2018 aligner's crop: the box and half the margin on every side, cut at the border, truncated.

    A box without a pixel inside the image gives the nearest one pixel.

    >>> crop_box((10.6, 5.2, 90.9, 99.0), 100, 100, 32)
    (0, 0, 100, 100)
    """
    half = crop_margin / 2
    x1, y1 = int(max(box[0] - half, 0)), int(max(box[1] - half, 0))
    x2, y2 = int(min(box[2] + half, width)), int(min(box[3] + half, height))
    x1, y1 = min(x1, width - 1), min(y1, height - 1)
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


def similarity_transform(source: npt.NDArray[Any], target: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The (2,3) matrix of rotation, scale and shift that moves `source` (N,2) onto `target` in least squares.

    Umeyama 1991, equations 40–43, without reflection. Coinciding source points raise `ValueError`.

    >>> corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    >>> np.allclose(similarity_transform(corners, 2 * corners + 5), [[2, 0, 5], [0, 2, 5]])
    True
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    centre_s, centre_t = source.mean(axis=0), target.mean(axis=0)
    s, t = source - centre_s, target - centre_t
    variance = (s**2).sum() / len(s)
    if variance == 0:
        raise ValueError("a similarity transform wants at least two distinct points")
    u, singular, vt = np.linalg.svd(t.T @ s / len(s))
    sign = np.array([1.0, np.sign(np.linalg.det(u @ vt)) or 1.0])
    rotation = (u * sign) @ vt
    scale = (singular * sign).sum() / variance
    shift = centre_t - scale * rotation @ centre_s
    return np.column_stack([scale * rotation, shift])


def _warp(image: npt.NDArray[np.uint8], matrix: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.uint8]:
    """Bilinear samples of `image` where `matrix` (image → crop) puts each pixel of the crop; black outside."""
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    # Pillow samples at pixel centres (x + ½); the landmarks count them from 0.
    inverse[:, 2] += 0.5 - 0.5 * (inverse[:, 0] + inverse[:, 1])
    crop = Image.fromarray(np.ascontiguousarray(image)).transform(
        (size, size), Image.Transform.AFFINE, tuple(inverse.ravel()), Image.Resampling.BILINEAR
    )
    return np.asarray(crop)
