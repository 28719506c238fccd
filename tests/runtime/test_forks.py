"""Tests detectors and models used before a fork: the child computes the same results and does not hang."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import facespace
from facespace.detection.yunet import YuNet
from facespace.errors import RuntimeUnavailable
from facespace.runtime.forks import call_after_fork
from facespace.runtime.onnx_network import OnnxNetwork
from facespace.runtime.openvino_session import openvino_problem
from support.forks import in_child
from support.tiny_model import SIZE, tiny_model

RUNTIMES = [
    "onnxruntime",
    pytest.param("openvino", marks=pytest.mark.skipif(bool(openvino_problem()), reason="no OpenVINO")),
]


def test_a_detector_used_before_a_fork_finds_the_same_in_the_child(hopper: np.ndarray) -> None:
    yunet = YuNet()
    expected = [yunet.detect(hopper), *yunet.detect_many([hopper, hopper[:, ::-1], hopper[:400]])]

    def again() -> None:
        for _ in range(2):
            assert [yunet.detect(hopper), *yunet.detect_many([hopper, hopper[:, ::-1], hopper[:400]])] == expected

    assert in_child(again) == 0
    again()  # the parent goes on


def test_the_detector_of_2018_too(hopper: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACESPACE_RUNTIME", "onnxruntime")
    mtcnn = facespace.MTCNN()
    expected = [mtcnn.detect(hopper), *mtcnn.detect_many([hopper] * 3)]

    def again() -> None:
        found = [mtcnn.detect(hopper), *mtcnn.detect_many([hopper] * 3)]
        assert [len(faces) for faces in found] == [len(faces) for faces in expected]
        np.testing.assert_allclose(found[0][0].box, expected[0][0].box, atol=1e-3)

    assert in_child(again) == 0


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("n", [3, 40])
def test_a_model_used_before_a_fork_embeds_the_same_in_the_child(
    n: int, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACESPACE_RUNTIME", "onnxruntime" if runtime == "onnxruntime" else "")
    embedder = facespace.Embedder.load("sface")
    assert embedder.runtime == runtime
    crops = np.random.default_rng(0).integers(0, 256, (n, 112, 112, 3), dtype=np.uint8)
    expected = embedder.represent(crops)
    least = 0.99999 if embedder.precision == "float32" else 0.998

    def again() -> None:
        assert (embedder.represent(crops) * expected).sum(axis=1).min() > least
        assert embedder.runtime == "onnxruntime"

    assert in_child(again) == 0

    def grandchild() -> None:
        again()
        assert in_child(again) == 0

    assert in_child(grandchild) == 0


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_fork_while_other_threads_compute(runtime: str, hopper: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their locks are held when the child starts, and no thread there releases them."""
    monkeypatch.setenv("FACESPACE_RUNTIME", "onnxruntime" if runtime == "onnxruntime" else "")
    yunet, embedder = YuNet(), facespace.Embedder.load("sface")
    crops = np.random.default_rng(0).integers(0, 256, (20, 112, 112, 3), dtype=np.uint8)
    stop = threading.Event()

    def compute() -> None:
        yunet.detect_many([hopper, hopper])
        embedder.represent(crops)

    compute()

    def work() -> None:
        while not stop.is_set():
            compute()

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    try:
        for _ in range(3):
            assert in_child(compute) == 0
    finally:
        stop.set()
        for worker in workers:
            worker.join()


@pytest.mark.parametrize(
    "runtime",
    ["cuda", pytest.param("openvino", marks=pytest.mark.skipif(bool(openvino_problem()), reason="no OpenVINO"))],
)
def test_a_runtime_that_does_not_survive_a_fork_says_spawn(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACESPACE_RUNTIME", "openvino" if runtime == "openvino" else "onnxruntime")
    network = OnnxNetwork(tiny_model(), source="tiny.onnx")
    network.runtime = runtime
    images = np.zeros((1, SIZE, SIZE, 3), np.float32)

    def refused() -> None:
        for compute in (lambda: network.run(images), lambda: network.run_parts([images, images])):
            with pytest.raises(RuntimeUnavailable, match=f"^{runtime} cannot compute in a child .* spawn"):
                compute()

    assert in_child(refused) == 0
    network.run(images)


def test_deleted_objects_are_not_called(tmp_path: Path) -> None:
    class Thing:
        def after_fork(self) -> None:
            (tmp_path / self.name).touch()

    kept, gone = Thing(), Thing()
    kept.name, gone.name = "kept", "gone"
    call_after_fork(kept)
    call_after_fork(gone)
    del gone
    assert in_child(lambda: None) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
