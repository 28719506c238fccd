"""Faces of group photos, and the similarities within one photo: for the calibration and for the rates on group photos.

The people of one photo are different, but share light, camera and often age, sex, ethnicity or family. A pair
of them is harder than two random people.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

import facespace
from facespace.embedding.calibration import LookAlikes
from facespace.faces.face import overlaps

FMR = [0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005]
LEAST_PAIRS = 10  # of a photo that counts
# Poor faces resemble each other: how much more two of quality q reach. Chosen on these photos; what is judged photo by
# photo, with the photo left out, are the rates.
SLOPE = 0.3
# Upper bounds over which photos there are. That of pairs is wide, as a rate claimed for pairs has to hold for photos
# whose people are more alike than these. A gallery's has a margin already, as not every stranger resembles somebody: it is
# the lowest of 0.7, 0.85 and 0.95 at which about 1 % of these photos' people are named and no more than 2 % of those of
# 40 px and more, each photo judged without itself.
BOUND_PAIRS, BOUND_PEOPLE = 0.995, 0.95
DRAWS = 2000
_GRID = np.linspace(-0.3, 1.3, 1601)


class GroupFaces(NamedTuple):
    photo: np.ndarray  # (N,) names of files
    box: np.ndarray  # (N,4)
    side: np.ndarray  # (N,) longer side in pixels
    quality: np.ndarray  # (N,)
    vectors: np.ndarray  # (N,D) photo and mirror image added, of unit length, nothing subtracted


def group_photos(shared: Path) -> list[Path]:
    """The group photos and the photos with several faces, without the collage."""
    found = [*(shared / "data/groups").glob("*.jpg"), *(shared / "data/photos").glob("*.jpg")]
    return sorted(path for path in found if path.name != "bald_guys.jpg")


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def uncentred(embedder: facespace.Embedder, crops: np.ndarray) -> np.ndarray:
    if not len(crops):
        return np.empty((0, embedder.dimension), np.float32)
    mirrored = np.ascontiguousarray(crops[:, :, ::-1])
    return unit(np.asarray(embedder.embed(crops)) + np.asarray(embedder.embed(mirrored)))


def group_faces(images: dict[str, object], embedder: facespace.Embedder, detector: object) -> GroupFaces:
    """All faces of named images."""
    photos = list(facespace.process(images.values(), detector, embedder, keep_crops=True))
    faces = [(name, face) for name, photo in zip(images, photos, strict=True) for face in photo.faces]
    boxes = np.array([face.box for _, face in faces])
    return GroupFaces(
        np.array([name for name, _ in faces]),
        boxes,
        (boxes[:, 2:] - boxes[:, :2]).max(axis=1),
        np.array([face.quality for _, face in faces]),
        np.concatenate([uncentred(embedder, photo.crops) for photo in photos if photo.faces]),
    )


def pairs_within(photo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (first, second) of every pair of faces in one photo."""
    first, second = np.triu_indices(len(photo), 1)
    same = photo[first] == photo[second]
    return first[same], second[same]


def shift(quality: np.ndarray, slope: float = SLOPE) -> np.ndarray:
    return LookAlikes((), (), slope, 0, 0).shift(quality)


class Curves:
    """The share of pairs within a photo that reaches a similarity at quality 1, each photo alike."""

    def __init__(self, photo: np.ndarray, adjusted: np.ndarray) -> None:
        names, counts = np.unique(photo, return_counts=True)
        self.photos = names[counts >= LEAST_PAIRS]
        self._reached = {
            name: 1 - np.searchsorted(np.sort(adjusted[photo == name]), _GRID, side="left") / (photo == name).sum()
            for name in self.photos
        }

    def bound(self, level: float, without: str | None = None) -> np.ndarray:
        """The upper bound of that level over draws of photos, at every similarity of the grid."""
        kept = np.stack([self._reached[name] for name in self.photos if name != without])
        draws = np.random.default_rng(0).integers(0, len(kept), (DRAWS, len(kept)))
        weights = np.stack([np.bincount(draw, minlength=len(kept)) for draw in draws]) / len(kept)
        return np.quantile(weights @ kept, level, axis=0)

    def table(self, level: float, without: str | None = None) -> list[list[float]]:
        """(rate, similarity) from the most frequent to the rarest; similarities rise strictly."""
        curve = self.bound(level, without)
        found: list[list[float]] = []
        for rate in FMR:
            at = round(float(_GRID[int(np.argmax(curve <= rate))]), 4)
            if found and at <= found[-1][1]:
                at = round(found[-1][1] + 1e-3, 4)
            found.append([rate, at])
        return found


def look_alikes(
    faces: GroupFaces, center: np.ndarray, without: str | None = None, *, blind: bool = False
) -> LookAlikes:
    """The calibration's part that these photos tell, perhaps without one of them, or `blind` to quality."""
    slope = 0.0 if blind else SLOPE
    vectors = unit(faces.vectors - center)
    first, second = pairs_within(faces.photo)
    quality = (faces.quality[first] + faces.quality[second]) / 2
    curves = Curves(faces.photo[first], (vectors[first] * vectors[second]).sum(axis=1) - shift(quality, slope))
    as_tuples = [
        tuple((rate, at) for rate, at in curves.table(level, without)) for level in (BOUND_PAIRS, BOUND_PEOPLE)
    ]
    kept = [name for name in curves.photos if name != without]
    return LookAlikes(*as_tuples, slope, len(kept), int(np.isin(faces.photo, kept).sum()))


def same_faces(faces: GroupFaces, copies: GroupFaces, scale: float) -> np.ndarray:
    """For each face its row in copies of the photos at a scale, or −1."""
    rows = np.full(len(faces.photo), -1)
    for k, (name, box) in enumerate(zip(faces.photo, faces.box, strict=True)):
        there = np.flatnonzero(copies.photo == name)
        if len(there):
            common = overlaps(box[None] * scale, copies.box[there])[0]
            if common.max() > 0.4:
                rows[k] = there[common.argmax()]
    return rows
