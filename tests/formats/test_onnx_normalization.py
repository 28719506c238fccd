"""ONNX files of other programs, rewritten so that every runtime accepts them."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from facespace.errors import ModelError
from facespace.formats import onnx_normalization as module
from facespace.formats.onnx_model import GraphBuilder, add_tensor, describe, new_node, parse_model
from facespace.formats.onnx_normalization import open_onnx, with_batch_of_one
from facespace.runtime.onnx_network import OnnxNetwork
from facespace.runtime.openvino_session import openvino_problem
from support.onnx_files import with_weights_beside

SIZE = 4
WEIGHTS = np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)
IMAGES = np.random.default_rng(1).normal(size=(2, 3, SIZE, SIZE)).astype(np.float32)


def network(*, batch: int | str = "n", gives: int | str | None = None) -> bytes:
    """Return a network with features (N,40): the mean colours times WEIGHTS, plus 1."""
    graph = GraphBuilder()
    x = graph.input("images", np.float32, [batch, 3, SIZE, SIZE])
    colours = graph.node("ReduceMean", [x], axes=[2, 3], keepdims=0)
    features = graph.node("MatMul", [colours, graph.constant(WEIGHTS)])
    one = graph.node("Add", [features, graph.constant(np.array([1], np.float32))])
    graph.output(one, "features", np.float32, [batch if gives is None else gives, 40])
    return graph.serialize()


WANTED = IMAGES.mean(axis=(2, 3)) @ WEIGHTS + 1


def edited(edit, data: bytes | None = None) -> bytes:
    model = parse_model(data or network(), "test")
    edit(model)
    return model.SerializeToString()


def shapes(data: bytes) -> list[list[int | str]]:
    graph = parse_model(data, "test").graph
    values = (*graph.input, *graph.output)
    return [[d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim] for value in values]


def computed(data: bytes, images: np.ndarray = IMAGES) -> np.ndarray:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def test_a_file_that_needs_no_change(tmp_path):
    opened = open_onnx(tmp_path / "n.onnx", network())
    assert (opened.data, opened.remarks) == (network(), [])
    assert opened.fingerprint == hashlib.sha256(network()).hexdigest()


# --- external weights -------------------------------------------------------------------------------------------------


def test_weights_next_to_the_file(tmp_path):
    data = with_weights_beside(network(), tmp_path / "n.data")
    with pytest.raises(Exception, match=r"n\.data"):
        computed(data)
    opened = open_onnx(tmp_path / "n.onnx", data)
    np.testing.assert_allclose(computed(opened.data), WANTED, rtol=1e-5)
    assert opened.remarks == ["its external weights (n.data) are merged into it"]
    # The fingerprint covers both files.
    (tmp_path / "n.data").write_bytes((tmp_path / "n.data").read_bytes()[:-1] + b"\x40")
    assert len({opened.fingerprint, open_onnx(tmp_path / "n.onnx", data).fingerprint, *sha256(data)}) == 3


def sha256(data: bytes) -> list[str]:
    return [hashlib.sha256(data).hexdigest()]


def test_weights_to_the_end_of_the_file(tmp_path):
    """Offset and length may be left out: from the first byte, to the last."""

    def edit(model):
        for tensor, keys in zip(model.graph.initializer, (("location", "length"), ("location", "offset")), strict=True):
            kept = [entry for entry in tensor.external_data if entry.key in keys]
            del tensor.external_data[:]
            tensor.external_data.extend(kept)

    data = edited(edit, with_weights_beside(network(), tmp_path / "n.data"))
    np.testing.assert_allclose(computed(open_onnx(tmp_path / "n.onnx", data).data), WANTED, rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../n.data", "/etc/passwd", "a/n.data", "a\\n.data", "c:n", "n\0.data"]
)
def test_weights_in_another_folder(tmp_path, name):
    (tmp_path / "in").mkdir()
    data = with_weights_beside(network(), tmp_path / "n.data", says={"0": {"location": name}})
    with pytest.raises(ModelError, match=r"n\.onnx: external weights must be in a file next to it, got "):
        open_onnx(tmp_path / "in" / "n.onnx", data)


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ({"location": "m.data"}, "its weights are in m.data, which is missing; copy both files"),
        ({"location": "folder"}, "its weights are in folder, which is not a file in the same folder"),
        ({"offset": "480"}, r"ends at byte 960 of n\.data, which has 484 bytes; the two files do not belong together"),
        ({"offset": "500", "length": ""}, "ends at byte"),
        ({"offset": "-1"}, "has the invalid offset '-1'"),
        ({"offset": "1e3"}, "has the invalid offset '1e3'"),
        ({"length": "9" * 5000}, "has the invalid length '9999"),
        ({"length": "\u0664"}, "has the invalid length '\u0664'"),
        ({"length": "476"}, r"has 476 bytes in n\.data for shape \(3, 40\)"),
    ],
)
def test_missing_weights(tmp_path, says, message):
    (tmp_path / "folder").mkdir()
    data = with_weights_beside(network(), tmp_path / "n.data", says={"0": says})
    with pytest.raises(ModelError, match=message) as caught:
        open_onnx(tmp_path / "n.onnx", data)
    assert str(caught.value).startswith(str(tmp_path / "n.onnx"))
    assert "\n" not in str(caught.value)


def test_more_weights_than_one_file_can_hold(tmp_path, monkeypatch):
    """Many constants with the same few bytes, and a file that is hardly used: neither is read."""
    data = with_weights_beside(network(), tmp_path / "n.data")
    monkeypatch.setattr(module, "MAX_WEIGHTS", len(data) + 484)
    open_onnx(tmp_path / "n.onnx", data)
    monkeypatch.setattr(module, "MAX_WEIGHTS", len(data) + 483)
    with pytest.raises(ModelError, match="bytes with its external weights"):
        open_onnx(tmp_path / "n.onnx", data)
    twice = with_weights_beside(network(), tmp_path / "n.data", says={"1": {"offset": "0"}})
    (tmp_path / "n.data").write_bytes((tmp_path / "n.data").read_bytes()[:480])
    monkeypatch.setattr(module, "MAX_WEIGHTS", len(twice) + 483)
    with pytest.raises(ModelError, match="bytes with its external weights"):
        open_onnx(tmp_path / "n.onnx", twice)
    monkeypatch.setattr(module, "MAX_WEIGHTS", len(data) + 600)
    (tmp_path / "n.data").write_bytes(bytes(601))
    with pytest.raises(ModelError, match="bytes with its external weights"):
        open_onnx(tmp_path / "n.onnx", data)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_weights_that_are_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    data = with_weights_beside(network(), tmp_path / "n.data", says={"0": {"location": "pipe"}})
    with pytest.raises(ModelError, match="not a file in the same folder"):
        open_onnx(tmp_path / "n.onnx", data)


def test_links_out_of_the_folder_and_those_of_a_store_of_models(tmp_path):
    """A link may only lead into the folder of the model's real file, as in caches that link model and weights."""
    for folder in ("store", "in"):
        (tmp_path / folder).mkdir()
    data = with_weights_beside(network(), tmp_path / "store" / "n.data")
    (tmp_path / "in" / "n.data").symlink_to(tmp_path / "store" / "n.data")
    (tmp_path / "in" / "plain.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=r"n\.data, which is not a file in the same folder"):
        open_onnx(tmp_path / "in" / "plain.onnx", data)
    (tmp_path / "store" / "blob").write_bytes(data)
    (tmp_path / "in" / "n.onnx").symlink_to(tmp_path / "store" / "blob")
    np.testing.assert_allclose(computed(open_onnx(tmp_path / "in" / "n.onnx", data).data), WANTED, rtol=1e-5)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 800), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes_give_a_model_error_or_none(tmp_path, flips):
    data = bytearray(with_weights_beside(network(), tmp_path / "n.data"))
    for position, bits in flips:
        data[position % len(data)] ^= bits
    try:
        open_onnx(tmp_path / "n.onnx", bytes(data))
    except ModelError as error:
        assert str(error).startswith(str(tmp_path / "n.onnx"))
        assert "\n" not in str(error)


