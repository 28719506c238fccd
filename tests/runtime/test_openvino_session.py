"""Tests networks compiled by OpenVINO: settings, names and shapes, messages, and what is never read."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facespace.formats.onnx_model import GraphBuilder
from facespace.runtime import openvino_session
from facespace.runtime.onnx_network import OnnxNetwork
from facespace.runtime.openvino_session import OpenVinoSession, openvino_problem
from support.forks import in_child

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


def configurations(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Return a list to which each compilation adds its settings."""
    configs: list[dict[str, str]] = []
    core = openvino_session._OPENVINO.core()

    class Core:
        def compile_model(self, model: Any, device: str, config: dict[str, str]) -> Any:
            configs.append(config)
            return core.compile_model(model, device, config)

    monkeypatch.setattr(openvino_session._OPENVINO, "core", Core)
    return configs


@needed
@pytest.mark.parametrize("limited", [True, False])
@pytest.mark.parametrize("side_by_side", [True, False])
@pytest.mark.parametrize(("precision", "hint"), [("float32", "f32"), ("bfloat16", "bf16")])
def test_settings(
    monkeypatch: pytest.MonkeyPatch, limited: bool, side_by_side: bool, precision: Any, hint: str
) -> None:
    """One call uses all cores; side by side, each of three calls uses one; a quota is never exceeded."""
    configs = configurations(monkeypatch)
    monkeypatch.setattr(openvino_session, "usable_cores", lambda: 3)
    monkeypatch.setattr(openvino_session, "are_cores_limited", lambda: limited)
    OpenVinoSession(doubled(), precision=precision, side_by_side=side_by_side)
    few = {"INFERENCE_NUM_THREADS": "3", "ENABLE_CPU_PINNING": "NO"} if limited or side_by_side else {}
    calls = {"NUM_STREAMS": "3"} if side_by_side else {"PERFORMANCE_HINT": "LATENCY"}
    assert configs == [{"INFERENCE_PRECISION_HINT": hint, **calls, **few}]


@needed
@pytest.mark.parametrize(("side_by_side", "most"), [(True, 2), (False, 1)])
def test_more_threads_than_calls_at_once_wait(monkeypatch: pytest.MonkeyPatch, side_by_side: bool, most: int) -> None:
    monkeypatch.setattr(openvino_session, "usable_cores", lambda: 2)
    session = OpenVinoSession(doubled(), precision="float32", side_by_side=side_by_side)
    compute, now, seen, wrong = session._computed, [0], [0], []

    def counted(*arguments: Any) -> Any:
        now[0] += 1
        seen.append(now[0])
        time.sleep(0.001)
        try:
            return compute(*arguments)
        finally:
            now[0] -= 1

    monkeypatch.setattr(session, "_computed", counted)

    def work(n: int) -> None:
        x = np.full((n, 2), n, np.float32)
        wrong.extend(n for _ in range(20) if not np.array_equal(session.run([x])[0], 2 * x))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(1, 9)))
    assert (max(seen), wrong, len(session._idle)) == (most, [], most)


@needed
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([np.zeros((1, 3), np.float32)], r"^an input must have the shape \(\?, 2\), got \(1, 3\)$"),
        ([np.zeros(2, np.float32)], r"^an input must have the shape \(\?, 2\), got \(2,\)$"),
        ([np.zeros((1, 2))], "^inputs must be float32, got float64$"),
        ([np.zeros((1, 2), np.float32)] * 2, "^inputs must be float32, got float32, float32$"),
    ],
)
def test_inputs_that_do_not_fit(monkeypatch: pytest.MonkeyPatch, inputs: list[np.ndarray], message: str) -> None:
    """OpenVINO would convert other types, and leave a missing input as it was. Nothing is compiled again."""
    configs = configurations(monkeypatch)
    session = OpenVinoSession(doubled(), precision="float32", side_by_side=False)
    with pytest.raises(RuntimeError, match=message):
        session.run(inputs)
    assert session.run([np.ones((1, 2), np.float32)])[0].tolist() == [[2, 2]]
    assert len(configs) == 1


def of_one() -> bytes:
    """A network that declares any number of rows but computes only one."""
    graph = GraphBuilder()
    x = graph.input("x", np.float32, ["n", 5, 3])
    mean = graph.node("ReduceMean", [x], axes=[1], keepdims=0)
    graph.output(graph.node("Reshape", [mean, graph.constant(np.array([1, 3]))]), "y", np.float32, ["n", 3])
    return graph.serialize()


