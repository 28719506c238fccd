"""Checks that this machine computes the published weights' reference outputs, on fixed patterns instead of photos."""

from __future__ import annotations

import importlib.resources
import json
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from facespace.defaults import DEFAULT_MODEL
from facespace.detection.mtcnn.networks import output_network
from facespace.detection.yunet import YuNet
from facespace.embedding.embedder import Embedder


@dataclass(slots=True)
class SelfTest:
    """The result of `selftest`. Each of `checks` is (description, whether it passed, measured figure)."""

    model: str
    runtime: str
    precision: str
    detector_runtime: str
    thresholds: str
    checks: list[tuple[str, bool, str]] = field(default_factory=list)


def pattern(size: int) -> npt.NDArray[np.uint8]:
    """Return a crop (size,size,3) of smooth waves, identical on every machine."""
    y, x = np.mgrid[0:size, 0:size] / size
    waves = [np.sin(2 * np.pi * (a * x + b * y)) for a, b in ((1, 2), (3, 1), (2, -3))]
    crop: npt.NDArray[np.uint8] = np.rint(np.stack([127.5 + 120 * wave for wave in waves], axis=2)).astype(np.uint8)
    return crop


def selftest() -> SelfTest:
    """Run the checks; every network is loaded, so a missing or altered weight file raises `ModelError`."""
    embedder, onet, yunet = Embedder.load(), output_network(), YuNet()
    calibration = embedder.calibration
    result = SelfTest(
        model=DEFAULT_MODEL,
        runtime=embedder.runtime,
        precision=embedder.precision,
        detector_runtime=yunet.runtime,
        thresholds=f"measured on {calibration.conditions}, {calibration.runtime} {calibration.precision}"
        if calibration
        else "none",
    )
    references = json.loads(
        importlib.resources.files("facespace").joinpath("selftest.json").read_text(encoding="utf-8")
    )
    for name, head in references["embedding_heads"].items():
        model = embedder if name == DEFAULT_MODEL else Embedder.load(name)
        cosine = _cosine(model.embed(pattern(model.spec.size)[None])[0][: len(head)], np.array(head))
        what = f"embedding of a fixed pattern by {name}"
        result.checks.append((what, cosine >= 0.995, f"cosine {cosine:.6f} to the reference"))
    boxes = yunet.boxes(pattern(96)).reshape(-1)[: len(references["yunet_boxes"])]
    heads = onet.run(pattern(48).astype(np.float32).transpose(2, 0, 1)[None])[0][0]
    for name, found, reference in (("yunet", boxes, "yunet_boxes"), ("mtcnn", heads, "onet_heads")):
        difference = float(np.abs(found - np.array(references[reference])).max())
        what = f"detector {name} on a fixed pattern"
        result.checks.append((what, difference <= 1e-3, f"largest difference {difference:.1e}"))
    return result


def _cosine(a: npt.NDArray[np.float32], b: npt.NDArray[np.float64]) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
