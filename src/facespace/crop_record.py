"""How the crops of a folder were made: the file `align.json` beside them, and whether a model may use them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from facespace.errors import DatasetError, ModelError
from facespace.face import InputSpec
from facespace.files import atomic_path

FILE_NAME = "align.json"
_MAX_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class CropRecord:
    """The making of crops, all of one folder alike.

    `image_size` in pixels, `crop_margin` in source pixels and `template` are those of `InputSpec`; `faces` says which
    faces of a photo were kept: the one the 2018 rule chooses (`central`), the one the detector is surest of
    (`most-confident`), or `all`. `format`: png, jpeg or webp. `min_size`: the detector's smallest face in pixels.
    """

    image_size: int
    crop_margin: int
    template: Literal["box", "arcface"]
    faces: Literal["central", "most-confident", "all"] = "central"
    format: Literal["png", "jpeg", "webp"] = "png"
    min_size: float = 20.0

    def __post_init__(self) -> None:
        self.input_spec()  # checks the first three
        for name, allowed in (("faces", ("central", "most-confident", "all")), ("format", ("png", "jpeg", "webp"))):
            if getattr(self, name) not in allowed:
                raise DatasetError(f"{name} wants one of {', '.join(allowed)}; got {getattr(self, name)!r}")
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
            path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


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