@needed
def test_a_call_that_fails_does_not_fail_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled network that failed once can fail for valid inputs from then on."""
    monkeypatch.setattr(openvino_session, "usable_cores", lambda: 4)
    session = OpenVinoSession(of_one(), precision="float32", side_by_side=True)

    def fails(n: int) -> bool:
        try:
            return not np.allclose(session.run([np.full((n, 5, 3), 2, np.float32)])[0], 2)
        except RuntimeError as error:
            assert "conflicts with the reshape pattern" in str(error), error
            return True

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(fails, [1, 2, 1, 3, 1, 1, 2, 1] * 5))
    assert found == [False, True, False, True, False, False, True, False] * 5


@needed
def test_sizes_that_the_file_declares() -> None:
    """OpenVINO cannot infer how many values are not zero."""
    graph = GraphBuilder()
    x = graph.input("x", np.float32, ["n", 2])
    places = graph.node("NonZero", [x])
    graph.output(graph.node("Cast", [places], to=1), "y", np.float32, [2, 7])
    assert OpenVinoSession(graph.serialize(), precision="float32", side_by_side=False).outputs == {"y": [2, 7]}


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
import os, socket, sys, threading
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
assert "openvino_telemetry" not in sys.modules
"""
    environment = {**os.environ, "HOME": str(tmp_path), "FACESPACE_RUNTIME": "openvino"}
    for name in ("FACESPACE_HOME", "CI", "TF_BUILD", "JENKINS_URL"):  # in CI it sends nothing by itself
        environment.pop(name, None)
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


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (ModuleNotFoundError("No module named 'openvino'", name="openvino"), "the package openvino is not installed"),
        (ModuleNotFoundError("No module named 'part'", name="part"), "No module named 'part'"),
        (ImportError(""), "ImportError"),
        (OSError("a library cannot be loaded"), "a library cannot be loaded"),
        (SystemExit("no libs"), "no libs"),
        (RuntimeError("Exception from src/core.cpp:1:\nCheck 'x' failed at src/core.cpp:2\nno plugin\n"), "no plugin"),
    ],
)
def test_why_openvino_is_not_used(monkeypatch: pytest.MonkeyPatch, error: BaseException, problem: str) -> None:
    """ONNX Runtime is used then, and OpenVINO as soon as it works."""

    def fails(name: str) -> None:
        raise error

    before = openvino_problem()
    with monkeypatch.context() as patch:
        patch.setattr(openvino_session, "_OPENVINO", openvino_session._OpenVino())
        patch.delitem(sys.modules, "openvino", raising=False)
        patch.setattr(openvino_session.importlib, "import_module", fails)
        patch.delenv("FACESPACE_RUNTIME", raising=False)
        assert openvino_problem() == problem
        assert OnnxNetwork(doubled(), source="x.onnx").runtime == "onnxruntime"
    assert openvino_problem() == before


@pytest.mark.skipif(sys.platform != "linux", reason="Linux describes its processor in files")
def test_without_proc_and_sys_openvino_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """It never came back from creating its core in a root folder without them."""
    with monkeypatch.context() as patch:
        patch.setattr(openvino_session, "_OPENVINO", openvino_session._OpenVino())
        patch.setattr(openvino_session, "_PLACES", ("/nonexistent/cpuinfo", "/nonexistent/cpu"))
        assert openvino_problem() == "it would wait for ever without /nonexistent/cpuinfo and /nonexistent/cpu"
        patch.setattr(openvino_session, "_PLACES", ("/nonexistent/cpuinfo", "/"))
        assert "wait for ever" not in openvino_problem()


@needed
def test_the_telemetry_of_others_stays_imported() -> None:
    code = """
import sys
sys.modules["openvino_telemetry"] = sys
from facespace.runtime.openvino_session import openvino_problem
assert openvino_problem() == "" and sys.modules["openvino_telemetry"] is sys
assert "openvino.tools.ovc.telemetry_stub" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@needed
def test_a_fork_while_a_thread_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO would wait for ever in the child for locks and threads of the parent; ONNX Runtime computes there."""
    monkeypatch.delenv("FACESPACE_RUNTIME", raising=False)
    network, x, stop = OnnxNetwork(doubled(), source="x.onnx"), np.ones((1, 2), np.float32), threading.Event()

    def compile_again_and_again() -> None:
        while not stop.is_set():
            OpenVinoSession(of_one(), precision="float32", side_by_side=True)

    def compute() -> None:
        assert openvino_problem() == "a process that used it was forked; start processes by spawn instead"
        for again in (network, OnnxNetwork(doubled(), source="x.onnx")):
            assert again.run(x)[0].tolist() == [[2, 2]]
            assert (again.runtime, again.precision) == ("onnxruntime", "float32")

    thread = threading.Thread(target=compile_again_and_again)
    thread.start()
    try:
        for _ in range(3):
            assert in_child(compute) == 0
    finally:
        stop.set()
        thread.join()
    assert network.runtime == "openvino" and openvino_problem() == ""
