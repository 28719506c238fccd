"""Tests exported models against their sources, using ONNX Runtime alone as another program would."""

from __future__ import annotations

import errno
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from facespace.backbones.registry import create
from facespace.conversion import exporter as module
from facespace.conversion.converter import convert
from facespace.conversion.exporter import LEAST_COSINE, export
from facespace.embedding.embedder import Embedder
from facespace.errors import ModelError, RuntimeUnavailable
from facespace.faces.input_spec import INPUT_SPECS
from facespace.formats.onnx_model import GraphBuilder, parse_model
from facespace.formats.onnx_preprocessing import with_preprocessing
from facespace.formats.torch_files import as_safetensors
from facespace.models.folder import ONNX, ModelRecord, write_model

SIZE = 112


def faces(n: int) -> np.ndarray:
    """Return smooth coloured patches: as different as crops of people, unlike noise, whose averages are all alike."""
    rng = np.random.default_rng(0)
    return np.stack(
        [
            np.asarray(Image.fromarray(rng.integers(0, 256, (5, 5, 3)).astype(np.uint8)).resize((SIZE, SIZE)))
            for _ in range(n)
        ]
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    (folder / "weights").write_bytes(as_safetensors(create("tiny", dimension=16)))
    convert(folder / "weights", folder / "tiny")
    return folder / "tiny"


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crops")
    for n, crop in enumerate(faces(48)):
        Image.fromarray(crop).save(folder / f"{n:02}.png")
    return folder


def by_onnxruntime(path, crops):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["embeddings"], {"crops": crops})[0]


@pytest.mark.parametrize("precision", LEAST_COSINE)
def test_crops_in_embeddings_out(model, crops, tmp_path, precision, capfd):
    out = tmp_path / "m.onnx"
    exported = export(model, out, precision=precision, crops=crops)
    assert capfd.readouterr() == ("", "")
    others = faces(60)[48:]
    expected = Embedder.load(model, precision="float32").embed(others)
    found = by_onnxruntime(out, others)
    assert (found * expected).sum(axis=1).min() >= LEAST_COSINE[precision]
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert exported.cosine >= LEAST_COSINE[precision]
    assert exported.n_bytes == out.stat().st_size
    assert exported.n_crops == 16
    about = json.loads(out.with_suffix(".json").read_text())
    assert about["precision"] == precision
    assert about["parity"] == {"least_cosine": exported.cosine, "n_crops": 16, "crops": "given"}
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["m.json", "m.onnx"]
    # facespace opens its own exports.
    assert (Embedder.load(out, precision="float32").embed(others) * found).sum(axis=1).min() > 0.999
    assert (exported.embedder.embed(others) * found).sum(axis=1).min() > 0.999


def test_precisions_differ_in_size(model, crops, tmp_path):
    sizes = {p: export(model, tmp_path / f"{p}.onnx", precision=p, crops=crops).n_bytes for p in ("fp32", "fp16")}
    assert sizes["fp16"] < sizes["fp32"]


def test_without_crops_noise_is_compared(model, tmp_path):
    exported = export(model, tmp_path / "m.onnx")
    assert exported.n_crops == module.N_PARITY
    assert json.loads((tmp_path / "m.json").read_text())["parity"]["crops"] == "noise"


def test_an_export_that_computes_something_else_is_not_kept(model, crops, tmp_path, monkeypatch):
    torch.manual_seed(1)
    (tmp_path / "w").write_bytes(as_safetensors(create("tiny", dimension=16)))
    convert(tmp_path / "w", tmp_path / "other")
    other = (tmp_path / "other" / "model.onnx").read_bytes()
    monkeypatch.setattr(module, "_half", lambda *_: other)
    with pytest.raises(
        ModelError, match=r"^weights as fp16: the cosine to its source must be at least .*, got .*; nothing was written"
    ):
        export(model, tmp_path / "m.onnx", precision="fp16", crops=crops)
    assert not (tmp_path / "m.onnx").exists()
    assert not (tmp_path / "m.json").exists()


