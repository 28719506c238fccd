"""The record of how a folder's crops were made, `align.json`, and checks whether a model may use them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from facespace.errors import DatasetError, ImageError, ModelError
from facespace.faces.input_spec import InputSpec
from facespace.io import image
from facespace.io.files import atomic_path
from facespace.io.text import plain_text

FILE_NAME = "align.json"
# The 2018 trainers cut 160 px out of crops of 182 px. Crops larger by at most this factor are treated the same way.
_LARGEST_CUT = 1.25
_MAX_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class CropRecord:
    """How the crops of one folder were made, which is the same for all of them.

    `image_size` (pixels), `crop_margin` (source pixels) and `template` are as in `InputSpec`. `faces` says which
    faces of a photo were kept: the face that the 2018 aligner chooses (`central`, see `face.central_face`), the face
    with the highest score (`most-confident`), or `all`. `format` is png, jpeg or webp. `detector` is the name of the
    detector, `min_size` the size in pixels of the smallest face that it searched for. `model` is the name of the
    model that the crops were made for; it is empty in older records.
    """

    image_size: int
    crop_margin: int
    template: Literal["box", "arcface"]
    faces: Literal["central", "most-confident", "all"] = "central"
    format: Literal["png", "jpeg", "webp"] = "png"
    min_size: float = 20.0
    detector: str = "mtcnn"
    model: str = ""

    def __post_init__(self) -> None:
        self.input_spec()  # checks the first three
        for name, allowed in (("faces", ("central", "most-confident", "all")), ("format", ("png", "jpeg", "webp"))):
            if getattr(self, name) not in allowed:
                raise DatasetError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if not isinstance(self.detector, str) or not isinstance(self.model, str):
            raise DatasetError(f"detector and model must be names, got {self.detector!r} and {self.model!r}")
        if not isinstance(self.min_size, (int, float)) or not 2 <= self.min_size <= 1e6:
            raise DatasetError(f"min_size must be at least 2 pixels, got {self.min_size!r}")

    def input_spec(self) -> InputSpec:
        """Return the `InputSpec` of a model that takes these crops. Raises `DatasetError` if it would be invalid."""
        try:
            return InputSpec(self.image_size, self.template, self.crop_margin)
        except ModelError as error:
            raise DatasetError(str(error).removeprefix("input spec: ")) from None

    def misfit(self, spec: InputSpec) -> str | None:
        """Return why a model with this `spec` may not use these crops, or None if it may.

        The crops and the spec must have equal sizes and templates, and equal margins if the template is `box`.

        >>> CropRecord(112, 0, "arcface").misfit(InputSpec(160, "box", 32))
        'the crops are 112 px arcface, the model takes 160 px box with a margin of 32'
        """
        made, taken = _words(self.image_size, self.template, self.crop_margin), _words_of(spec)
        return None if made == taken else f"the crops are {made}, the model takes {taken}"

    def write(self, folder: Path) -> None:
        """Write `align.json` into the folder."""
        with atomic_path(folder / FILE_NAME) as path:
            path.write_text(self.text(), encoding="utf-8")

    def text(self) -> str:
        """Return the content of `align.json`."""
        return json.dumps(asdict(self), indent=1) + "\n"


def _words_of(spec: InputSpec) -> str:
    return _words(spec.size, spec.template, spec.crop_margin)


def _words(size: int, template: str, crop_margin: int) -> str:
    return f"{size} px {template}" + (f" with a margin of {crop_margin}" if template == "box" else "")


def read_record(folder: Path) -> CropRecord | None:
    """Read the record of a folder of crops; None if it has no `align.json`. Raises `DatasetError` if it is damaged."""
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_BYTES:
        raise DatasetError(f"{path}: not a record of crops (it is too long)")
    try:
        fields: Any = json.loads(path.read_text(encoding="utf-8"))
        return CropRecord(**fields)
    except (ValueError, TypeError, RecursionError):
        raise DatasetError(f"{path}: not a record of crops; it was damaged, or written by something else") from None
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from None


def holds_crops(root: str | os.PathLike[str], spec: InputSpec, *, aligned: bool = False) -> bool:
    """Return whether a folder contains aligned crops: it has `align.json`, or `aligned` is true.

    Raises `DatasetError` if the crops that `align.json` describes do not fit the model's `spec`. Larger `box` crops fit
    if their centre can be used (`may_be_cut`).
    """
    record = read_record(Path(root))
    if record is None:
        return aligned
    reason = record.misfit(spec)
    if reason and not (
        record.template == spec.template == "box"
        and spec.size < record.image_size
        and may_be_cut(record.image_size, record.image_size, spec.size)
    ):
        raise DatasetError(
            f"{plain_text(os.fspath(root))}: {reason}; align the photos again for it, or give the photos"
        )
    return True


def aligned_record(folder: Path, spec: InputSpec, sample: Path | None) -> CropRecord:
    """Return a folder's `align.json`; without it, a record with the settings of `spec` but the size of a `sample`."""
    record = read_record(folder)
    if record is not None:
        return record
    if sample is None:
        return CropRecord(spec.size, spec.crop_margin, spec.template)
    height, width = image.read(sample).shape[:2]
    if height != width:
        raise DatasetError(f"{plain_text(str(sample))}: {width}x{height} px; aligned crops are square")
    return CropRecord(width, spec.crop_margin, spec.template)


def may_be_cut(height: int, width: int, size: int) -> bool:
    """Return whether a crop is square with a side of `size` pixels, or so little larger that its centre can be used.

    >>> may_be_cut(160, 160, 160), may_be_cut(182, 182, 160), may_be_cut(250, 250, 160)
    (True, True, False)
    """
    return height == width and size <= height <= size * _LARGEST_CUT


def size_of_first(paths: Iterable[str | os.PathLike[str]]) -> tuple[int, int] | None:
    """Return (height, width) of the first readable image, or None if none can be read."""
    for path in paths:
        try:
            height, width = image.read(path).shape[:2]
        except ImageError:
            continue
        return height, width
    return None


def resize(crop: image.RGB, size: int) -> image.RGB:
    """Resize a square crop to (size,size,3) bilinearly; a crop that already has this size is returned unchanged."""
    if crop.shape[:2] == (size, size):
        return crop
    return np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.BILINEAR))


def fit(pixels: image.RGB, size: int) -> tuple[image.RGB, str]:
    """Bring a crop (H,W,3) to (size,size,3), and describe how that was done.

    A crop whose sides are both at least `size` and at most a quarter larger is cut to its centre, as the 2018 trainer
    cuts 160 px out of 182 px. Any other crop is cut to its central square, if it is not square, and resized.

    >>> crop, how = fit(np.zeros((182, 182, 3), np.uint8), 160)
    >>> crop.shape, how
    ((160, 160, 3), 'the central 160 px of 182 px crops')
    """
    height, width = pixels.shape[:2]
    if (height, width) == (size, size):
        return pixels, f"{size} px crops as they are"
    side = min(height, width)
    cut = size <= side and max(height, width) <= size * _LARGEST_CUT
    square = _central(pixels, size if cut else side)
    came = f"{width} px" if height == width else f"{width}x{height} px"
    if cut:
        return square, f"the central {size} px of {came} crops"
    return resize(square, size), f"{came} crops resized to {size} px"


def _central(pixels: image.RGB, side: int) -> image.RGB:
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])
