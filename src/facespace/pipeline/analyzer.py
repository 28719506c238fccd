"""Finds and embeds the faces of images, and compares two faces."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from facespace.defaults import DEFAULT_DETECTOR, DEFAULT_MODEL
from facespace.detection.factory import create_detector
from facespace.detection.protocol import Detector
from facespace.embedding.compatibility import model_of, probes_of, qualities_of
from facespace.embedding.embedder import Embedder
from facespace.embedding.vectors import Embeddings
from facespace.errors import ImageError
from facespace.faces.face import Face, clear_face
from facespace.faces.quality import weakness
from facespace.io.image import Source
from facespace.pipeline.photos import Photo, process, source_name

if TYPE_CHECKING:
    from facespace.identification.gallery import Gallery


@dataclass(frozen=True, slots=True, eq=False)
class AnalyzedFace(Face):
    """A face with its `crop` (S,S,3) and its `embedding` (D,) from `Embedder.represent`.

    Coordinates refer to the image after turning it clockwise by `turned` degrees; `rotations.turn` turns an image.
    """

    crop: npt.NDArray[np.uint8]
    embedding: npt.NDArray[np.float32]
    turned: int = field(default=0, kw_only=True)


class Verdict(NamedTuple):
    """The result of `verify`: the cosine `similarity`, the `threshold`, and whether the threshold is reached."""

    similarity: float
    threshold: float
    same: bool


class FaceAnalyzer:
    """Finds the faces of images and embeds them: a detector and an embedder together.

    `model` is anything `Embedder.load` takes, or an `Embedder`. `detector` is a name for `create_detector` or a
    `Detector`; the default is the detector that the model's crops come from. `try_rotations` searches every image in
    four turns, for photos that are not upright and do not record it in the file; `AnalyzedFace.turned` says how the
    image was turned.

        analyzer = FaceAnalyzer()
        for face in analyzer("party.jpg"):
            print(face.box, face.score, face.embedding)
    """

    def __init__(
        self,
        model: str | PathLike[str] | Embedder = DEFAULT_MODEL,
        detector: str | Detector | None = None,
        *,
        try_rotations: bool = False,
    ) -> None:
        self.embedder = Embedder.load(model) if isinstance(model, (str, PathLike)) else model
        if isinstance(self.embedder, type) or not hasattr(self.embedder, "represent"):
            raise TypeError(f"model must be a name, a path or an Embedder, got {type(model).__name__}")
        chosen = getattr(self.embedder, "detector", DEFAULT_DETECTOR) if detector is None else detector
        self.detector = create_detector(chosen) if isinstance(chosen, str) else chosen
        if isinstance(self.detector, type) or not hasattr(self.detector, "detect_many"):
            raise TypeError(f"detector must be a name or a Detector, got {type(detector).__name__}")
        self.try_rotations = try_rotations

    @overload
    def __call__(self, images: Source) -> list[AnalyzedFace]: ...

    @overload
    def __call__(self, images: list[Any] | tuple[Any, ...]) -> list[list[AnalyzedFace]]: ...

    def __call__(self, images: Source | list[Any] | tuple[Any, ...]) -> list[AnalyzedFace] | list[list[AnalyzedFace]]:
        """Return the faces of one image, or of each image of a list.

        An image is a path, an (H,W,3) uint8 RGB array, a PIL image, or anything else that `facespace.read` takes. Raises
        `ImageError` for the first image that cannot be read; use `process` to continue with the others.
        """
        if isinstance(images, (list, tuple)):
            photos = process(images, self.detector, self.embedder, keep_crops=True, try_rotations=self.try_rotations)
            return [_faces(photo) for photo in photos]
        return self([images])[0]

    def enroll(
        self, gallery: Gallery, name: str, image: Source, *, largest: bool = False, any_quality: bool = False
    ) -> bool:
        """Enrol the one face of a photo, its largest face with `largest`, or an analysed face under a name.

        Faces far smaller than the largest are ignored. Returns False if this face was already enrolled under the name.
        Raises `ImageError` for a photo that cannot be read, has no face or has several, and, unless `any_quality`, for
        a face that is too small or too blurred to be recognised.
        """
        if not hasattr(gallery, "enroll"):
            raise TypeError(
                f"enroll takes a Gallery, a name and an image, got {type(gallery).__name__} for the Gallery"
            )
        if isinstance(image, AnalyzedFace):
            return gallery.enroll(name, image)
        face = self._one_face(image, largest=largest)
        if (reason := weakness(face)) and not any_quality:
            raise ImageError(
                source_name(image), f"{reason} (quality {face.quality:.2f}); use any_quality=True to enrol it anyway"
            )
        return gallery.enroll(name, face, source=source_name(image))

    def verify(self, a: Any, b: Any, *, rate: float | None = None, threshold: float | None = None) -> Verdict:
        """Return whether two faces show one person, accepting a share `rate` of pairs of different people.

        `rate` defaults to the calibration's `default_rate`; `Calibration.match_threshold` says which pairs it refers
        to.

        Each of `a` and `b` is an image, whose largest face is used, an analysed face, or an embedding (D,) from
        `represent`. `threshold` sets the similarity to reach, instead of `rate`. Raises `ImageError` for an image
        without a face, `ModelError` if no thresholds were measured for the model, and `ValueError` for an embedding of
        another dimension or model.
        """
        (first, one), (second, other) = (self._embedding(face) for face in (a, b))
        similarity = float(first @ second)
        quality = None if one is None or other is None else (one + other) / 2
        least = self.embedder.threshold(rate, quality) if threshold is None else float(threshold)
        return Verdict(similarity, least, similarity >= least)

    def _embedding(self, face: Any) -> tuple[npt.NDArray[np.float32], float | None]:
        """Return the embedding (D,) of an image, of a face, or the given one, and the face's quality if it is known."""
        is_vector = isinstance(face, np.ndarray) and (face.ndim == 1 or isinstance(face, Embeddings))
        if not (is_vector or isinstance(face, AnalyzedFace)):
            face = self._one_face(face, largest=True)
        vectors = probes_of(face, self.embedder.dimension, model_of(self.embedder))
        if len(vectors) != 1:
            raise ValueError(f"expected one embedding, got {len(vectors)}")
        quality = qualities_of(face if isinstance(face, Embeddings) else [face])
        return vectors[0], None if quality is None else float(quality[0])

    def _one_face(self, image: Source, *, largest: bool) -> AnalyzedFace:
        if isinstance(image, (list, tuple)):
            raise TypeError(f"one image is expected, got a {type(image).__name__} of {len(image)}")
        faces = self(image)
        if not faces:
            raise ImageError(source_name(image), "no face found")
        clear = clear_face(faces)
        if clear is None and not largest:
            raise ImageError(source_name(image), f"{len(faces)} faces, one expected; use largest=True for the largest")
        largest_face: AnalyzedFace = max(faces, key=lambda face: face.width * face.height)
        return largest_face


def verify(
    a: Any,
    b: Any,
    *,
    rate: float | None = None,
    threshold: float | None = None,
    model: str | PathLike[str] = DEFAULT_MODEL,
) -> Verdict:
    """Return whether two faces show one person, by `FaceAnalyzer.verify`. The model is loaded once and kept.

    `rate` is the share of pairs of different people that are accepted as one person, as measured for the model's
    `Calibration`.
    """
    return _analyzer(os.fspath(model)).verify(a, b, rate=rate, threshold=threshold)


@functools.lru_cache(maxsize=1)
def _analyzer(model: str) -> FaceAnalyzer:
    return FaceAnalyzer(model)


def _faces(photo: Photo) -> list[AnalyzedFace]:
    if photo.error is not None:
        raise ImageError(photo.path, photo.error)
    return [
        AnalyzedFace(
            face.box,
            face.score,
            face.landmarks,
            crop,
            embedding,
            quality=face.quality,
            crop_points=face.crop_points,
            turned=photo.turned,
        )
        for face, crop, embedding in zip(photo.faces, photo.crops, photo.embeddings, strict=True)
    ]
