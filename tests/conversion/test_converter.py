"""Tests that models of other programs are recognised by content and converted to equivalent model folders."""

from __future__ import annotations

import dataclasses
import os
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from facespace.backbones.registry import create
from facespace.conversion import converter as module
from facespace.conversion.converter import convert
from facespace.embedding.embedder import Embedder
from facespace.errors import DatasetError, ModelError, RuntimeUnavailable
from facespace.faces.input_spec import INPUT_SPECS, InputSpec, describe_spec
from facespace.formats.onnx_model import GraphBuilder, parse_model
from facespace.formats.tf_graph import GraphDef, new_constant, new_node, parse_graph
from facespace.formats.torch_files import as_safetensors
from facespace.models.folder import ONNX, WEIGHTS, read_backbone, read_record
from facespace.models.zoo import MODELS, locate
from facespace.runtime.openvino_session import openvino_problem
from support.onnx_files import with_weights_beside
from support.tf_graphs import Graph as TensorflowGraph


def onnx_model(side: int | str = 112, *, scaling: bool = False) -> bytes:
    graph = GraphBuilder()
    x = graph.input("data", np.float32, ["n", 3, side, side])
    if scaling:  # as networks exported from MXNet begin
        x = graph.node("Sub", [x, graph.constant(np.array(127.5, np.float32))])
        x = graph.node("Mul", [x, graph.constant(np.array(1 / 128, np.float32))])
    graph.output(graph.node("ReduceMean", [x], axes=[2], keepdims=0), "y", np.float32, ["n", 3, side])
    return graph.serialize()


def flat(model_side: int = 112, *, scaling: bool = False, times: int = 3) -> bytes:
    """Return the mean colours, several times."""
    graph = GraphBuilder()
    x = graph.input("data", np.float32, ["n", 3, model_side, model_side])
    if scaling:
        x = graph.node("Sub", [x, graph.constant(np.array(127.5, np.float32))])
        x = graph.node("Mul", [x, graph.constant(np.array(1 / 128, np.float32))])
    colours = graph.node("ReduceMean", [x], axes=[2, 3], keepdims=0)
    graph.output(graph.node("Concat", [colours] * times, axis=1), "y", np.float32, ["n", 3 * times])
    return graph.serialize()


def of_one_crop(*, silent: bool) -> bytes:
    """Return a file that declares a free batch size but contains the shape of one crop: larger batches fail or give the
    first row.
    """
    graph = GraphBuilder()
    x = graph.input("data", np.float32, ["n", 3, 112, 112])
    colours = graph.node("ReduceMean", [x], axes=[2, 3], keepdims=0)
    flattened = graph.node("Reshape", [colours, graph.constant(np.array([1, -1]))])
    if silent:
        zero, three, axis = (graph.constant(np.array([number])) for number in (0, 3, 1))
        flattened = graph.node("Slice", [flattened, zero, three, axis])
    weights = np.tile(np.eye(3, dtype=np.float32), 3)
    graph.output(graph.node("MatMul", [flattened, graph.constant(weights)]), "y", np.float32, ["n", 9])
    return graph.serialize()


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return create("tiny", dimension=8).eval()


def unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def computed(backbone, crops, spec):
    images = torch.from_numpy(spec.preprocess(crops).transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        return unit(backbone(images).numpy())


# --- TensorFlow 1 -----------------------------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize("form", ["frozen", "checkpoint"])
def test_a_tensorflow_model_gives_its_golden_embeddings(shared, tmp_path, form):
    """The folder and the .pb are converted separately."""
    source = tmp_path / "20180101-000000"
    source.mkdir()
    for file in (shared / "data" / "tf1_squeezenet_128").iterdir():
        if (file.suffix == ".pb") == (form == "frozen"):
            shutil.copy(file, source)
    if form == "frozen":
        source = source / "20180101-000000.pb"
    conversion = convert(source, tmp_path / "out")
    record = conversion.record
    assert (record.backbone, record.dimension, record.name) == ("squeezenet", 128, "20180101-000000")
    assert record == read_record(tmp_path / "out")
    assert conversion.remarks[:-1] == [
        "input spec: facenet-2018 (160 px box crops with margin 32, RGB, (x − 127.5)/128), the default for TensorFlow 1; "
        "change it with --input-spec"
    ]
    assert "its embeddings are all alike" in conversion.remarks[-1], "it was never trained"
    with np.load(shared / "golden" / "networks" / "golden.npz") as file:
        crops, expected = file["crops"], file["squeezenet_128/embeddings"]
    embedder = Embedder.load(tmp_path / "out", precision="float32")
    np.testing.assert_allclose(embedder.embed(crops), expected, atol=1e-5)
    np.testing.assert_allclose(
        computed(read_backbone(tmp_path / "out", record), crops, record.input_spec), expected, atol=1e-5
    )


@pytest.mark.shared
def test_the_default_model_can_be_trained_further(shared, tmp_path, monkeypatch):
    """Its batch norms get statistics of real crops, and its outputs stay the same."""
    monkeypatch.setattr(module, "N_CROPS", 40)
    path = locate(MODELS["casia-webface"])
    conversion = convert(
        path, tmp_path / "out", input_spec=INPUT_SPECS["facenet-2018"], crops=shared / "data/train_182"
    )
    record = conversion.record
    assert conversion.remarks == ["111 folded batch norms have new statistics, measured on 40 crops"]
    assert record.fingerprint == MODELS["casia-webface"].sha256
    with np.load(shared / "golden" / "casia_20180408_embeddings.npz") as file:
        crops, expected = file["crops"], file["embeddings"]
    np.testing.assert_allclose(Embedder.load(tmp_path / "out", precision="float32").embed(crops), expected, atol=1e-5)
    backbone = read_backbone(tmp_path / "out", record)
    np.testing.assert_allclose(computed(backbone, crops, record.input_spec), expected, atol=1e-5)
    # In training, batch norms use batch statistics: without real ones the model would be destroyed.
    from facespace.pipeline.sample_crops import sample_crops

    others = sample_crops(shared / "data/train_182", record.input_spec, 33)[::2]
    inference = computed(backbone, others, record.input_spec)
    training = computed(backbone.train(), others, record.input_spec)
    assert (inference * training).sum(axis=1).mean() > 0.9


def test_without_torch_a_graph_still_recognises(tmp_path, monkeypatch, squeezenet_graph):
    from facespace.formats import torch_files as torch_weights

    def missing(what):
        raise RuntimeUnavailable(f"{what}: needs torch")

    monkeypatch.setattr(torch_weights, "require_torch", missing)
    conversion = convert(squeezenet_graph, tmp_path / "out")
    assert list(conversion.record.files) == [ONNX]
    assert conversion.record.backbone is None
    assert (
        "can recognise but not be trained: no model.safetensors written "
        "(a TensorFlow model as a torch network: needs torch)"
    ) in conversion.remarks
    assert Embedder.load(tmp_path / "out").dimension == 128


@pytest.fixture
def squeezenet_graph(shared):
    path = shared / "data" / "tf1_squeezenet_128" / "20180101-000000.pb"
    if not path.exists():
        pytest.skip("no research data")
    return path


# --- torch ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["safetensors", "torch.save", "wrapped", "parallel"])
def test_weights_of_torch_under_any_name(tmp_path, tiny, form):
    source, state = tmp_path / "some.bin", tiny.state_dict()
    if form == "safetensors":
        source.write_bytes(as_safetensors(tiny))
    else:
        wrapped = {"state_dict": state, "epoch": 3} if form == "wrapped" else state
        torch.save({f"module.{name}": t for name, t in state.items()} if form == "parallel" else wrapped, source)
    conversion = convert(source, tmp_path / "out", name="mine")
    record = conversion.record
    assert (record.name, record.backbone, record.dimension) == ("mine", "tiny", 8)
    assert record.input_spec == INPUT_SPECS["arcface-112"]
    assert set(record.files) == {ONNX, WEIGHTS}
    assert "the default for tiny" in conversion.remarks[0]
    crops = np.random.default_rng(0).integers(0, 256, (5, 112, 112, 3)).astype(np.uint8)
    expected = computed(tiny, crops, record.input_spec)
    np.testing.assert_allclose(Embedder.load(tmp_path / "out", precision="float32").embed(crops), expected, atol=1e-5)
    np.testing.assert_allclose(
        computed(read_backbone(tmp_path / "out", record), crops, record.input_spec), expected, atol=1e-5
    )


def test_a_folder_for_torch_alone_is_loaded_by_torch(tmp_path, tiny, monkeypatch):
    from facespace.backbones import onnx_export

    def missing(*_):
        raise RuntimeUnavailable("writing ONNX needs onnx")

    monkeypatch.setattr(onnx_export, "backbone_to_onnx", missing)
    (tmp_path / "w").write_bytes(as_safetensors(tiny))
    conversion = convert(tmp_path / "w", tmp_path / "out")
    assert "no model.onnx written: writing ONNX needs onnx" in conversion.remarks
    embedder = Embedder.load(tmp_path / "out")
    assert embedder.runtime == "torch-cpu"
    crops = np.random.default_rng(0).integers(0, 256, (37, 112, 112, 3)).astype(np.uint8)
    np.testing.assert_allclose(embedder.embed(crops), computed(tiny, crops, embedder.spec), atol=1e-5)


def test_a_pickle_that_runs_code(tmp_path):
    class Runs:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/proof",)

    torch.save({"a": Runs()}, tmp_path / "evil.pt")
    with pytest.raises(ModelError, match="refused: it would run code"):
        convert(tmp_path / "evil.pt", tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["evil.pt"]


def test_weights_of_no_known_network(tmp_path):
    torch.save({"layer.weight": torch.zeros(3, 3)}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"w\.pt: ") as caught:
        convert(tmp_path / "w.pt", tmp_path / "out")
    assert "\n" not in str(caught.value)


# --- ONNX -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (flat(), INPUT_SPECS["arcface-112"]),
        (flat(scaling=True), dataclasses.replace(INPUT_SPECS["arcface-112"], mean=0.0, std=1.0)),
        (flat(160), INPUT_SPECS["facenet-2018"]),
    ],
    ids=["insightface", "insightface from MXNet", "160"],
)
def test_the_spec_of_an_onnx_network_is_inferred_from_its_input(tmp_path, data, expected):
    (tmp_path / "w600k.model").write_bytes(data)
    conversion = convert(tmp_path / "w600k.model", tmp_path / "out")
    assert conversion.record.input_spec == expected
    assert list(conversion.record.files) == [ONNX]
    crops = np.random.default_rng(0).integers(0, 256, (3, expected.size, expected.size, 3)).astype(np.uint8)
    np.testing.assert_allclose(
        Embedder.load(tmp_path / "out", precision="float32").embed(crops), of_colours(crops), atol=1e-4
    )


