"""The devices and number formats in which networks run."""

from __future__ import annotations

from typing import Literal

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["fastest", "float32"]
