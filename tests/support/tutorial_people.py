"""Small folders of people for the tests of the legacy commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import facespace


def _varied(pixels: np.ndarray, k: int) -> Image.Image:
    """Return the picture, darker with every number and mirrored every second time."""
    darker = (pixels * (1 - 0.06 * k)).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(darker[:, ::-1] if k % 2 else darker))


def write_photos(root: Path, files: dict[str, Path], n: int) -> Path:
    """Write `n` photos of each person, named as in LFW."""
    for name, file in files.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for k in range(n):
            _varied(facespace.read(file), k).save(root / name / f"{name}_{k + 1:04d}.jpg", quality=95)
    return root


def write_crops(
    root: Path, detector: facespace.MTCNN, files: dict[str, Path], n: int, *, size: int = 160, margin: int = 32
) -> Path:
    """Write `n` aligned crops of each person, named as in LFW."""
    spec = facespace.InputSpec(size, "box", margin)
    for name, file in files.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        pixels = facespace.read(file)
        crop = facespace.align(pixels, detector.detect(pixels)[0], spec)
        for k in range(n):
            _varied(crop, k).save(root / name / f"{name}_{k + 1:04d}.png")
    return root


def write_pairs(path: Path, names: tuple[str, str], *, n_folds: int, n_each: int) -> Path:
    """Write a list like LFW's `pairs.txt` over the photos 1, 2, … of two people; the last photo is n_folds · n_each +
    1.
    """
    lines = [f"{n_folds}\t{n_each}"]
    for fold in range(n_folds):
        numbers = [fold * n_each + k + 1 for k in range(n_each)]
        lines += [f"{names[k % 2]}\t{number}\t{number + 1}" for k, number in enumerate(numbers)]
        lines += [f"{names[0]}\t{number}\t{names[1]}\t{number}" for number in numbers]
    path.write_text("\n".join(lines) + "\n")
    return path
