"""Does this machine compute what the published weights should give? Asked of fixed patterns, not of photos."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from facespace.defaults import DEFAULT_MODEL
from facespace.detection.mtcnn.networks import output_network
from facespace.embedding.embedder import Embedder

# Outputs of the default model and of O-Net for `pattern`, computed once in float32 by plain ONNX Runtime.
EMBEDDING_HEAD = (
    -0.015267,
    0.090393,
    0.115731,
    -0.049147,
    0.006190,
    -0.019636,
    -0.051335,
    -0.095602,
    -0.029546,
    -0.023284,
    0.038860,
    0.020349,
    0.106461,
    -0.000559,
    0.041289,
    0.034105,
    0.085725,
    -0.086942,
    0.002491,
    0.020911,
    -0.032264,
    -0.023903,
    -0.037211,
    0.032787,
    -0.044733,
    -0.030602,
    0.080451,
    -0.092263,
    0.063378,
    0.045236,
    0.035563,
    0.023024,
)
ONET_HEADS = (
    -1.50387,
    0.06153,
    -0.00429,
    -0.06172,
    0.07178,
    0.37751,
    0.71666,
    0.40794,
    0.22414,
    0.48984,
    0.20117,
    0.34769,
    0.51548,
    0.69770,
    0.82416,
)


@dataclass(slots=True)
class SelfTest:
    """`checks` are (what, whether it holds, the figure)."""

    model: str
    runtime: str
    precision: str
    detector_runtime: str
    thresholds: str
    checks: list[tuple[str, bool, str]] = field(default_factory=list)


def pattern(size: int) -> npt.NDArray[np.uint8]:
    """A crop (size,size,3) of smooth waves, the same on every machine."""
    y, x = np.mgrid[0:size, 0:size] / size
    waves = [np.sin(2 * np.pi * (a * x + b * y)) for a, b in ((1, 2), (3, 1), (2, -3))]
    crop: npt.NDArray[np.uint8] = np.rint(np.stack([127.5 + 120 * wave for wave in waves], axis=2)).astype(np.uint8)
    return crop


def selftest() -> SelfTest:
    """Run the checks; every network is loaded, so a missing or altered weight file raises `ModelError`."""
    embedder, onet = Embedder.load(), output_network()
    known = embedder.calibration
    result = SelfTest(
        model=DEFAULT_MODEL,
        runtime=embedder.runtime,
        precision=embedder.precision,
        detector_runtime=onet.runtime,
        thresholds=f"measured on {known.n_people} people, {known.runtime} {known.precision}" if known else "none",
    )
    embedding = embedder.embed(pattern(embedder.spec.size)[None])[0][: len(EMBEDDING_HEAD)]
    cosine = _cosine(embedding, np.array(EMBEDDING_HEAD))
    result.checks.append(("embedding of a fixed pattern", cosine >= 0.995, f"cosine {cosine:.6f} to the reference"))
    heads = onet.run(pattern(48).astype(np.float32).transpose(2, 0, 1)[None])[0][0]
    difference = float(np.abs(heads - np.array(ONET_HEADS)).max())
    result.checks.append(("detector on a fixed pattern", difference <= 1e-3, f"largest difference {difference:.1e}"))
    return result


def _cosine(a: npt.NDArray[np.float32], b: npt.NDArray[np.float64]) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