def of_colours(crops: np.ndarray) -> np.ndarray:
    return unit(np.tile((crops.astype(np.float64).mean(axis=(1, 2)) - 127.5) / 128, 3))


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("silent", [False, True])
def test_an_onnx_network_of_one_crop_that_declares_a_free_batch_size(tmp_path, monkeypatch, runtime, silent):
    if runtime == "openvino" and openvino_problem():
        pytest.skip("no OpenVINO")
    monkeypatch.setenv("FACESPACE_RUNTIME", runtime)
    (tmp_path / "n.onnx").write_bytes(of_one_crop(silent=silent))
    conversion = convert(tmp_path / "n.onnx", tmp_path / "out")
    assert (
        conversion.remarks[0] == "its graph computes one crop at a time, although it declares more; so will this model"
    )
    parsed = parse_model((tmp_path / "out" / ONNX).read_bytes(), "x").graph
    assert [value.type.tensor_type.shape.dim[0].dim_value for value in (*parsed.input, *parsed.output)] == [1, 1]
    crops = np.random.default_rng(0).integers(0, 256, (5, 112, 112, 3)).astype(np.uint8)
    found = Embedder.load(tmp_path / "out", precision="float32").embed(crops)
    np.testing.assert_allclose(found, of_colours(crops), atol=1e-4)