# --- inputs and outputs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [False, True])
def test_constants_are_removed_from_the_inputs(tmp_path, monkeypatch, first):
    def edit(model):
        model.ir_version = 3
        listed = list(model.graph.input)
        del model.graph.input[:]
        constants = list(model.graph.initializer)
        for tensor in constants if first else ():
            describe(model.graph.input.add(name=tensor.name), np.float32, list(tensor.dims))
        model.graph.input.extend(listed)
        for tensor in () if first else constants:
            describe(model.graph.input.add(name=tensor.name), np.float32, list(tensor.dims))

    opened = open_onnx(tmp_path / "n.onnx", edited(edit))
    model = parse_model(opened.data, "test")
    assert [value.name for value in model.graph.input] == ["images"]
    assert model.ir_version >= 4
    for runtime in ("onnxruntime", *([] if openvino_problem() else ["openvino"])):
        monkeypatch.setenv("FACESPACE_RUNTIME", runtime)
        found = OnnxNetwork(opened.data, source="n", precision="float32").run(IMAGES)[0]
        np.testing.assert_allclose(found, WANTED, rtol=1e-4)


def with_output(name: str, n: int, at: int) -> bytes:
    """Add an output of `n` numbers per face at a position among the others."""

    def edit(model):
        add_tensor(model.graph, "times", np.array([1, n]))
        model.graph.node.append(new_node("ReduceMean", "mean", ["features"], {"axes": [1], "keepdims": 1}))
        model.graph.node.append(new_node("Tile", name, ["mean", "times"], {}))
        outputs = [("features", 40)]
        outputs.insert(at, (name, n))
        del model.graph.output[:]
        for output, numbers in outputs:
            describe(model.graph.output.add(name=output), np.float32, ["n", numbers])

    return edited(edit)


