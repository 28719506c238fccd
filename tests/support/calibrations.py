"""A calibration with round numbers, and an embedder that uses it."""

from __future__ import annotations

import dataclasses

import numpy as np

from facespace.embedding.calibration import Calibration
from facespace.faces.input_spec import InputSpec

DIMENSION = 8


CALIBRATION = Calibration(
    model="stub", fingerprint="f" * 64, runtime="onnxruntime", precision="float32",
    fmr=(0.5, 1e-1, 1e-2, 1e-3, 1e-4), similarity=(0.0, 0.2, 0.4, 0.5, 0.6),
    template_shift=((1, 0.0), (2, 0.05), (4, 0.1)), center=np.zeros(DIMENSION, np.float32), n_photos=1, n_people=1,
)  # fmt: skip


@dataclasses.dataclass
class StubEmbedder:
    name: str = "stub"
    fingerprint: str = "f" * 64
    spec: InputSpec = InputSpec(size=16, template="box")  # noqa: RUF009
    dimension: int = DIMENSION
    calibration: Calibration | None = CALIBRATION
    runtime: str = "onnxruntime"
    detector: str = "yunet"
    precision: str = "float32"

    def represent(self, crops: np.ndarray) -> np.ndarray:
        rows = [np.random.default_rng(list(crop.tobytes())).standard_normal(self.dimension) for crop in crops]
        return np.array([row / np.linalg.norm(row) for row in rows], np.float32).reshape(-1, self.dimension)


def crop(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3)).astype(np.uint8)
