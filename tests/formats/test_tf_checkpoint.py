"""Folders of checkpoints: the choice of files, a real one up to its golden embeddings, and damage."""

from __future__ import annotations

import functools
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from facespace.errors import ModelError
from facespace.formats.tf_checkpoint import (
    MAX_META_BYTES,
    find_checkpoint,
    frozen,
    read_checkpoint,
    read_meta_graph,
    variables,
)
from facespace.formats.tf_graph import constant, read_graph
from facespace.formats.tf_tensor_bundle import TensorBundle
from facespace.formats.tf_to_onnx import to_onnx
from facespace.runtime.onnx_network import OnnxNetwork
from support.tf_bundles import limited, refusal, same, write_bundle, write_partitioned
from support.tf_checkpoints import NAME, a_model, variable, write_meta, write_model
from support.tf_graphs import Graph, images_of

NEEDED = {name for name in a_model()[1] if name.startswith("Net/")}


def slow_model(weights: dict[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    from support.tf_graphs import slow_conv

    w = {name.removeprefix("Net/"): array.astype(np.float64) for name, array in weights.items()}
    x = slow_conv(images, w["conv/weights"], 1, b"SAME") - w["conv/BatchNorm/moving_mean"]
    x = x / np.sqrt(w["conv/BatchNorm/moving_variance"] + 0.001) + w["conv/BatchNorm/beta"]
    return np.maximum(x, 0).mean(axis=(1, 2)) @ w["fc/weights"] + w["fc/biases"]


# --- a folder to a network ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["VariableV2", "Variable", "VarHandleOp"])
def test_a_folder_becomes_a_frozen_graph(tmp_path, op):
    weights = write_model(tmp_path, op)
    graph = read_checkpoint(tmp_path)
    operators = {node.op for node in graph.values()}
    assert not operators & {op, "ReadVariableOp", "Switch", "Merge", "QueueDequeueUpToV2"}
    assert {name for name in graph if name in weights} == NEEDED
    for name in NEEDED:
        found = constant(graph[name], "")
        assert same(found, weights[name].astype("f4")), name
    images = np.random.default_rng(0).normal(size=(2, 7, 8, 3)).astype("f4")
    network = OnnxNetwork(to_onnx(graph, source="x"), source="x", precision="float32")
    np.testing.assert_allclose(network.run(images)[0], slow_model(weights, images), atol=1e-4)


def test_variables_are_as_they_were_stored(tmp_path):
    weights = write_model(tmp_path)
    found = variables(tmp_path)
    assert found.keys() == NEEDED
    assert all(same(array, weights[name]) for name, array in found.items())
    assert variables(tmp_path, output="logits").keys() == {*NEEDED, "Logits/weights"}


def test_only_needed_variables_are_read(tmp_path):
    """Variables that only training needs may be missing or of any type."""
    weights = write_model(tmp_path, **{"Logits/weights": None, "global_step": np.zeros(3, "c8")})
    assert variables(tmp_path).keys() == NEEDED
    assert read_checkpoint(tmp_path).keys() & weights.keys() == NEEDED


@pytest.mark.shared
def test_golden_squeezenet(shared):
    folder = shared / "data" / "tf1_squeezenet_128"
    with np.load(shared / "golden" / "networks" / "golden.npz") as file:
        crops, expected = file["crops"], file["squeezenet_128/embeddings"]
    network = OnnxNetwork(to_onnx(read_checkpoint(folder), source="x"), source="x", precision="float32")
    found = network.run((crops.astype(np.float32) - 127.5) / 128)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.shared
def test_golden_weights(shared):
    """Weights equal the formula, and those in the frozen graph of the same model."""
    folder = shared / "data" / "tf1_squeezenet_128"
    found = variables(folder)
    graph = read_graph(folder / "20180101-000000.pb")
    assert found.keys() == {name.removesuffix("/read") for name in graph if name.endswith("/read")}
    for name, array in found.items():
        u = np.random.RandomState(zlib.crc32(name.encode())).uniform(-1, 1, array.shape)
        last = name.rsplit("/", 1)[-1]
        if last == "moving_variance":
            expected = 1 + 0.5 * u
        else:
            expected = 0.1 * u if last in ("moving_mean", "beta", "biases") else u * np.sqrt(6 / np.prod(u.shape[:-1]))
        assert same(array, expected.astype(np.float32)), name
        assert same(array, constant(graph[name], "")), name


# --- the choice of files --------------------------------------------------------------------------------------------------


def folder_with(folder: Path, *names: str, checkpoint: str | bytes | None = None) -> Path:
    for name in names:
        (folder / name).write_bytes(b"")
    if checkpoint is not None:
        data = checkpoint if isinstance(checkpoint, bytes) else checkpoint.encode()
        (folder / "checkpoint").write_bytes(data)
    return folder


SAVED = ["m.meta", "model-x.ckpt-9.index", "model-x.ckpt-10.index", "model-x.ckpt-10.data-00000-of-00001", "文.index"]


@pytest.mark.parametrize(
    ("checkpoint", "expected"),
    [
        (None, "model-x.ckpt-10"),
        ("", "model-x.ckpt-10"),
        ('all_model_checkpoint_paths: "model-x.ckpt-9"', "model-x.ckpt-10"),
        ('model_checkpoint_path: "model-x.ckpt-9"\nall_model_checkpoint_paths: "model-x.ckpt-10"', "model-x.ckpt-9"),
        ('all_model_checkpoint_paths: "a"\n  model_checkpoint_path :"model-x.ckpt-9"', "model-x.ckpt-9"),
        ('model_checkpoint_path: "/home/x/models/20180101/model-x.ckpt-9"', "model-x.ckpt-9"),
        ('model_checkpoint_path: "../../model-x.ckpt-9"', "model-x.ckpt-9"),
        ('model_checkpoint_path: "D:\\\\models\\\\2018\\\\model-x.ckpt-9"', "model-x.ckpt-9"),
        ('model_checkpoint_path: "a\\"b/model-x.ckpt-9"', "model-x.ckpt-9"),
        ('model_checkpoint_path: "/m/\\346\\226\\207"', "文"),
        ('model_checkpoint_path: ".."', "model-x.ckpt-10"),
        ('model_checkpoint_path: "models/"', "model-x.ckpt-10"),
    ],
)
def test_the_checkpoint_that_is_chosen(tmp_path, checkpoint, expected):
    folder_with(tmp_path, *SAVED, checkpoint=checkpoint)
    assert find_checkpoint(tmp_path) == (str(tmp_path / "m.meta"), str(tmp_path / expected))


def test_the_highest_number_and_not_the_last_name(tmp_path):
    folder_with(tmp_path, "m.meta", *(f"model-2017 a.ckpt-{n}.index" for n in (2, 100, 30)), "other.ckpt-500.index")
    assert find_checkpoint(tmp_path)[1] == str(tmp_path / "model-2017 a.ckpt-100")


@pytest.mark.parametrize(
    ("names", "checkpoint", "message"),
    [
        ([], None, "expected one .meta, which contains the model's graph, got none"),
        (["saved_model.pb"], None, "got none; a SavedModel of TensorFlow 2 is not supported"),
        (["x.pb"], None, "got none; give the frozen graph itself, x.pb"),
        (["x.pb", "y.pb"], None, "expected one .meta, which contains the model's graph, got none"),
        (
            ["a.meta", "b.meta", "x.index"],
            None,
            "expected one .meta, which contains the model's graph, or one for the checkpoint x, got 2: a.meta, b.meta",
        ),
        (["a.meta"], None, "expected a checkpoint, model-….ckpt-N.index and its .data files, got none"),
        (["a.meta", "x.index", "y.index"], None, "got several, and no file `checkpoint` that names one"),
        (
            ["a.meta", "model-a.ckpt-1.index"],
            'model_checkpoint_path: "model-b.ckpt-1"',
            "names model-b.ckpt-1, whose .index is missing",
        ),
        (["a.meta"], 'model_checkpoint_path: "a\\nb"', "names anb, whose .index is missing"),
        (["a.meta"], b'model_checkpoint_path: "\xff\x01"', "names \\xff\\x01, whose .index is missing"),
    ],
)
def test_folders_without_a_checkpoint(tmp_path, names, checkpoint, message):
    folder_with(tmp_path, *names, checkpoint=checkpoint)
    said = refusal(lambda: find_checkpoint(tmp_path))
    assert said.startswith(f"{tmp_path}: ")
    assert message in said


@pytest.mark.parametrize(
    ("names", "checkpoint", "expected"),
    [
        (["m-1.meta", "m-1.index", "m-2.meta", "m-2.index"], 'model_checkpoint_path: "m-1"', ("m-1.meta", "m-1")),
        (["model-a.ckpt-1.meta", "model-a.ckpt-1.index", "model-a.ckpt-2.meta", "model-a.ckpt-2.index"], None, ("model-a.ckpt-2.meta", "model-a.ckpt-2")),
        (["graph.meta", "model.ckpt.index"], None, ("graph.meta", "model.ckpt")),
    ],
)  # fmt: skip
def test_names_that_other_trainers_give(tmp_path, names, checkpoint, expected):
    folder_with(tmp_path, *names, checkpoint=checkpoint)
    assert find_checkpoint(tmp_path) == tuple(str(tmp_path / name) for name in expected)


def test_something_other_than_a_folder(tmp_path):
    assert "No such file or directory; expected the folder" in refusal(lambda: find_checkpoint(tmp_path / "gone"))
    (tmp_path / "file").write_bytes(b"")
    assert "Not a directory; expected the folder" in refusal(lambda: find_checkpoint(tmp_path / "file"))
    os.mkfifo(tmp_path / "checkpoint")
    (tmp_path / "a.meta").write_bytes(b"")
    assert "checkpoint: missing or not a regular file" in refusal(lambda: find_checkpoint(tmp_path))


def test_a_checkpoint_in_one_file(tmp_path):
    """TensorFlow's oldest format is recognised and refused with advice."""
    write_model(tmp_path)
    for path in tmp_path.glob(f"{NAME}.*"):
        path.unlink()
    (tmp_path / NAME).write_bytes(b"anything")
    assert "restore it in TensorFlow 1 and save it" in refusal(lambda: read_checkpoint(tmp_path))


# --- refused files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x0a\x05abcde", b"\xff" * 30, b"\x0a\x02\x0a\x00"], ids=repr)
def test_files_that_are_not_a_meta_graph(tmp_path, data):
    path = tmp_path / "m.meta"
    path.write_bytes(data)
    assert refusal(lambda: read_meta_graph(path)).startswith(f"{path}: not a TensorFlow meta graph (")


def test_meta_graphs_that_are_too_large_or_no_file(tmp_path):
    path = tmp_path / "m.meta"
    assert "missing or not a regular file" in refusal(lambda: read_meta_graph(path))
    os.mkfifo(path)
    assert "missing or not a regular file" in refusal(lambda: read_meta_graph(path))
    path.unlink()
    with open(path, "wb") as file:
        file.truncate(MAX_META_BYTES + 1)
    assert f"at most {MAX_META_BYTES} bytes, got more" in refusal(lambda: read_meta_graph(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Net/fc/biases": None}, "lacks the variable 'Net/fc/biases' of model-20180101-000000.meta"),
        (
            {"Net/fc/biases": np.zeros(6, "f4")},
            "'Net/fc/biases' must have shape [5] as in model-20180101-000000.meta, got [6]",
        ),
        (
            {"Net/fc/biases": np.zeros((1, 5), "f4")},
            "'Net/fc/biases' must have shape [5] as in model-20180101-000000.meta, got [1, 5]",
        ),
        ({"Net/fc/biases": np.zeros(5, "c8")}, "'Net/fc/biases' must be float, int32, int64 or bool, got complex64"),
        ({"Net/fc/biases": np.zeros(5, "u1")}, "'Net/fc/biases' must be float, int32, int64 or bool, got uint8"),
    ],
)
@pytest.mark.parametrize("function", [variables, read_checkpoint])
def test_a_checkpoint_of_another_model(tmp_path, changes, message, function):
    write_model(tmp_path, **changes)
    said = refusal(lambda: function(tmp_path))
    assert said.startswith(f"{tmp_path / NAME}: ")
    assert message in said


def test_shapes_that_are_not_declared(tmp_path):
    """A variable may have undeclared sizes; the checkpoint contains them."""
    g, weights = a_model()
    for node in g.message.node:
        if node.name == "Net/fc/biases":
            node.attr[0].value.shape.dim[0].size = -1
        if node.name == "Net/fc/weights":
            del node.attr[0].value.shape.dim[:]
            node.attr[0].value.shape.unknown_rank = True
        if node.name == "Net/conv/weights":
            del node.attr[:]
    write_meta(tmp_path, g)
    write_bundle(tmp_path / NAME, weights)
    assert variables(tmp_path).keys() == NEEDED


def test_variables_too_large_together(tmp_path):
    """Sizes are added up before the first is read, because entries may share bytes."""
    n = 2**14
    g = Graph()
    parts = [variable(g, f"v{k}", np.empty((n, n // 16))) for k in range(17)]
    g.node("AddN", g.images(), *parts, name="embeddings")
    write_meta(tmp_path, g)
    from support.tf_bundles import entry, header, write_index

    write_index(
        tmp_path / NAME, {b"": header()} | {f"v{k}".encode(): entry(1, (n, n // 16), 0, 0, b"") for k in range(17)}
    )
    with limited():
        assert "its variables have more than" in refusal(lambda: variables(tmp_path))


def partitioned(tmp_path, shapes: list[tuple[int, ...]]) -> np.ndarray:
    """Return a model with a variable (10,4) in parts: one node per part in the graph, one name in the checkpoint."""
    g = Graph()
    parts = [variable(g, f"part/10x4_3/part_{k}", np.empty(shape)) for k, shape in enumerate(shapes)]
    joined = g.node("ConcatV2", *parts, g.const(0))
    x = g.node("Conv2D", g.images(), g.const(np.eye(3, 10)[None, None]), strides=[1] * 4, padding=b"SAME")
    g.node("MatMul", g.mean(x), joined, name="embeddings")
    write_meta(tmp_path, g)
    return write_partitioned(tmp_path / NAME)


def test_partitioned_variables(tmp_path):
    whole = partitioned(tmp_path, [(4, 4), (5, 4), (1, 4)])  # not the same parts as stored
    found = variables(tmp_path)
    assert found.keys() == {f"part/10x4_3/part_{k}" for k in range(3)}
    assert same(np.concatenate([found[f"part/10x4_3/part_{k}"] for k in range(3)]), whole)
    images = images_of()
    network = OnnxNetwork(to_onnx(read_checkpoint(tmp_path), source="x"), source="x", precision="float32")
    (shape,) = network.outputs.values()
    assert list(network.outputs) == ["features"] and isinstance(shape[0], str) and shape[1:] == [4]
    features = network.run(images)[0]
    np.testing.assert_allclose(features, images.mean(axis=(1, 2)) @ whole[:3], atol=1e-5)


def test_variables_partitioned_along_the_other_axis(tmp_path):
    whole = partitioned(tmp_path, [(10, 1), (10, 3)])
    found = variables(tmp_path)
    assert same(found["part/10x4_3/part_1"], whole[:, 1:])


@pytest.mark.parametrize(
    "shapes", [[(4, 4)], [(4, 4), (5, 4)], [(4, 4), (6, 3)], [(4, 4), (7, 4)], [(10,)], [(10, 4), (0, 4)]]
)  # fmt: skip
def test_parts_that_are_not_the_whole(tmp_path, shapes):
    partitioned(tmp_path, shapes)
    assert "lacks the variable 'part/10x4_3/part_" in refusal(lambda: variables(tmp_path))


def test_without_the_output(tmp_path):
    write_model(tmp_path)
    for function in (variables, read_checkpoint):
        said = refusal(lambda function=function: function(tmp_path, output="features"))
        assert (
            said
            == f"{tmp_path}/model-20180101-000000.meta: no node is called 'features', the usual name of a FaceNet graph's features"
        )


# --- damage ---------------------------------------------------------------------------------------------------------------


@functools.cache
def specimen(op: str) -> dict[str, bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), op)
        (Path(folder) / "checkpoint").write_text(f'model_checkpoint_path: "/x/{NAME}"\n')
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def check_damaged(folder: Path, files: dict[str, bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with limited(2**26):
        try:
            to_onnx(read_checkpoint(folder), source="m.meta")
        except ModelError as error:
            assert "\n" not in str(error)


FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
OPERATORS = st.sampled_from(["VariableV2", "VarHandleOp"])


@settings(FUZZ, max_examples=150)
@given(OPERATORS, st.data())
def test_flipped_bytes(tmp_path, op, data):
    files = dict(specimen(op))
    name = data.draw(st.sampled_from(["checkpoint", "model-20180101-000000.meta", "model-20180101-000000.meta"]))
    damaged = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    check_damaged(tmp_path / "model", files | {name: bytes(damaged)})


@settings(FUZZ, max_examples=50)
@given(OPERATORS, st.sampled_from(sorted(specimen("VariableV2"))), st.floats(0, 1, exclude_max=True))
def test_cut_files(tmp_path, op, name, place):
    files = specimen(op)
    check_damaged(tmp_path / "model", files | {name: files[name][: int(place * len(files[name]))]})


def test_the_undamaged_file_is_read(tmp_path):
    for op in ("VariableV2", "VarHandleOp"):
        check_damaged(tmp_path / "model", specimen(op))
        bundle = TensorBundle.open(tmp_path / "model" / NAME)
        graph = frozen(read_meta_graph(tmp_path / "model" / "model-20180101-000000.meta"), bundle, source="m.meta")
        assert to_onnx(graph, source="m.meta")