def test_an_onnx_network_of_batches_stays_one(tmp_path):
    (tmp_path / "n.onnx").write_bytes(flat())
    conversion = convert(tmp_path / "n.onnx", tmp_path / "out")
    assert (tmp_path / "out" / ONNX).read_bytes() == flat()
    assert [remark.partition(":")[0] for remark in conversion.remarks] == ["input spec"]


def test_an_onnx_network_without_an_embedding(tmp_path):
    (tmp_path / "n.onnx").write_bytes(flat(times=1))
    with pytest.raises(
        ModelError,
        match=r"n\.onnx: must be a network whose output is an embedding of at least 4 numbers, got 3 per face",
    ):
        convert(tmp_path / "n.onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_onnx_with_its_weights_beside_it(tmp_path):
    (tmp_path / "n.onnx").write_bytes(with_weights_beside(flat(scaling=True), tmp_path / "n.data"))
    first = convert(tmp_path / "n.onnx", tmp_path / "out")
    assert first.remarks[0] == "its external weights (n.data) are merged into it"
    crops = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3)).astype(np.uint8)
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    found = Embedder.load(tmp_path / "elsewhere", precision="float32").embed(crops)
    np.testing.assert_allclose(found, of_colours(crops), atol=1e-4)
    (tmp_path / "n.data").write_bytes(np.array([127.5, 1 / 64], np.float32).tobytes())
    assert convert(tmp_path / "n.onnx", tmp_path / "out").record.fingerprint != first.record.fingerprint


def test_an_onnx_network_whose_spec_cannot_be_inferred(tmp_path):
    (tmp_path / "n.onnx").write_bytes(flat(96))
    with pytest.raises(ModelError, match=r"n\.onnx: the input spec cannot be inferred .* --input-spec facenet-2018\|"):
        convert(tmp_path / "n.onnx", tmp_path / "out")
    spec = InputSpec(96, "box")
    assert convert(tmp_path / "n.onnx", tmp_path / "out", input_spec=spec).record.input_spec == spec


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (onnx_model(), r"first output must be features \(N,D\)"),
        (flat(160), "its input is 160 px, its input spec says 112"),
        (b"\x08\x01", "not an ONNX model"),
    ],
)
def test_onnx_files_that_are_not_embedders(tmp_path, data, message):
    (tmp_path / "n.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=message):
        convert(tmp_path / "n.onnx", tmp_path / "out", input_spec=INPUT_SPECS["arcface-112"])
    assert not (tmp_path / "out").exists()


# --- anything ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"hello", b"\x0a", b"\x0a\xff\xff\xff", b"{}", bytes(100)])
def test_files_that_are_not_a_model(tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ModelError) as caught:
        convert(tmp_path / "x", tmp_path / "out")
    assert str(caught.value).startswith(str(tmp_path / "x"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.pb", b"  <!DOCTYPE html>", "x.pb: a web page, not the file it links to; expected a TensorFlow 1"),
        (
            "x.pt",
            b"version https://git-lfs.github.com/spec/v1",
            "x.pt: a Git LFS pointer, not the file (git lfs pull",
        ),
        ("x.h5", b"\x89HDF\r\n", "x.h5: Keras HDF5; expected a TensorFlow 1"),
        ("saved_model.pb", b"\x08\x01", "saved_model.pb: a SavedModel of TensorFlow 2 is not supported, only"),
        (
            "m.meta",
            b"\x0a",
            "m.meta: give the folder of the checkpoint, which contains its graph (.meta): facespace convert",
        ),
        ("m.data-00000-of-00001", b"\x0a", "give the folder of the checkpoint"),
        ("model.ckpt-3.index", b"", "give the folder of the checkpoint"),
        ("no file at all", None, "model.ckpt-3.index: "),
    ],
)
def test_files_often_mistaken_for_a_model(tmp_path, name, data, message):
    source = tmp_path / name
    if data is None:
        source = tmp_path / "model.ckpt-3"
        (tmp_path / "model.ckpt-3.index").touch()
    else:
        source.write_bytes(data)
    with pytest.raises(ModelError) as caught:
        convert(source, tmp_path / "out")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def graph_of_means(begin=lambda graph, x: x, *, output: str = "embeddings") -> bytes:
    """Return a frozen graph with features (N,8) that are means of 160 px images, optionally changed first."""
    graph = TensorflowGraph()
    x = begin(graph, graph.images())
    weights = graph.const(np.random.default_rng(0).normal(size=(3, 8)))
    x = graph.node("MatMul", graph.mean(x), weights)
    graph.node("Identity", x, name=output)
    return graph.bytes()


def halved(graph, x):
    return graph.node("RealDiv", graph.node("Sub", x, graph.const(np.float32(127.5))), graph.const(np.float32(128)))


def of_means(crops: np.ndarray) -> np.ndarray:
    x = (crops.astype(np.float64).mean(axis=(1, 2)) - 127.5) / 128
    return unit(x @ np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32))


