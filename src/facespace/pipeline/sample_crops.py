"""Samples crops from a folder to measure a network on: statistics, parity, ranges for int8."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from facespace.errors import DatasetError, ImageError
from facespace.faces.crops import fit
from facespace.faces.input_spec import InputSpec
from facespace.io import image
from facespace.io.prefetch import map_ahead
from facespace.io.text import plain_text
from facespace.pipeline.photos import find_images


def sample_crops(folder: Path, spec: InputSpec, n: int) -> npt.NDArray[np.uint8]:
    """Return at most `n` crops (N,S,S,3) uint8, evenly spread over the images below a folder sorted by name.

    Crops of another size are resized to S by `faces.crops.fit`; images that cannot be read are skipped. Raises
    `DatasetError` if no crop is left.
    """
    if not folder.is_dir():
        raise DatasetError(f"{plain_text(os.fspath(folder))}: not a folder; it must be a folder of aligned crops")
    paths = list(find_images([os.fspath(folder)]))
    chosen = [paths[int(at)] for at in np.linspace(0, len(paths) - 1, min(n, len(paths)))]
    # Resize in the reading threads, so that photos given in place of crops are never all in memory.
    read = map_ahead(lambda path: _read(path, spec.size), chosen, threads=2, ahead=8)
    crops = [crop for crop in read if crop is not None]
    if not crops:
        raise DatasetError(
            f"{plain_text(os.fspath(folder))}: contains no readable image; it must contain aligned crops"
        )
    return np.stack(crops)


def _read(path: str, size: int) -> npt.NDArray[np.uint8] | None:
    try:
        return np.array(fit(image.read(path), size)[0])
    except ImageError:
        return None
