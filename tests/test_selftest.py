from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import facespace
from facespace import selftest as module
from facespace.detection.mtcnn.networks import output_network
from facespace.errors import ModelError
from facespace.models import opening
from facespace.selftest import pattern, selftest
from support.commands import Outcome, run_facespace


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, embedder: facespace.Embedder) -> None:
    load = module.Embedder.load
    monkeypatch.setattr(module.Embedder, "load", lambda *name: embedder if name else load("sface", precision="float32"))


def test_the_checks_pass_on_this_machine(loaded: None, embedder: facespace.Embedder) -> None:
    result = selftest()
    assert [good for _, good, _ in result.checks] == [True] * 4
    assert (result.model, result.runtime, result.precision) == ("sface", embedder.runtime, "float32")
    assert result.thresholds.startswith("measured on ")
    cosines = [float(figure.split()[1]) for _, _, figure in result.checks[:2]]
    assert min(cosines) > 0.9999, "in float32 the reference is met closely"


def test_the_pattern_is_the_same_everywhere() -> None:
    assert pattern(48).shape == (48, 48, 3)
    assert pattern(48).dtype == np.uint8
    for x, y in ((0, 0), (7, 30), (47, 1), (20, 20)):
        for channel, (a, b) in enumerate(((1, 2), (3, 1), (2, -3))):
            wave = 127.5 + 120 * math.sin(2 * math.pi * (a * x + b * y) / 48)
            assert abs(int(pattern(48)[y, x, channel]) - wave) <= 0.5 + 1e-9


def test_a_wrong_embedder_is_noticed(monkeypatch: pytest.MonkeyPatch, embedder: facespace.Embedder) -> None:
    def swapped(crops: np.ndarray) -> Any:  # blue for red: what a wrong channel order does
        return embedder.embed(np.ascontiguousarray(crops[..., ::-1]))

    stub = SimpleNamespace(
        embed=swapped, spec=embedder.spec, runtime="onnxruntime", precision="float32", calibration=None
    )
    load = module.Embedder.load
    monkeypatch.setattr(module.Embedder, "load", lambda *name: stub if name else load("sface", precision="float32"))
    result = selftest()
    assert [good for _, good, _ in result.checks] == [True, False, True, True]


def test_a_wrong_detector_is_noticed(loaded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    real = output_network()

    def run(*inputs: np.ndarray) -> list[np.ndarray]:
        return [output + np.float32(0.002) for output in real.run(*inputs)]

    monkeypatch.setattr(module, "output_network", lambda: SimpleNamespace(run=run, runtime="onnxruntime"))
    assert [good for _, good, _ in selftest().checks] == [True, True, True, False]


def test_a_wrong_yunet_is_noticed(loaded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = module.YuNet.boxes
    monkeypatch.setattr(module.YuNet, "boxes", lambda self, image: boxes(self, image) + np.float32(0.002))
    assert [good for _, good, _ in selftest().checks] == [True, True, False, True]


def test_damaged_weights_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_read_whole", lambda path: b"\x0a" + bytes(100))
    with pytest.raises(ModelError, match="not the published weights; reinstall"):
        selftest()


def test_doctor() -> None:
    outcome = run_facespace("doctor")
    assert (outcome.code, outcome.err) == (0, "")
    assert sum(line.startswith("ok ") for line in outcome.lines) == 4
    assert "FAILED" not in outcome.out
    for word in ("python ", "numpy", "onnxruntime", "pillow", "cores", "openvino ", "thresholds   measured on"):
        assert word in outcome.out


def test_doctor_fails_when_a_check_does(cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    result = module.SelfTest("m", "onnxruntime", "float32", "onnxruntime", "none")
    result.checks += [("embedding", False, "cosine 0.1"), ("detector", True, "fine")]
    monkeypatch.setattr(module, "selftest", lambda: result)
    outcome = cli("doctor")
    assert outcome.code == 1
    assert "FAILED       embedding: cosine 0.1" in outcome.out
    assert "ok           detector: fine" in outcome.out
    assert "reinstall" in outcome.lines[-1]
