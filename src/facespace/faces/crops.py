"""How the crops of a folder were made: the file `align.json` beside them, and whether a model may use them."""

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
# The 2018 trainers cut crops of 160 px out of larger ones of 182: a crop larger by no more than this was made for that.
_LARGEST_CUT = 1.25
_MAX_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class CropRecord:
    """The making of crops, all of one folder alike.

    `image_size` in pixels, `crop_margin` in source pixels and `template` are those of `InputSpec`; `faces` says which
    faces of a photo were kept: the one the 2018 rule chooses (`central`), the one the detector is surest of
    (`most-confident`), or `all`. `format`: png, jpeg or webp. `min_size`: the detector's smallest face in pixels, `detector` its
    name. `model`: the name of the model they were made for; records of before have none.
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
                raise DatasetError(f"{name} wants one of {', '.join(allowed)}; got {getattr(self, name)!r}")
        if not isinstance(self.detector, str) or not isinstance(self.model, str):
            raise DatasetError(f"detector and model must be names, got {self.detector!r} and {self.model!r}")
        if not isinstance(self.min_size, (int, float)) or not 2 <= self.min_size <= 1e6:
            raise DatasetError(f"min_size wants at least 2 pixels; got {self.min_size!r}")

    def input_spec(self) -> InputSpec:
        """What `align` wants to make such crops. `DatasetError` where no model could have it."""
        try:
            return InputSpec(self.image_size, self.template, self.crop_margin)
        except ModelError as error:
            raise DatasetError(str(error).removeprefix("input spec: ")) from None

    def misfit(self, spec: InputSpec) -> str | None:
        """Why a model with this `spec` may not use such crops, or None where it may.

        The margin of `box` crops may differ as little as models differ in what they were trained with: not at all.

        >>> CropRecord(112, 0, "arcface").misfit(InputSpec(160, "box", 32))
        'the crops are 112 px arcface, the model wants 160 px box with a margin of 32'
        """
        made, wanted = _words(self.image_size, self.template, self.crop_margin), _words_of(spec)
        return None if made == wanted else f"the crops are {made}, the model wants {wanted}"

    def write(self, folder: Path) -> None:
        """Write `align.json` into the folder."""
        with atomic_path(folder / FILE_NAME) as path:
            path.write_text(self.text(), encoding="utf-8")

    def text(self) -> str:
        """What `align.json` holds."""
        return json.dumps(asdict(self), indent=1) + "\n"


def _words_of(spec: InputSpec) -> str:
    return _words(spec.size, spec.template, spec.crop_margin)


def _words(size: int, template: str, crop_margin: int) -> str:
    return f"{size} px {template}" + (f" with a margin of {crop_margin}" if template == "box" else "")


def read_record(folder: Path) -> CropRecord | None:
    """The record of a folder of crops, or None where there is no `align.json`; `DatasetError` for a damaged one."""
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
    """Whether a folder has aligned crops: it has `align.json`, or `aligned` says so.

    Raises `DatasetError` where its crops were made for a model of another kind.
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
    """How the crops of a folder were made: its `align.json`, else told by the size of a `sample` alone."""
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
    """Whether a crop is of `size` pixels, or so little larger that its centre is what a network of `size` takes.

    >>> may_be_cut(160, 160, 160), may_be_cut(182, 182, 160), may_be_cut(250, 250, 160)
    (True, True, False)
    """
    return height == width and size <= height <= size * _LARGEST_CUT


def size_of_first(paths: Iterable[str | os.PathLike[str]]) -> tuple[int, int] | None:
    """(height, width) of the first image that can be read, or None where none can."""
    for path in paths:
        try:
            height, width = image.read(path).shape[:2]
        except ImageError:
            continue
        return height, width
    return None


def resize(crop: image.RGB, size: int) -> image.RGB:
    """A square crop resized to (size,size,3), bilinear; one of that size is returned as it is."""
    if crop.shape[:2] == (size, size):
        return crop
    return np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.BILINEAR))


def fit(pixels: image.RGB, size: int) -> tuple[image.RGB, str]:
    """A crop (H,W,3) as (size,size,3), and how, in words.

    What is larger by up to a quarter gives its centre, as the 2018 trainer takes 160 px of 182; everything else is
    resized, of a crop that is not square the central square.

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