CROPS = np.random.default_rng(1).integers(0, 256, (3, 160, 160, 3), np.uint8)


@pytest.mark.parametrize(
    ("begin", "mean", "std"),
    [
        (lambda graph, x: x, 127.5, 128.0),
        (halved, 0.0, 1.0),
        (lambda g, x: halved(g, g.node("Mul", x, g.const(np.float32(255)))), 0.0, 255.0),
    ],
)
def test_a_graph_that_scales_its_images_gets_unscaled_ones(tmp_path, begin, mean, std):
    (tmp_path / "x.pb").write_bytes(graph_of_means(begin))
    made = convert(tmp_path / "x.pb", tmp_path / "out")
    assert made.record.input_spec == dataclasses.replace(INPUT_SPECS["facenet-2018"], mean=mean, std=std)
    np.testing.assert_allclose(
        Embedder.load(tmp_path / "out", precision="float32").embed(CROPS), of_means(CROPS), atol=1e-5
    )


def test_unknown_scaling_must_be_given(tmp_path):
    shifted = graph_of_means(lambda graph, x: graph.node("Sub", x, graph.const(np.float32(0.1))))
    (tmp_path / "x.pb").write_bytes(shifted)
    with pytest.raises(
        ModelError, match=r"x\.pb: it begins with 1·x \+ -0\.1, which fits neither .*; give --input-spec"
    ):
        convert(tmp_path / "x.pb", tmp_path / "out")
    convert(tmp_path / "x.pb", tmp_path / "out", input_spec=INPUT_SPECS["facenet-2018"])


@pytest.mark.shared
def test_the_network_of_a_graph_that_scales_is_not_trained_on(tmp_path, squeezenet_graph):
    """Its variables fit a known network, which leaves scaling to its caller."""
    graph = parse_graph(squeezenet_graph.read_bytes(), "x")
    first = next(name for name, node in graph.items() if any(value == "input" for value in node.input))
    message = GraphDef()
    message.node.extend(graph.values())
    for node in message.node:
        if node.name == first:
            node.input[list(node.input).index("input")] = "scaled"
    scaled = new_node("scaled", "RealDiv", ["input", "by"])
    message.node.extend([scaled, new_constant("by", np.float32(127.5) * np.ones(1, np.float32))])
    (tmp_path / "x.pb").write_bytes(message.SerializeToString())
    made = convert(tmp_path / "x.pb", tmp_path / "out")
    assert WEIGHTS not in made.record.files
    assert any("the graph scales its images itself" in remark for remark in made.remarks)


