"""Where networks compute, and in what."""

from __future__ import annotations

from typing import Literal

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["fastest", "float32"]
