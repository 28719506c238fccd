"""Describes what a network was trained to see: size, template, channel order and scaling of its crops."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from facespace.errors import ModelError

ARCFACE_SIZE = 112


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a network was trained to see; it belongs to the weights and is never an option of recognition commands.

    `size` is the side of the square crop in pixels. `template` is `box`, the detector's box widened by `crop_margin`
    source pixels in total (half on each side) and resized, as FaceNet's aligner does; or `arcface`, where a similarity
    transform moves the five landmarks onto a fixed template. `channel_order` is RGB or BGR. `standardization` is
    `fixed`, (x − mean) / std; or `per-image`, (x − mean of the crop) / max(its std, 1/√N) for N values in the crop.
    """

    size: int
    template: Literal["box", "arcface"]
    crop_margin: int = 0
    channel_order: Literal["RGB", "BGR"] = "RGB"
    standardization: Literal["fixed", "per-image"] = "fixed"
    mean: float = 127.5
    std: float = 128.0

    def __post_init__(self) -> None:
        checks = {
            "size": isinstance(self.size, int) and 16 <= self.size <= 1024,
            "template": self.template in ("box", "arcface"),
            "crop_margin": isinstance(self.crop_margin, int) and 0 <= self.crop_margin <= 1024,
            "channel_order": self.channel_order in ("RGB", "BGR"),
            "standardization": self.standardization in ("fixed", "per-image"),
            "mean": isinstance(self.mean, (int, float)) and -1e6 <= self.mean <= 1e6,
            "std": isinstance(self.std, (int, float)) and 1e-6 <= self.std <= 1e6,
        }
        for field, valid in checks.items():
            if not valid:
                raise ModelError(f"input spec: {field} cannot be {getattr(self, field)!r}")

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> InputSpec:
        """Build a spec from the result of `as_dict`. Raises `ModelError` for a field that is missing or unknown."""
        fields = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(data) - fields):
            raise ModelError(f"input spec: unknown field {unknown[0]!r}; it has {', '.join(sorted(fields))}")
        if missing := sorted({"size", "template"} - set(data)):
            raise ModelError(f"input spec: the field {missing[0]!r} is missing")
        return cls(**data)

    def check(self, crops: npt.NDArray[np.uint8]) -> None:
        """Raise `ValueError` unless `crops` are (N,S,S,3) uint8."""
        if crops.ndim != 4 or crops.shape[1:] != (self.size, self.size, 3) or crops.dtype != np.uint8:
            raise ValueError(
                f"crops must be uint8 of shape (N, {self.size}, {self.size}, 3), "
                f"got {crops.dtype} of shape {crops.shape}"
            )

    def preprocess(self, crops: npt.NDArray[np.uint8], *, channels_first: bool = False) -> npt.NDArray[np.float32]:
        """Scale crops (N,S,S,3) uint8 RGB to the network's input, (N,S,S,3) float32, or (N,3,S,S) with `channels_first`.

        Raises `ValueError` for any other shape or type.
        """
        self.check(crops)
        if self.channel_order == "BGR":
            crops = crops[..., ::-1]
        if self.standardization == "fixed":
            # Reorder bytes rather than floats, which are four times as large.
            ordered = crops.transpose(0, 3, 1, 2) if channels_first else crops
            x = ordered.astype(np.float32, order="C")
            if self.mean != 0:
                x -= np.float32(self.mean)
            if self.std != 1:
                x *= np.float32(1 / self.std)
            return x
        x = crops.astype(np.float32)
        mean = x.mean(axis=(1, 2, 3), keepdims=True, dtype=np.float64)
        std = x.std(axis=(1, 2, 3), keepdims=True, dtype=np.float64)
        floor = 1 / math.sqrt(3 * self.size**2)
        result: npt.NDArray[np.float32] = ((x - mean) / np.maximum(std, floor)).astype(np.float32)
        return np.ascontiguousarray(result.transpose(0, 3, 1, 2)) if channels_first else result


# Presets for the field's published weights, which need no file.
INPUT_SPECS: dict[str, InputSpec] = {
    "facenet-2018": InputSpec(160, "box", crop_margin=32),
    "facenet-2017": InputSpec(160, "box", crop_margin=32, standardization="per-image"),
    "arcface-112": InputSpec(ARCFACE_SIZE, "arcface", mean=127.5, std=127.5),
    "sface": InputSpec(ARCFACE_SIZE, "arcface", mean=0.0, std=1.0),  # the network scales its input itself
}


def describe_spec(spec: InputSpec) -> str:
    """Describe an input spec in a few words.

    >>> describe_spec(INPUT_SPECS["facenet-2018"])
    'facenet-2018 (160 px box crops with margin 32, RGB, (x − 127.5)/128)'
    """
    preset = next((name for name, known in INPUT_SPECS.items() if known == spec), "its own")
    crop = (
        f"{spec.size} px box crops with margin {spec.crop_margin}"
        if spec.template == "box"
        else (f"{spec.size} px crops by five points")
    )
    scaling = "per-image prewhitening" if spec.standardization == "per-image" else f"(x − {spec.mean:g})/{spec.std:g}"
    return f"{preset} ({crop}, {spec.channel_order}, {scaling})"
