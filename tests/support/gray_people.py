"""People represented by one gray level each, with a detector and an embedder for them, to test naming without networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import pytest

from facespace.faces.face import Face
from facespace.faces.input_spec import InputSpec
from facespace.video.reader import Frame

DIMENSION = 8
BORDER = 127  # gray of the border in second searches; not a person


class StubDetector:
    """Finds a face for each square of one gray on black, from left to right; `calls` records the batch sizes."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def detect_many(self, images: Iterable[np.ndarray]) -> list[list[Face]]:
        found = [self._faces(image[..., 0]) for image in images]
        self.calls.append(len(found))
        return found

    def _faces(self, gray: np.ndarray) -> list[Face]:
        faces = []
        for value in dict.fromkeys(gray.max(axis=0).tolist()):
            if value not in (0, BORDER):
                rows, columns = np.nonzero(gray == value)
                box = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
                faces.append(Face(box, 0.9, ((box[0], box[1]),) * 5))
        return faces


@dataclasses.dataclass
class StubEmbedder:
    """Embeds a gray as a fixed unit vector; those of 10 and 11 are similar, all others are strangers."""

    spec: InputSpec = InputSpec(size=16, template="box")  # noqa: RUF009
    dimension: int = DIMENSION
    calibration: None = None

    def represent(self, crops: np.ndarray) -> np.ndarray:
        assert len(crops) <= 64
        grays = [int(crop.max()) for crop in crops]
        return np.array([embedding(gray) for gray in grays], np.float32).reshape(-1, DIMENSION)


def embedding(gray: int) -> np.ndarray:
    vector = np.eye(DIMENSION)[gray // 10 % DIMENSION] + 0.3 * (gray % 10) * np.eye(DIMENSION)[7]
    return vector / np.linalg.norm(vector)


@dataclasses.dataclass(frozen=True)
class Said:
    name: str | None
    similarity: float | None
    threshold: float


NAMES = {10: "Anna", 20: "Ben"}


def namer(embeddings: np.ndarray) -> list[Said]:
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(1)
    said = []
    for vector in embeddings:
        similarity, name = max((float(vector @ embedding(gray)), name) for gray, name in NAMES.items())
        said.append(Said(name if similarity >= 0.9 else None, similarity, 0.9))
    return said


def frame(k: int, *grays: int, seconds: float | None = None) -> Frame:
    """Return squares of these grays side by side, 20 px wide."""
    pixels = np.zeros((40, 200, 3), np.uint8)
    for place, gray in enumerate(grays):
        pixels[10:30, 10 + 40 * place : 30 + 40 * place] = gray
    return Frame(5 * k, k / 5 if seconds is None else seconds, pixels)