def test_another_output_is_reported(tmp_path):
    (tmp_path / "x.pb").write_bytes(graph_of_means(output="features"))
    made = convert(tmp_path / "x.pb", tmp_path / "out")
    assert "no node is called embeddings; features is used instead" in made.remarks


def test_a_graph_in_the_zip_it_is_published_in(tmp_path):
    with zipfile.ZipFile(tmp_path / "20180402.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("20180402/20180402.pb", graph_of_means())
        archive.writestr("20180402/notes.txt", "read me")
    convert(tmp_path / "20180402.zip", tmp_path / "out")
    np.testing.assert_allclose(
        Embedder.load(tmp_path / "out", precision="float32").embed(CROPS), of_means(CROPS), atol=1e-5
    )
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("x.pb", graph_of_means(lambda graph, x: graph.node("Oops", x)))
    with pytest.raises(ModelError, match=r"bad\.zip, x\.pb: operator Oops .* is not supported"):
        convert(tmp_path / "bad.zip", tmp_path / "bad")


def test_no_such_source(tmp_path):
    with pytest.raises(ModelError, match=r"neither a model's name .* nor a file or model folder"):
        convert(tmp_path / "x", tmp_path / "out")


def test_a_model_folder_is_not_converted(tmp_path, tiny):
    (tmp_path / "w").write_bytes(as_safetensors(tiny))
    convert(tmp_path / "w", tmp_path / "out")
    with pytest.raises(ModelError, match="is already a model folder"):
        convert(tmp_path / "out", tmp_path / "again")
    with pytest.raises(ModelError, match="out: already exists"):
        convert(tmp_path / "w", tmp_path / "out")


def test_networks_that_disagree_are_not_kept(tmp_path, tiny, monkeypatch):
    from facespace.backbones import onnx_export

    torch.manual_seed(1)
    other = onnx_export.backbone_to_onnx(create("tiny", dimension=8), 112)
    monkeypatch.setattr(onnx_export, "backbone_to_onnx", lambda *_: other)
    (tmp_path / "w").write_bytes(as_safetensors(tiny))
    with pytest.raises(
        ModelError, match=r"model\.onnx and model\.safetensors made from it differ by .*; nothing was written"
    ):
        convert(tmp_path / "w", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_weights_are_not_kept(tmp_path, tiny):
    state = dict(tiny.state_dict())
    state["norm.weight"] = torch.full_like(state["norm.weight"], float("inf"))
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="finite"):
        convert(tmp_path / "w.pt", tmp_path / "out")


def test_crops_that_are_not_images(tmp_path, tiny):
    (tmp_path / "w").write_bytes(as_safetensors(tiny))
    (tmp_path / "crops").mkdir()
    with pytest.raises(DatasetError, match="contains no readable image"):
        convert(tmp_path / "w", tmp_path / "out", crops=tmp_path / "crops")


def test_crops_change_nothing_where_nothing_was_folded(tmp_path, tiny):
    (tmp_path / "w").write_bytes(as_safetensors(tiny))
    (tmp_path / "crops").mkdir()
    Image.fromarray(np.zeros((112, 112, 3), np.uint8)).save(tmp_path / "crops" / "a.png")
    record = convert(tmp_path / "w", tmp_path / "out", crops=tmp_path / "crops").record
    assert record.training == {}
    assert all(
        torch.equal(tensor, tiny.state_dict()[name])
        for name, tensor in read_backbone(tmp_path / "out", record).state_dict().items()
    )


def test_specs_are_described_in_words():
    assert (
        describe_spec(InputSpec(112, "arcface", std=127.5))
        == "arcface-112 (112 px crops by five points, RGB, (x − 127.5)/127.5)"
    )
    assert describe_spec(INPUT_SPECS["facenet-2017"]).endswith("per-image prewhitening)")
    assert describe_spec(InputSpec(96, "box")).startswith("its own (96 px")