def test_existing_files_are_kept(model, tmp_path):
    (tmp_path / "m.json").write_text("mine")
    with pytest.raises(ModelError, match=r"m\.json: already exists"):
        export(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"the name must end in \.onnx"):
        export(model, tmp_path / "m.bin")


def test_a_full_disk_leaves_no_description_without_a_model(model, tmp_path, monkeypatch):
    """It would block the same command later."""
    write = Path.write_bytes

    def full(path, data):
        if path.suffix == ".onnx":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match=r"No space left.*m\.onnx"):
            export(model, tmp_path / "m.onnx")
    assert not list(tmp_path.glob("*m.*"))
    export(model, tmp_path / "m.onnx")


def test_a_full_disk_is_not_reported_as_a_fault_of_the_graph(model, crops, tmp_path, monkeypatch):
    from onnxruntime import quantization

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/int8.onnx")

    monkeypatch.setattr(quantization, "quantize_static", full)
    with pytest.raises(OSError, match=r"No space left.*int8\.onnx"):
        export(model, tmp_path / "m.onnx", precision="int8", crops=crops)


def test_int8_needs_crops(model, tmp_path):
    with pytest.raises(ModelError, match="int8 needs aligned crops of real faces"):
        export(model, tmp_path / "m.onnx", precision="int8")
    (tmp_path / "few").mkdir()
    Image.fromarray(faces(1)[0]).save(tmp_path / "few" / "a.png")
    with pytest.raises(ModelError, match="needs at least 16 crops of different people, got 1"):
        export(model, tmp_path / "m.onnx", precision="int8", crops=tmp_path / "few")


def test_int8_of_an_export_is_refused(model, crops, tmp_path):
    export(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="already contains its preprocessing"):
        export(tmp_path / "m.onnx", tmp_path / "n.onnx", precision="int8", crops=crops)


def network(*, opset: int = 13, batch: int | str = "n", gives: int | str = "n", one: bool = False) -> bytes:
    """Return a convolution and a head; with `one` it contains the shape of a single crop."""
    rng = np.random.default_rng(0)
    graph = GraphBuilder()
    x = graph.input("data", np.float32, [batch, 3, SIZE, SIZE])
    kernels = graph.constant(rng.normal(size=(16, 3, 8, 8)).astype(np.float32) * np.float32(0.1))
    x = graph.node("Relu", [graph.node("Conv", [x, kernels], strides=[8, 8])])
    x = graph.node("AveragePool", [x], kernel_shape=[7, 7], strides=[7, 7])
    x = graph.node("Reshape", [x, graph.constant(np.array([1, -1]))]) if one else graph.node("Flatten", [x], axis=1)
    weights = graph.constant(rng.normal(size=(64, 32)).astype(np.float32))
    graph.output(graph.node("MatMul", [x, weights]), "y", np.float32, [gives, 32])
    model = parse_model(graph.serialize(), "test")
    model.opset_import[0].version = opset
    return model.SerializeToString()


def in_folder(data: bytes, folder):
    """Write the network unchanged to a model folder: older folders may contain what `convert` would now repair."""
    record = ModelRecord("n", hashlib.sha256(data).hexdigest(), 32, INPUT_SPECS["arcface-112"])
    write_model(folder, record, {ONNX: data})
    return folder


@pytest.mark.parametrize("opset", [10, 11, 12, 13])
def test_int8_of_older_operators(crops, tmp_path, opset, capfd):
    """Also for a graph that declares features of one crop, about which the runtime would warn."""
    folder = in_folder(network(opset=opset, gives=1), tmp_path / "n")
    exported = export(folder, tmp_path / "m.onnx", precision="int8", crops=crops)
    assert capfd.readouterr() == ("", "")
    others = faces(60)[48:]
    found = by_onnxruntime(tmp_path / "m.onnx", others)
    assert (found * Embedder.load(folder, precision="float32").embed(others)).sum(axis=1).min() >= LEAST_COSINE["int8"]
    assert exported.batch is None


