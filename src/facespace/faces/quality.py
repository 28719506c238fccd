"""Estimates how well a face can be recognised, from its size, sharpness, contrast and detector score."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from facespace.faces.alignment import align
from facespace.faces.face import Face
from facespace.faces.input_spec import ARCFACE_SIZE, INPUT_SPECS

# Fitted by benchmarks/quality.py: the odds that a face and a good photo of the same person reach SFace's similarity for
# one false match in a thousand, over photos of View 1 of LFW that were shrunk, blurred, darkened and recompressed.
_SIZE, _SHARPNESS, _CONTRAST, _SCORE, _BIAS = 0.93, 4.70, -0.88, 5.11, -10.97
_SIZES = (8.0, 100.0)  # pixels; size has no effect outside this range
_TOP_SCORE = 0.93  # scores above it count as this, since detectors differ there
_SPREAD = 3.0  # divides the log-odds, so that qualities of portraits also vary

LOW_QUALITY = 0.35  # faces below it are reported as too small, too blurred or too dark
_SMALL = 32.0  # pixels of the longer side; smaller faces are reported as too small


def face_quality(image: npt.NDArray[np.uint8], face: Face, crop: npt.NDArray[np.uint8] | None = None) -> float:
    """Return the quality of a face in an image (H,W,3), from 0 to 1; at 0.5 the face is recognised half of the time.

    q = σ(z/3), z = 0.93·ln(size) + 4.70·ln(1 + sharpness) − 0.88·ln(1 + contrast) + 5.11·score − 10.97. Size is the
    longer side of the box in pixels, limited to 8 to 100; the score is limited to 0.93. Sharpness is the standard
    deviation of the Laplacian and contrast that of grey, over rows 16 to 111 and columns 16 to 95 of the five-point
    crop of 112 px. `crop` is that crop, if the caller has it. Landmarks that all coincide give 0.

    >>> from facespace.faces.face import Face
    >>> points = ((20, 40), (40, 40), (30, 50), (22, 60), (38, 60))
    >>> blank = np.full((100, 100, 3), 128, np.uint8)
    >>> face_quality(blank, Face((10, 20, 50, 70), 0.9, points)) < 0.3
    True
    """
    if len(set(face.crop_points or face.landmarks)) < 2:
        return 0.0  # coinciding points define no crop
    if crop is None:
        crop = align(image, face, INPUT_SPECS["sface"])
    return _quality(crop, max(face.width, face.height), face.score)


def crop_quality(crop: npt.NDArray[np.uint8]) -> float:
    """Return the quality of a five-point crop (112,112,3), assuming a large face with a high score.

    An enlarged small face is not sharp, so the crop alone shows most of its quality.
    """
    return _quality(crop, _SIZES[1], _TOP_SCORE)


def weakness(face: Face) -> str:
    """Return why a face cannot be recognised; empty for a face of sufficient or unknown quality.

    >>> points = ((20, 40), (40, 40), (30, 50), (22, 60), (38, 60))
    >>> weakness(Face((0, 0, 14, 18), 0.7, points, quality=0.2)), weakness(Face((0, 0, 80, 99), 0.9, points, quality=0.2))
    ('too small', 'too blurred or dark')
    """
    if face.quality is None or face.quality >= LOW_QUALITY:
        return ""
    return "too small" if max(face.width, face.height) < _SMALL else "too blurred or dark"


def _quality(crop: npt.NDArray[np.uint8], size: float, score: float) -> float:
    if crop.shape != (ARCFACE_SIZE, ARCFACE_SIZE, 3):
        raise ValueError(f"a five-point crop must be ({ARCFACE_SIZE}, {ARCFACE_SIZE}, 3), got {crop.shape}")
    grey = np.asarray(Image.fromarray(np.ascontiguousarray(crop)).convert("L"), np.float32)[16:112, 16:96]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    z = (
        _SIZE * math.log(min(max(size, _SIZES[0]), _SIZES[1]))
        + _SHARPNESS * math.log1p(float(laplacian.std()))
        + _CONTRAST * math.log1p(float(grey.std()))
        + _SCORE * min(score, _TOP_SCORE)
        + _BIAS
    )
    return 1 / (1 + math.exp(-z / _SPREAD))