@pytest.mark.parametrize("at", [0, 1])
def test_of_two_outputs_the_one_that_can_be_an_embedding(tmp_path, at):
    opened = open_onnx(tmp_path / "n.onnx", with_output("norm", 1, at))
    assert [value.name for value in parse_model(opened.data, "x").graph.output] == ["features"]
    np.testing.assert_allclose(computed(opened.data), WANTED, rtol=1e-5)
    assert opened.remarks == ([] if at else ["its output features is used as the embedding"])


def test_two_outputs_that_can_be_an_embedding(tmp_path):
    data = with_output("logits", 80, 0)
    with pytest.raises(ModelError, match=r"got logits \['n', 80\], features \['n', 40\]; export it with the emb"):
        open_onnx(tmp_path / "n.onnx", data)


@pytest.mark.parametrize("batch", [-1, 0])
def test_an_unknown_batch_size_becomes_free(tmp_path, batch):
    def edit(model):
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = ""
            value.type.tensor_type.shape.dim[0].dim_value = batch

    opened = open_onnx(tmp_path / "n.onnx", edited(edit))
    assert shapes(opened.data) == [["n", 3, SIZE, SIZE], ["n", 40]]
    np.testing.assert_allclose(computed(opened.data), WANTED, rtol=1e-5)


def test_features_of_one_crop_declared_for_any_number(tmp_path):
    """A widely used program writes such files; ONNX Runtime would warn at every batch."""
    opened = open_onnx(tmp_path / "n.onnx", network(batch="N", gives=1))
    assert shapes(opened.data) == [["N", 3, SIZE, SIZE], ["N", 40]]


def test_a_given_batch_size_is_kept(tmp_path):
    assert open_onnx(tmp_path / "n.onnx", network(batch=4)).data == network(batch=4)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_images_and_features_of_another_precision(tmp_path, monkeypatch, dtype):
    graph = GraphBuilder()
    x = graph.input("images", dtype, ["n", 3, SIZE, SIZE])
    colours = graph.node("ReduceMean", [x], axes=[2, 3], keepdims=0)
    graph.output(graph.node("MatMul", [colours, graph.constant(WEIGHTS.astype(dtype))]), "y", dtype, ["n", 40])
    opened = open_onnx(tmp_path / "n.onnx", graph.serialize())
    for runtime in ("onnxruntime", *([] if openvino_problem() else ["openvino"])):
        monkeypatch.setenv("FACESPACE_RUNTIME", runtime)
        (found,) = OnnxNetwork(opened.data, source="n", precision="float32").run(IMAGES)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, WANTED - 1, rtol=1e-2, atol=1e-2)


def quantizes_by_batch(batch: int | str) -> bytes:
    def edit(model):
        nodes = list(model.graph.node)
        node = new_node("DynamicQuantizeLinear", "rounded", ["images"], {})
        node.output.extend(["step", "zero"])
        nodes[0].input[0] = "images_again"
        again = new_node("DequantizeLinear", "images_again", ["rounded", "step", "zero"], {})
        del model.graph.node[:]
        model.graph.node.extend([node, again, *nodes])

    return edited(edit, network(batch=batch))


def test_features_that_depend_on_the_batch(tmp_path):
    opened = open_onnx(tmp_path / "n.onnx", quantizes_by_batch("n"))
    assert opened.remarks == ["its scaling depends on the whole batch, so one crop is computed at a time"]
    assert shapes(opened.data) == [[1, 3, SIZE, SIZE], [1, 40]]
    np.testing.assert_allclose(computed(opened.data, IMAGES[:1]), WANTED[:1], atol=0.05)
    assert open_onnx(tmp_path / "n.onnx", quantizes_by_batch(1)).remarks == []


def test_one_image_at_a_time():
    def edit(model):
        describe(model.graph.value_info.add(name=model.graph.node[0].output[0]), np.float32, ["n", 3])

    whole = with_batch_of_one(edited(edit), source="n")
    assert not parse_model(whole, "n").graph.value_info  # which contained another batch size
    assert shapes(whole) == [[1, 3, SIZE, SIZE], [1, 40]]
    np.testing.assert_allclose(computed(whole, IMAGES[:1]), WANTED[:1], rtol=1e-5)