@pytest.fixture(scope="module")
def of_any_number(tmp_path_factory):
    """Export `network()` with a free batch size; return its outputs for eight crops and its description."""
    folder = tmp_path_factory.mktemp("any")
    exported = export(in_folder(network(), folder / "other"), folder / "o.onnx")
    assert exported.batch is None
    return exported.embedder.embed(faces(60)[52:]), json.loads((folder / "o.json").read_text())


@pytest.mark.parametrize("precision", LEAST_COSINE)
@pytest.mark.parametrize("form", ["folder", "file"])
@pytest.mark.parametrize(
    ("data", "batch"), [(network(one=True), 1), (network(batch=4, gives=4), 4)], ids=["holds one", "says four"]
)
def test_a_fixed_batch_size_is_described(crops, of_any_number, tmp_path, data, batch, form, precision):
    if form == "folder":
        source = in_folder(data, tmp_path / "n")
    else:
        source = tmp_path / "n.onnx"
        source.write_bytes(data)
        source.with_suffix(".json").write_text('{"input_spec": "arcface-112"}')
    exported = export(source, tmp_path / "m.onnx", precision=precision, crops=crops)
    about = json.loads((tmp_path / "m.json").read_text())
    assert (exported.batch, about["batch"], about["input"].partition(",")[0]) == (batch, batch, f"crops ({batch}")
    (given,) = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"]).get_inputs()
    assert given.shape == [batch, SIZE, SIZE, 3]
    others = faces(60)[52:]
    expected = np.concatenate(
        [by_onnxruntime(tmp_path / "m.onnx", others[start : start + batch]) for start in range(0, 8, batch)]
    )
    assert (exported.embedder.embed(others) * expected).sum(axis=1).min() > 0.999
    alone, about_alone = of_any_number
    assert (alone * expected).sum(axis=1).min() >= LEAST_COSINE[precision]
    assert about_alone["input"].startswith("crops (N,S,S,3)")


def test_float16_is_not_made_int8(crops, tmp_path):
    (tmp_path / "n.onnx").write_bytes(module._half(network(), "n"))
    (tmp_path / "n.json").write_text('{"input_spec": "arcface-112"}')
    with pytest.raises(ModelError, match=r"^n\.onnx: its weights are already float16; int8 needs float32 weights$"):
        export(tmp_path / "n.onnx", tmp_path / "m.onnx", precision="int8", crops=crops)


def test_a_graph_that_the_converters_do_not_support(crops, tmp_path, monkeypatch):
    from onnxruntime import quantization

    def raises(*_, **__):
        raise KeyError("scale\nof something")

    monkeypatch.setattr(quantization, "quantize_static", raises)
    with pytest.raises(ModelError, match=r"^n: cannot be converted to int8 \('scale.*\); export it as fp32$") as caught:
        export(in_folder(network(), tmp_path / "n"), tmp_path / "m.onnx", precision="int8", crops=crops)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m.onnx").exists()


def test_embeddings_of_another_size_are_not_kept(model, tmp_path, monkeypatch):
    other = with_preprocessing(network(), INPUT_SPECS["arcface-112"], source="n", unit=True)
    monkeypatch.setattr(module, "with_preprocessing", lambda *_, **__: other)
    with pytest.raises(ModelError, match=r"embeddings must be \(64, 16\), got \(64, 32\); nothing was written"):
        export(model, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_without_onnx(model, crops, tmp_path, monkeypatch, precision):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(RuntimeUnavailable, match=rf"^{precision} needs the package onnx; pip install"):
        export(model, tmp_path / "m.onnx", precision=precision, crops=crops)


def test_an_unknown_export_precision_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="precision must be one of fp32, fp16, int8, got 'int4'"):
        export(model, tmp_path / "m.onnx", precision="int4")


@pytest.mark.shared
def test_the_default_model(shared, tmp_path):
    out = tmp_path / "facenet.onnx"
    export("casia-webface", out, crops=shared / "data" / "train_182")
    with np.load(shared / "golden" / "casia_20180408_embeddings.npz") as file:
        crops, expected = file["crops"], file["embeddings"]
    np.testing.assert_allclose(by_onnxruntime(out, crops), expected, atol=1e-5)
