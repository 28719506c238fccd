"""Tests networks compiled by OpenVINO: settings, names and shapes, messages, and what is never read."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facespace.formats.onnx_model import GraphBuilder
from facespace.runtime import openvino_session
from facespace.runtime.onnx_network import OnnxNetwork
from facespace.runtime.openvino_session import OpenVinoSession, openvino_problem

needed = pytest.mark.skipif(bool(openvino_problem()), reason="no OpenVINO")


def doubled(operator: str = "Add") -> bytes:
    graph = GraphBuilder()
    x = graph.input("x", np.float32, ["n", 2])
    graph.output(graph.node(operator, [x, x]), "y", np.float32, ["n", 2])
    return graph.serialize()


@needed
@pytest.mark.parametrize("side_by_side", [False, True])
def test_names_shapes_and_results(side_by_side: bool) -> None:
    session = OpenVinoSession(doubled(), precision="float32", side_by_side=side_by_side)
    assert (session.inputs, session.outputs, session.takes_uint8) == ({"x": ["?", 2]}, {"y": ["?", 2]}, False)
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    (first,) = session.run([x])
    session.run([x[:1] * 9])
    np.testing.assert_array_equal(first, 2 * x)  # results do not share memory with later ones
    np.testing.assert_array_equal(session.run([x[::2]])[0], 2 * x[::2])


@needed
def test_bytes_as_input() -> None:
    graph = GraphBuilder()
    x = graph.input("x", np.uint8, ["n", 2])
    graph.output(graph.node("Cast", [x], to=1), "y", np.float32, ["n", 2])
    session = OpenVinoSession(graph.serialize(), precision="float32", side_by_side=False)
    assert session.takes_uint8
    np.testing.assert_array_equal(session.run([np.array([[0, 255]], np.uint8)])[0], [[0, 255]])


@needed
@pytest.mark.parametrize("limited", [True, False])
@pytest.mark.parametrize("side_by_side", [True, False])
def test_threads_of_a_session(monkeypatch: pytest.MonkeyPatch, limited: bool, side_by_side: bool) -> None:
    """One call uses all cores; side by side, each of three calls uses one; a quota is never exceeded."""
    configs: list[dict[str, str]] = []
    core = openvino_session._OPENVINO.core()

    class Core:
        def compile_model(self, model: Any, device: str, config: dict[str, str]) -> Any:
            configs.append(config)
            return core.compile_model(model, device, config)

    monkeypatch.setattr(openvino_session._OPENVINO, "core", Core)
    monkeypatch.setattr(openvino_session, "usable_cores", lambda: 3)
    monkeypatch.setattr(openvino_session, "are_cores_limited", lambda: limited)
    session = OpenVinoSession(doubled(), precision="float32", side_by_side=side_by_side)
    (config,) = configs
    few = limited or side_by_side
    assert config.get("INFERENCE_NUM_THREADS") == ("3" if few else None)
    assert config.get("ENABLE_CPU_PINNING") == ("NO" if few else None)
    assert config.get("NUM_STREAMS") == ("3" if side_by_side else None)
    assert config["INFERENCE_PRECISION_HINT"] == "f32"
    assert session._idle.qsize() == (3 if side_by_side else 1)  # calls at once


@needed
def test_more_threads_than_cores_wait_for_each_other() -> None:
    session = OpenVinoSession(doubled(), precision="float32", side_by_side=True)
    wrong: list[int] = []

    def work(n: int) -> None:
        x = np.full((n, 2), n, np.float32)
        wrong.extend(n for _ in range(50) if not np.array_equal(session.run([x])[0], 2 * x))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@needed
def test_the_message_of_a_wrong_shape_is_one_line_about_the_shape() -> None:
    session = OpenVinoSession(doubled(), precision="float32", side_by_side=False)
    with pytest.raises(RuntimeError, match=r"^Can't set the input tensor .*\[\?,2\].*incompatible"):
        session.run([np.zeros((1, 3), np.float32)])
    assert session.run([np.ones((1, 2), np.float32)])[0].tolist() == [[2, 2]]


@needed
def test_a_failure_of_one_call_does_not_fail_the_others() -> None:
    """A compiled network that failed fails for all inputs from then on."""
    graph = GraphBuilder()
    x = graph.input("x", np.float32, ["n", 5, 3])
    mean = graph.node("ReduceMean", [x], axes=[1], keepdims=0)
    graph.output(graph.node("Reshape", [mean, graph.constant(np.array([1, 3]))]), "y", np.float32, ["n", 3])
    session = OpenVinoSession(graph.serialize(), precision="float32", side_by_side=True)

    def work(n: int) -> bool:
        try:
            return bool(np.allclose(session.run([np.full((n, 5, 3), 2, np.float32)])[0], 2))
        except RuntimeError:
            return n == 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, [1, 2, 1, 3, 1, 2, 2, 1] * 10))
        assert all(pool.map(work, [1] * 20))
    assert np.allclose(session.run([np.ones((1, 5, 3), np.float32)])[0], 1)


@needed
@pytest.mark.parametrize("data", [b"", b"<?xml version='1.0'?><net name='x' version='11'><layers/><edges/></net>"])
def test_only_onnx_is_read(data: bytes) -> None:
    """`Core.read_model` accepts OpenVINO's own format and others."""
    with pytest.raises(RuntimeError, match=r"^(the model has no output|Error during import of ONNX model)"):
        OpenVinoSession(data, precision="float32", side_by_side=False)


