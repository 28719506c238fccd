"""The commands convert and export, and the option `--device`."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from facespace.backbones.registry import create
from facespace.conversion.converter import convert
from facespace.embedding.embedder import Embedder
from facespace.formats.onnx_model import GraphBuilder
from facespace.formats.torch_files import as_safetensors


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mine.pt"
    path.write_bytes(as_safetensors(create("tiny", dimension=16)))
    return path


@pytest.fixture(scope="module")
def model(weights, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "tiny"
    convert(weights, out)
    return out


def test_convert_prints_the_network_and_its_input(weights, cli, tmp_path):
    done = cli("convert", weights, tmp_path / "out", "--input-spec", "arcface-112", "--name", "tiny of mine")
    assert (done.code, done.err) == (0, "")
    assert done.out == (
        "torch state dict: tiny, 16 dimensions, input arcface-112 (112 px crops by five points, RGB, "
        f"(x − 127.5)/127.5) -> {tmp_path / 'out'} (model.safetensors, model.onnx)\n"
    )
    assert Embedder.load(tmp_path / "out").name == "tiny of mine"


def test_an_assumed_spec_is_reported_in_one_line(weights, cli, tmp_path):
    done = cli("convert", weights, tmp_path / "out")
    assert done.out.splitlines()[0] == (
        "input spec: arcface-112 (112 px crops by five points, RGB, (x − 127.5)/127.5), the default for tiny; "
        "change it with --input-spec"
    )


def test_a_spec_from_a_file(weights, cli, tmp_path):
    (tmp_path / "spec.json").write_text('{"size": 112, "template": "box", "crop_margin": 12, "channel_order": "BGR"}')
    done = cli("convert", weights, tmp_path / "out", "--input-spec", tmp_path / "spec.json", "--json")
    record = json.loads(done.out)
    assert record["input_spec"]["channel_order"] == "BGR"
    assert record["remarks"] == []
    assert Embedder.load(tmp_path / "out").spec.crop_margin == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--input-spec", "facenet-2016"],
            "must be a preset (facenet-2018, facenet-2017, arcface-112, sface) or a file, got facenet-2016",
        ),
        (["--crops", "nowhere"], "nowhere: not a folder"),
    ],
)
def test_mistakes_are_one_line(weights, cli, tmp_path, arguments, message):
    done = cli("convert", weights, tmp_path / "out", *arguments)
    assert done.code != 0
    assert message in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()


def test_every_command_accepts_a_model_folder(model, cli, tmp_path, hopper_file):
    done = cli("embed", hopper_file, "--output", tmp_path / "e.npz", "--model", model)
    assert done.code == 0, done.err
    with np.load(tmp_path / "e.npz") as file:
        assert file["embedding"].shape == (1, 16)


def test_a_gpu_that_is_not_there(cli, tmp_path, hopper_file):
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    done = cli("embed", hopper_file, "--output", tmp_path / "e.npz", "--device", "cuda")
    assert done.code == 1
    assert done.err.startswith("facespace: device cuda: the installed onnxruntime ")
    done = cli("embed", hopper_file, "--output", tmp_path / "e.npz", "--device", "cuda", "--model", "casia-webface")
    assert done.code == 1
    assert done.err.startswith("facespace: device cuda: torch ")
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "e.npz").exists()


def test_export(model, cli, tmp_path):
    done = cli("export", model, "--output", tmp_path / "m.onnx", "--precision", "fp16")
    assert done.code == 0, done.err
    assert done.out.startswith("fp16: cosine similarity to the source at least ")
    done = cli("export", model, "--output", tmp_path / "m.onnx")
    assert done.code == 1
    assert done.err == f"facespace: {tmp_path / 'm.onnx'}: already exists; give another name or remove it first\n"
    done = cli("export", model, "--output", tmp_path / "n.onnx", "--precision", "int8")
    assert "int8 needs aligned crops of real faces to measure ranges on: --crops DIR" in done.err


@pytest.mark.parametrize(
    ("batch", "words"), [("n", ""), (1, ", takes 1 crop at a time"), (4, ", takes 4 crops at a time")]
)
def test_export_prints_the_batch_size_of_the_file(cli, tmp_path, batch, words):
    graph = GraphBuilder()
    x = graph.input("data", np.float32, [batch, 3, 112, 112])
    x = graph.node("AveragePool", [x], kernel_shape=[28, 28], strides=[28, 28])
    graph.output(graph.node("Flatten", [x], axis=1), "y", np.float32, [batch, 48])
    (tmp_path / "n.onnx").write_bytes(graph.serialize())
    (tmp_path / "n.json").write_text('{"input_spec": "arcface-112"}')
    done = cli("export", tmp_path / "n.onnx", "--output", tmp_path / "m.onnx")
    assert done.code == 0, done.err
    assert done.out.endswith(f" 0.0 MB{words} -> {tmp_path / 'm.onnx'}\n")
    done = cli("export", tmp_path / "n.onnx", "--output", tmp_path / "o.onnx", "--json")
    assert json.loads(done.out)["batch"] == (None if batch == "n" else batch)


def test_export_prints_the_accuracy_before_and_after(model, cli, tmp_path):
    rng = np.random.default_rng(0)
    lines = ["4"]
    for person in "abcd":
        (tmp_path / "crops" / person).mkdir(parents=True)
        face = np.asarray(Image.fromarray(rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)).resize((112, 112)))
        for n in (1, 2):
            noisy = np.clip(face + rng.normal(0, 5, face.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(tmp_path / "crops" / person / f"{person}_{n:04}.png")
        lines.append(f"{person}\t1\t2")
    lines += [f"{a}\t1\t{b}\t1" for a, b in ("ab", "bc", "cd", "da")]
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n")
    done = cli(
        "export", model, "--output", tmp_path / "m.onnx", "--json", "--crops", tmp_path / "crops" , "--aligned",
        "--verify", tmp_path / "pairs.txt", "--images", tmp_path / "crops",
    )  # fmt: skip
    assert done.code == 1  # 8 crops are too few to measure on
    done = cli(
        "export", model, "--output", tmp_path / "m.onnx", "--json", "--aligned",
        "--verify", tmp_path / "pairs.txt", "--images", tmp_path / "crops",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert json.loads(done.out)["accuracy"] == {"before": 1.0, "after": 1.0}
    done = cli("export", model, "--output", tmp_path / "n.onnx", "--verify", tmp_path / "pairs.txt")
    assert "--verify PAIRS and --images DIR go together" in " ".join(done.err.split())
