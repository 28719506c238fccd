"""Does this machine compute what the published weights should give? Asked of fixed patterns, not of photos."""

from __future__ import annotations

import importlib.resources
import json
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from facespace.defaults import DEFAULT_MODEL
from facespace.detection.mtcnn.networks import output_network
from facespace.embedding.embedder import Embedder


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
    wanted = json.loads(importlib.resources.files("facespace").joinpath("selftest.json").read_text(encoding="utf-8"))
    head = np.array(wanted["embedding_head"])
    cosine = _cosine(embedder.embed(pattern(embedder.spec.size)[None])[0][: len(head)], head)
    result.checks.append(("embedding of a fixed pattern", cosine >= 0.995, f"cosine {cosine:.6f} to the reference"))
    heads = onet.run(pattern(48).astype(np.float32).transpose(2, 0, 1)[None])[0][0]
    difference = float(np.abs(heads - np.array(wanted["onet_heads"])).max())
    result.checks.append(("detector on a fixed pattern", difference <= 1e-3, f"largest difference {difference:.1e}"))
    return result


def _cosine(a: npt.NDArray[np.float32], b: npt.NDArray[np.float64]) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
