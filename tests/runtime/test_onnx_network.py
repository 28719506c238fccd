"""Tests compiling and running: runtimes, precision, and the variables that override them."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from facespace import ModelError, RuntimeUnavailable
from facespace.embedding.embedder import Embedder
from facespace.formats.onnx_model import GraphBuilder
from facespace.models.zoo import MODELS
from facespace.runtime import onnx_network as network
from facespace.runtime.cores import usable_cores
from facespace.runtime.onnx_network import (
    OnnxNetwork,
    lowest_precision,
)
from facespace.runtime.openvino_session import has_bfloat16, openvino_problem

RUNTIMES = [
    "onnxruntime",
    pytest.param("openvino", marks=pytest.mark.skipif(bool(openvino_problem()), reason="no OpenVINO")),
]


def two_inputs() -> bytes:
    graph = GraphBuilder()
    a, b = graph.input("a", np.float32, ["n", 2]), graph.input("b", np.float32, [2])
    graph.output(graph.node("Sub", [a, b]), "difference", np.float32, ["n", 2])
    graph.output(graph.node("Mul", [a, b]), "product", np.float32, ["n", 2])
    return graph.serialize()


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    monkeypatch.delenv("FACESPACE_RUNTIME", raising=False)
    monkeypatch.delenv("FACESPACE_PRECISION", raising=False)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("side_by_side", [False, True])
def test_inputs_and_outputs_in_order(monkeypatch, runtime, side_by_side):
    monkeypatch.setenv("FACESPACE_RUNTIME", runtime)
    net = OnnxNetwork(two_inputs(), source="x", precision="float32", side_by_side=side_by_side)
    assert (net.runtime, net.precision) == (runtime, "float32")
    assert net.inputs in ({"a": ["n", 2], "b": [2]}, {"a": ["?", 2], "b": [2]})
    assert list(net.outputs) == ["difference", "product"]
    a, b = np.array([[1, 2], [3, 4], [5, 6]], np.float32), np.array([10, 20], np.float32)
    difference, product = net.run(a, b)
    np.testing.assert_allclose(difference, a - b)
    np.testing.assert_allclose(product, a * b)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_shared_between_threads(monkeypatch, runtime):
    monkeypatch.setenv("FACESPACE_RUNTIME", runtime)
    net = OnnxNetwork(two_inputs(), source="x", precision="float32", side_by_side=True)
    b = np.array([1, 2], np.float32)
    inputs = [np.full((n % 5 + 1, 2), n, np.float32) for n in range(60)]
    with ThreadPoolExecutor(4) as pool:
        for a, (difference, _) in zip(inputs, pool.map(lambda a: net.run(a, b), inputs), strict=True):
            np.testing.assert_allclose(difference, a - b)


def test_a_wrong_number_of_inputs():
    with pytest.raises(ValueError, match=r"^the network has 2 inputs, got 1$"):
        OnnxNetwork(two_inputs(), source="x").run(np.zeros((1, 2), np.float32))


@pytest.mark.parametrize("precision", ["fastest", "float32"])
def test_float32_can_be_required(monkeypatch, precision):
    monkeypatch.setenv("FACESPACE_PRECISION", "float32")
    assert OnnxNetwork(two_inputs(), source="x", precision=precision).precision == "float32"


@pytest.mark.parametrize("pinned", ["", "fastest", "bfloat16", "float32"])
def test_the_variable_excludes_lower_precisions(monkeypatch, pinned):
    monkeypatch.setenv("FACESPACE_PRECISION", pinned)
    assert lowest_precision("fastest") == (pinned or "fastest")
    assert lowest_precision("float32") == "float32"


def test_an_unknown_precision_is_refused():
    for precision in ("Float32", "int8", "bfloat16", "", None):
        with pytest.raises(ValueError, match=r"^precision must be fastest or float32, got "):
            OnnxNetwork(two_inputs(), source="x", precision=precision)


def test_fastest_follows_the_processor():
    net = OnnxNetwork(two_inputs(), source="x")
    assert net.runtime == ("onnxruntime" if openvino_problem() else "openvino")
    assert net.precision == ("bfloat16" if net.runtime == "openvino" and has_bfloat16() else "float32")


def one_product(factor: float) -> bytes:
    graph = GraphBuilder()
    x = graph.input("x", np.float32, ["n", 64])
    weights = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32) * np.float32(factor)
    graph.output(graph.node("MatMul", [x, graph.constant(weights)]), "y", np.float32, ["n", 64])
    return graph.serialize()


@pytest.mark.parametrize("processor", ["bfloat16", "older", "no OpenVINO"])
@pytest.mark.parametrize(
    ("precision", "pinned", "expected"),
    [
        ("fastest", "", "int8"),
        ("fastest", "fastest", "int8"),
        ("fastest", "bfloat16", "bfloat16"),
        ("fastest", "float32", "float32"),
        ("float32", "", "float32"),
        ("float32", "bfloat16", "float32"),
    ],
)
def test_integers_where_the_processor_is_fastest_with_them(monkeypatch, processor, precision, pinned, expected):
    """The two models compute different things, which shows which one is used, also in parallel."""
    if processor == "bfloat16" and (openvino_problem() or not has_bfloat16()):
        pytest.skip("this processor does not compute in bfloat16")
    if processor == "older":
        monkeypatch.setattr(network, "has_bfloat16", lambda: False)
    if processor == "no OpenVINO":
        monkeypatch.setenv("FACESPACE_RUNTIME", "onnxruntime")
    if processor != "bfloat16":
        expected = "float32"
    monkeypatch.setenv("FACESPACE_PRECISION", pinned)
    monkeypatch.setattr(network, "usable_cores", lambda: 2)
    made = []

    def int8() -> bytes:
        made.append(1)
        return one_product(8)

    net = OnnxNetwork(one_product(2), source="x", precision=precision, int8=int8)
    monkeypatch.setenv("FACESPACE_PRECISION", "what was chosen stays chosen")
    monkeypatch.setenv("FACESPACE_RUNTIME", "what was chosen stays chosen")
    assert net.precision == expected
    assert len(made) == (expected == "int8")
    x = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)
    weights = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32) * (8 if expected == "int8" else 2)
    for found in (net.run(x)[0], *net.run_parts([x, x, x])):
        error = np.abs(found - x @ weights).max() / np.abs(x @ weights).max()
        assert error < 1e-5 if expected == "float32" else 1e-4 < error < 2e-2  # bfloat16 outside convolutions


@pytest.mark.parametrize("side_by_side", [False, True])
@pytest.mark.parametrize("pinned", ["", "openvino", "onnxruntime"])
def test_the_plain_runtime_by_name(monkeypatch, pinned, side_by_side):
    """OpenVINO is not even looked for; its integers and bfloat16 are not used."""
    monkeypatch.setenv("FACESPACE_RUNTIME", pinned)
    monkeypatch.setattr(network, "openvino_problem", lambda: pytest.fail("OpenVINO was looked for"))
    net = OnnxNetwork(
        one_product(2),
        source="x",
        side_by_side=side_by_side,
        runtime="onnxruntime",
        int8=lambda: pytest.fail("the network in integers was made"),
    )
    assert (net.runtime, net.precision, net.wants_parts) == ("onnxruntime", "float32", usable_cores() > 1)
    x = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)
    weights = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32) * 2
    for found in (net.run(x)[0], *net.run_parts([x, x])):
        np.testing.assert_allclose(found, x @ weights, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("runtime", ["fastest", "onnxruntime"])
def test_a_gpu_that_the_runtime_lacks(monkeypatch, runtime):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(RuntimeUnavailable, match=r"^device cuda: the installed onnxruntime computes on the proc"):
        OnnxNetwork(two_inputs(), source="x", device="cuda", runtime=runtime)


@pytest.mark.parametrize(
    ("variable", "allowed"),
    [("FACESPACE_RUNTIME", "openvino, onnxruntime"), ("FACESPACE_PRECISION", "fastest, bfloat16, float32")],
)
def test_other_values_are_refused(monkeypatch, variable, allowed):
    monkeypatch.setenv(variable, "tensorrt")
    with pytest.raises(RuntimeUnavailable, match=f"^{variable} must be one of {allowed}, got 'tensorrt'$"):
        OnnxNetwork(two_inputs(), source="x")
    monkeypatch.setenv(variable, "")
    OnnxNetwork(two_inputs(), source="x")


def test_openvino_requested_but_not_installed(monkeypatch):
    monkeypatch.setattr(network, "openvino_problem", lambda: "the library does not load")
    assert OnnxNetwork(two_inputs(), source="x").runtime == "onnxruntime"
    monkeypatch.setenv("FACESPACE_RUNTIME", "openvino")
    with pytest.raises(RuntimeUnavailable, match="cannot be used here: the library does not load"):
        OnnxNetwork(two_inputs(), source="x")


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("data", [b"", b"nonsense", two_inputs()[:40], two_inputs().replace(b"Sub", b"Sup")], ids=len)
def test_models_that_cannot_be_compiled(monkeypatch, runtime, data):
    monkeypatch.setenv("FACESPACE_RUNTIME", runtime)
    with pytest.raises(ModelError, match=r"^some\.onnx: the network cannot be compiled \(.+\)") as caught:
        OnnxNetwork(data, source="some.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("parts", [1, 3])
def test_inputs_that_cannot_be_computed(monkeypatch, runtime, parts):
    monkeypatch.setenv("FACESPACE_RUNTIME", runtime)
    net = OnnxNetwork(one_product(1), source="some.onnx", precision="float32")
    with pytest.raises(ModelError, match=r"^some\.onnx: the network cannot be computed for .*\(2, 63\)") as caught:
        net.run_parts([np.zeros((2, 63), np.float32)] * parts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("side_by_side", [False, True])
def test_after_a_failure_it_computes_again(monkeypatch, runtime, side_by_side):
    monkeypatch.setenv("FACESPACE_RUNTIME", runtime)
    graph = GraphBuilder()
    x = graph.input("x", np.float32, ["n", 5, 3])
    mean = graph.node("ReduceMean", [x], axes=[1], keepdims=0)
    graph.output(graph.node("Reshape", [mean, graph.constant(np.array([1, 3]))]), "y", np.float32, ["n", 3])
    net = OnnxNetwork(graph.serialize(), source="one.onnx", precision="float32", side_by_side=side_by_side)
    images = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    for n in (1, 2, 1, 4, 1):
        if n == 1:
            np.testing.assert_allclose(net.run(images[:1])[0], images[:1].mean(axis=1), rtol=1e-4, atol=1e-6)
        else:
            with contextlib.suppress(ModelError):  # OpenVINO may compute something
                net.run(images[:n])


def test_parts_are_what_single_calls_compute():
    graph = GraphBuilder()
    x = graph.input("x", np.float32, ["n", 4])
    weights = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    graph.output(graph.node("MatMul", [x, graph.constant(weights)]), "y", np.float32, ["n", 3])
    network = OnnxNetwork(graph.serialize(), source="test", precision="float32")
    parts = [np.random.default_rng(n).normal(size=(n, 4)).astype(np.float32) for n in (3, 1, 8, 3, 5)]
    for _ in range(2):
        found = network.run_parts(parts)
        assert [len(part) for part in found] == [3, 1, 8, 3, 5]
        for part, result in zip(parts, found, strict=True):
            np.testing.assert_allclose(result, part @ weights, rtol=1e-5, atol=1e-6)
    assert network.run_parts([]) == []
    lazy = network.run_parts(part for part in parts)
    assert [len(part) for part in lazy] == [3, 1, 8, 3, 5]


# Measured precisions


@pytest.mark.parametrize(
    ("processor", "precision"), [("amx", "fastest"), ("amd", "fastest"), ("bfloat16", "float32"), ("other", "fastest")]
)
def test_sface_is_computed_in_bfloat16_only_where_that_is_faster(processor: str, precision: str) -> None:
    assert network.measured_precision(MODELS["sface"].sha256, processor) == precision


@pytest.mark.parametrize("processor", ["amx", "amd", "bfloat16", "other"])
def test_the_runtime_chooses_for_unmeasured_models(processor: str) -> None:
    assert network.measured_precision(MODELS["casia-webface"].sha256, processor) == "fastest"


@pytest.mark.parametrize(
    ("maker", "flags", "kind"),
    [
        ("GenuineIntel", "fpu avx512_bf16 amx_bf16", "amx"),
        ("GenuineIntel", "fpu avx512_bf16", "bfloat16"),
        ("AuthenticAMD", "fpu avx512_bf16", "amd"),
        ("AuthenticAMD", "fpu avx2", "other"),
        ("", None, "other"),
    ],
)
def test_the_processor_is_identified_by_its_maker_and_flags(
    monkeypatch: pytest.MonkeyPatch, maker: str, flags: str | None, kind: str
) -> None:
    def read(self: Path, **options: str) -> str:
        if flags is None:
            raise FileNotFoundError
        return f"processor : 0\nvendor_id\t: {maker}\nflags\t\t: {flags}\n"

    monkeypatch.setattr(Path, "read_text", read)
    network.processor_kind.cache_clear()
    try:
        assert network.processor_kind() == kind
    finally:
        network.processor_kind.cache_clear()


def test_the_embedder_asks_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("facespace.embedding.embedder.measured_precision", lambda sha: asked.append(sha) or "float32")
    assert Embedder.load("sface").precision == "float32"
    assert Embedder.load("sface", precision="float32").precision == "float32"
    assert asked == [MODELS["sface"].sha256]