@needed
def test_nothing_is_sent_and_no_file_is_written(tmp_path: Path) -> None:
    """The package brings openvino-telemetry, which sends each import to its makers from a thread of its own."""
    code = """
import os, socket, threading
calls = []
for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, lambda *arguments: calls.append(arguments))
socket.getaddrinfo = lambda *arguments, **options: calls.append(arguments) or []
import numpy as np, facespace
embedder = facespace.Embedder.load("sface")
assert embedder.runtime == "openvino"
embedder.represent(np.zeros((40, 112, 112, 3), np.uint8))
threads = [thread.name for thread in threading.enumerate()]
assert all(name == "MainThread" or "facespace" in name for name in threads), threads
assert not calls, calls
"""
    environment = {**os.environ, "HOME": str(tmp_path), "FACESPACE_RUNTIME": "openvino"}
    environment.pop("FACESPACE_HOME", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("*")) == []


@needed
def test_onnx_runtime_computes_what_openvino_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.delenv("FACESPACE_RUNTIME", raising=False)
    monkeypatch.setattr("facespace.runtime.onnx_network.OpenVinoSession", refuse)
    net = OnnxNetwork(doubled(), source="x.onnx", int8=lambda: doubled("Mul"))
    assert (net.runtime, net.precision) == ("onnxruntime", "float32")
    assert net.run(np.full((1, 2), 3, np.float32))[0].tolist() == [[6, 6]]


@pytest.mark.parametrize("name", ["openvino", "_openvino_part"])
def test_why_openvino_is_not_used(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def missing(wanted: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    monkeypatch.setattr(openvino_session.importlib, "import_module", missing)
    openvino_problem.cache_clear()
    try:
        expected = "the package openvino is not installed" if name == "openvino" else f"No module named {name!r}"
        assert openvino_problem() == expected
    finally:
        monkeypatch.undo()
        openvino_problem.cache_clear()


def test_a_library_that_does_not_load_is_described_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("Exception from src/core.cpp:1:\nCheck 'x' failed\nno plugins.xml\n")

    monkeypatch.setitem(sys.modules, "openvino", sys)
    monkeypatch.setattr(openvino_session._OPENVINO, "core", broken)
    openvino_problem.cache_clear()
    try:
        assert openvino_problem() == "no plugins.xml"
    finally:
        monkeypatch.undo()
        openvino_problem.cache_clear()
