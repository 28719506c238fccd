"""A sample of crops from a folder, to measure a network on: statistics, parity, ranges for int8."""

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
    """At most `n` crops (N,S,S,3) uint8, evenly spread over the images below a folder in the order of their names.

    Crops of another size are brought to S by `faces.crops.fit`; images that cannot be read are passed over. Raises
    `DatasetError` where no crop is left.
    """
    if not folder.is_dir():
        raise DatasetError(f"{plain_text(os.fspath(folder))}: not a folder; wanted is one with aligned crops")
    paths = list(find_images([os.fspath(folder)]))
    chosen = [paths[int(at)] for at in np.linspace(0, len(paths) - 1, min(n, len(paths)))]
    crops = [crop for crop in map_ahead(_read, chosen, threads=2, ahead=8) if crop is not None]
    if not crops:
        raise DatasetError(f"{plain_text(os.fspath(folder))}: no image in it can be read; wanted are aligned crops")
    return np.stack([fit(crop, spec.size)[0] for crop in crops])


def _read(path: str) -> npt.NDArray[np.uint8] | None:
    try:
        return image.read(path)
    except ImageError:
        return None
