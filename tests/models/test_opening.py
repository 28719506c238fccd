"""Models of every kind opened by name, file and folder; their input spec is read, inferred or assumed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from facespace.backbones.registry import create  # noqa: E402
from facespace.backbones.weight_loading import tensorflow_name  # noqa: E402
from facespace.embedding.embedder import Embedder  # noqa: E402
from facespace.errors import ModelError  # noqa: E402
from facespace.faces.input_spec import INPUT_SPECS, InputSpec  # noqa: E402
from facespace.formats import tf_to_onnx  # noqa: E402
from facespace.formats.onnx_model import read_weights  # noqa: E402
from facespace.formats.torch_files import as_safetensors  # noqa: E402
from facespace.io.packed_weights import packed_path, read_packed  # noqa: E402
from facespace.models import opening  # noqa: E402
from facespace.models.folder import ModelRecord, write_model  # noqa: E402
from facespace.models.opening import AssumptionWarning, open_model  # noqa: E402
from facespace.models.spec_inference import TINY_SPEC  # noqa: E402
from support.tf_bundles import write_bundle  # noqa: E402
from support.tf_checkpoints import NAME, a_model, write_meta, write_model as write_checkpoint  # noqa: E402
from support.tf_graphs import Graph  # noqa: E402
from support.tiny_model import tiny_model  # noqa: E402


def prewhitening(g: Graph, scope: str = "") -> None:
    deviation = g.node("Sqrt", g.const(np.ones(1)), name=f"{scope}Sqrt_w")
    least = g.node("Rsqrt", g.const(np.ones(1)), name=f"{scope}Rsqrt_w")
    g.node("Maximum", deviation, least, name=f"{scope}Maximum_w")


def test_a_checkpoints_folder(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    opened = open_model(str(tmp_path))
    assert (opened.spec, opened.format, opened.remarks) == (
        INPUT_SPECS["facenet-2018"],
        "TensorFlow 1 checkpoint",
        (opened.assumption,),
    )
    remark = opened.assumption
    assert "contains no input spec; assuming facenet-2018" in remark
    assert f"{tmp_path.name}.json" in remark


def test_a_checkpoint_whose_graph_prewhitens(tmp_path: Path) -> None:
    g, weights = a_model()
    prewhitening(g)
    write_meta(tmp_path, g)
    write_bundle(tmp_path / NAME, weights)
    opened = open_model(str(tmp_path))
    assert opened.spec == INPUT_SPECS["facenet-2017"]
    assert "its graph prewhitens every training image" in opened.remarks[0]


def test_the_json_file_comes_first(tmp_path: Path) -> None:
    folder = tmp_path / "2017.model"
    folder.mkdir()
    write_checkpoint(folder)
    (tmp_path / "2017.model.json").write_text('{"input_spec": "facenet-2017"}')
    opened = open_model(str(folder))
    assert (opened.spec, opened.remarks) == (INPUT_SPECS["facenet-2017"], ())


def test_a_published_graph_is_recognised_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    file = tmp_path / "any name.pb"
    g = Graph()
    x = g.node("Identity", g.node("Placeholder", name="input"), name="x")
    g.node("Identity", g.node("MatMul", g.mean(x), g.const(np.ones((3, 4)))), name="embeddings")
    file.write_bytes(g.bytes())
    opened = open_model(str(file))
    assert opened.spec == INPUT_SPECS["facenet-2018"] and "assuming" in opened.assumption
    card = opening.MODELS["facenet-20170512-110547"]
    card = dataclasses.replace(card, graph_sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.setitem(opening.MODELS, card.name, card)
    opened = open_model(str(file))
    assert opened.spec == INPUT_SPECS["facenet-2017"]
    assert "recognised as facenet-20170512-110547" in opened.remarks[0]


def own_model(out: Path) -> Path:
    torch.manual_seed(0)
    backbone = create("tiny", dimension=4).eval()
    record = ModelRecord("own", "0" * 64, 4, INPUT_SPECS["arcface-112"], backbone.name, backbone.options)
    write_model(out, record, {"model.safetensors": as_safetensors(backbone)})
    return out


def test_a_training_run_opens_its_model(tmp_path: Path) -> None:
    for file in ("recipe.toml", "run.json"):
        (tmp_path / file).write_text("")
    with pytest.raises(ModelError, match=r"this training run has no model yet; resume it with: facespace train .*"):
        open_model(str(tmp_path))
    own_model(tmp_path / "best")
    assert open_model(str(tmp_path)).remarks == (f"{tmp_path}: a training run; using its best/",)
    own_model(tmp_path / "model")
    assert open_model(str(tmp_path)).remarks == (f"{tmp_path}: a training run; using its model/",)


def test_an_onnx_file_is_found_by_the_name_of_its_pb(tmp_path: Path) -> None:
    (tmp_path / "my.onnx").write_bytes(tiny_model())
    (tmp_path / "my.json").write_text(json.dumps({"size": 16, "template": "box"}))
    opened = open_model(str(tmp_path / "my.pb"))
    assert opened.spec.size == 16 and "using my.onnx next to it" in opened.remarks[0]


def test_one_checkpoint_of_tiny_face_recognition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights show the network; optimizer slots and the classifier are not read."""
    network = create("resnet50", dimension=2)
    state = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
    weights = {
        tensorflow_name("resnet50", key): np.ascontiguousarray(value.numpy().transpose(axes[value.ndim]))
        for key, value in state.items()
    }
    weights |= {"arcface_loss/embedding_weights": np.zeros((2, 9), "f4"), "global_step": np.array(3, np.int64)}
    prefix = tmp_path / "Face_vox_iter_78900.ckpt"
    write_bundle(prefix, weights)
    opened = open_model(str(prefix))
    assert (opened.spec, opened.assumption, opened.read_onnx) == (TINY_SPEC, "", None)
    assert "Tiny-Face-Recognition's ResNet-50" in opened.remarks[0] and "BGR" in opened.remarks[0]
    crops = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy((crops[..., ::-1].astype("f4") - 127.5) / 128).permute(0, 3, 1, 2))
    expected = torch.nn.functional.normalize(expected).numpy()
    embedder = Embedder.load(prefix)
    assert embedder.dimension == 2 and embedder.remarks == opened.remarks
    np.testing.assert_allclose((embedder.embed(crops) * expected).sum(1), 1, atol=1e-3)


@pytest.mark.parametrize("missing", ["no/such", "no/such.pb"])
def test_a_missing_model_gives_an_error_of_one_line(tmp_path: Path, missing: str) -> None:
    with pytest.raises(ModelError, match="neither a model's name"):
        open_model(str(tmp_path / missing))


@pytest.mark.shared
@pytest.mark.parametrize("which", ["", "20180101-000000.pb", "model-20180101-000000.ckpt-7"])
def test_a_real_model_in_every_form(shared: Path, tmp_path: Path, which: str) -> None:
    """The folder, the frozen graph and one checkpoint give the golden embeddings."""
    source = shared / "data" / "tf1_squeezenet_128" / which
    golden = np.load(shared / "golden" / "networks" / "golden.npz")
    with pytest.warns(AssumptionWarning, match="assuming facenet-2018"):
        embedder = Embedder.load(source)
    assert embedder.spec == INPUT_SPECS["facenet-2018"]
    cosine = (embedder.embed(golden["crops"]) * golden["squeezenet_128/embeddings"]).sum(1)
    assert cosine.min() > 0.999


def test_names_of_old_pages_find_the_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FACESPACE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name, expected in {
        "20170512-110547": "facenet-20170512-110547",
        "20180402-114759.pb": "facenet-20180402-114759",
        "20180402-114759.zip": "facenet-20180402-114759",
        "20180402-114759-vggface2.pt": "facenet-pytorch-vggface2",
        "vggface2": "facenet-pytorch-vggface2",
    }.items():
        with pytest.raises(
            ModelError, match=rf"^model {expected}: not installed; get it with: facespace models download"
        ):
            open_model(name)
    with pytest.raises(ModelError, match=r"get facenet-20170512-110547 with: facespace models download facenet-2017"):
        open_model("models/20170512-110547/20170512-110547.pb")
    own_model(tmp_path / "models" / "facenet-20170512-110547")
    opened = open_model("20170512-110547")
    assert opened.name == "facenet-20170512-110547"
    assert opened.remarks == ("20170512-110547: using the model facenet-20170512-110547",)
    own_model(tmp_path / "20170512-110547")  # an existing folder of that name is opened instead
    assert open_model("20170512-110547").name == "own"


def test_a_given_spec_precedes_the_json_file(tmp_path: Path) -> None:
    (tmp_path / "my.onnx").write_bytes(tiny_model())
    (tmp_path / "my.json").write_text(json.dumps({"size": 16, "template": "box"}))
    opened = open_model(tmp_path / "my.onnx")
    assert (opened.spec.crop_margin, opened.spec_reason, opened.assumption) == (0, "read from my.json", "")
    given = InputSpec(16, "box", 8)
    assert open_model(tmp_path / "my.onnx", given).spec == given


def test_an_embedder_warns_of_an_assumption_and_stores_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    (tmp_path / "w.safetensors").write_bytes(as_safetensors(create("iresnet18", dimension=8)))
    with pytest.warns(
        AssumptionWarning,
        match=r"assuming arcface-112 .*; if that is wrong, write the input spec to w\.json next to it$",
    ):
        embedder = Embedder.load(tmp_path / "w.safetensors")
    assert embedder.remarks == (open_model(tmp_path / "w.safetensors").assumption,)
    assert (embedder.runtime, embedder.dimension) == ("torch-cpu", 8)
    (tmp_path / "w.json").write_text('{"input_spec": "arcface-112"}')
    assert Embedder.load(tmp_path / "w.safetensors").remarks == ()


@pytest.mark.parametrize(("model", "most"), [("casia-webface", 18), ("sface", 23)])
def test_loading_a_published_model_runs_code_of_few_modules(model: str, most: int, tmp_path: Path) -> None:
    """A reader who follows the loading of a model needs few modules: FaceNet 17, or 18 with 8-bit integers; SFace 23.

    SFace needs the most when ONNX Runtime instead of OpenVINO loads it for the first time and the optimised network is kept.
    A module counts if one of its functions runs, or a class in it is created during its import; errors and the packages'
    `__init__` do not count.
    """
    program = """
import importlib.util, os, sys
root = os.path.dirname(importlib.util.find_spec("facespace").origin) + os.sep
modules = set()
def note(frame, event, argument):
    path = frame.f_code.co_filename
    if event == "call" and frame.f_code.co_name != "<module>" and path.startswith(root):
        modules.add(path.removeprefix(root))
sys.setprofile(note)
import facespace
facespace.Embedder.load(sys.argv[1])
sys.setprofile(None)
modules = {name for name in modules if not name.endswith("__init__.py") and name != "errors.py"}
print(len(modules), *sorted(modules), sep="\\n")
"""
    command = [sys.executable, "-c", program, model]
    environment = {**os.environ, "FACESPACE_HOME": str(tmp_path)}  # where no network is kept yet
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120, env=environment)
    assert 5 < int(done.stdout.splitlines()[0]) <= most, done.stdout


def test_the_current_folder_is_a_folder_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "2017.model"
    folder.mkdir()
    write_checkpoint(folder)
    monkeypatch.chdir(folder)
    assert 'write {"input_spec": "facenet-2017"} to 2017.model.json next to it' in open_model(".").assumption
    (tmp_path / "2017.model.json").write_text('{"input_spec": "facenet-2017"}')
    assert open_model(".").spec == INPUT_SPECS["facenet-2017"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="nor a model folder"):
        open_model(".")


def test_errors_and_remarks_name_the_zip(tmp_path: Path) -> None:
    graph = Graph()
    x = graph.node("Identity", graph.node("Placeholder", name="input"), name="x")
    graph.node("Identity", graph.node("MatMul", graph.mean(x), graph.const(np.ones((3, 4)))), name="embeddings")
    with zipfile.ZipFile(tmp_path / "published.zip", "w") as archive:
        archive.writestr("inside/weights.pb", graph.bytes())
    opened = open_model(tmp_path / "published.zip")
    assert (opened.name, opened.source) == ("published.zip", str(tmp_path / "published.zip"))
    assert "to published.json next to it" in opened.assumption and "/tmp/facespace-" not in opened.assumption
    assert opened.read_onnx()[:1] == b"\x08", "the graph can be read although the unpacked files were removed"
    with pytest.raises(ModelError) as error:
        opened.backbone()
    assert str(error.value).startswith(f"{tmp_path / 'published.zip'}, weights.pb: ")
    (tmp_path / "published.json").write_text('{"input_spec": "facenet-2017"}')
    told = open_model(tmp_path / "published.zip")
    assert (told.spec, told.spec_reason, told.assumption) == (
        INPUT_SPECS["facenet-2017"],
        "read from published.json",
        "",
    )


def test_a_graph_with_a_known_spec_is_not_translated_to_infer_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path)
    monkeypatch.setattr(tf_to_onnx, "to_onnx", lambda *_, **__: pytest.fail("the graph was translated"))
    assert open_model(tmp_path, INPUT_SPECS["facenet-2018"]).spec == INPUT_SPECS["facenet-2018"]


def test_a_calibration_is_for_crops_as_the_model_was_published_for(embedder: Embedder) -> None:
    assert embedder.calibration is not None
    other = Embedder.load("casia-webface", precision="float32", spec=INPUT_SPECS["facenet-2017"])
    assert other.calibration is None and other.spec == INPUT_SPECS["facenet-2017"]
    with pytest.raises(ModelError, match="casia-webface: the input spec must have a size of 160 px, got 112"):
        Embedder.load("casia-webface", precision="float32", spec=INPUT_SPECS["arcface-112"])


# Opened models of all kinds


def test_an_onnx_file_has_no_network_for_torch(tmp_path):
    (tmp_path / "n.onnx").write_bytes(tiny_model())
    (tmp_path / "n.json").write_text('{"size": 16, "template": "box"}')
    opened = open_model(tmp_path / "n.onnx")
    assert opened.read_onnx is not None and opened.read_onnx() == tiny_model()
    with pytest.raises(ModelError, match=r"n\.onnx: an ONNX model runs only on the processor and cannot be trained"):
        opened.backbone()


def test_a_folder_without_weights_says_how_to_get_them(tmp_path):
    spec = INPUT_SPECS["arcface-112"]
    write_model(tmp_path / "m", ModelRecord("m", "0" * 64, 4, spec), {"model.onnx": tiny_model()})
    with pytest.raises(ModelError, match=r"m: contains no model\.safetensors .*; convert its source again"):
        open_model(tmp_path / "m").backbone()


def test_torch_weights_have_no_onnx(tmp_path):
    torch.manual_seed(0)
    network = create("tiny", dimension=4).eval()
    (tmp_path / "w").write_bytes(as_safetensors(network))
    opened = open_model(tmp_path / "w")
    assert opened.read_onnx is None and opened.folded_batch_norms(opened.backbone()) == []
    x = torch.zeros(1, 3, 112, 112)
    with torch.no_grad():
        np.testing.assert_array_equal(opened.backbone()(x), network(x))


def test_a_graph_without_a_matching_backbone_can_be_opened(tmp_path):
    write_checkpoint(tmp_path)
    opened = open_model(tmp_path)
    assert opened.read_onnx is not None and opened.read_onnx()[:1] == b"\x08"
    with pytest.raises(ModelError, match=str(tmp_path)):
        opened.backbone()


def test_a_packed_model_opens_by_its_name(monkeypatch, tmp_path):
    """Its weights are read and checked on demand."""
    card = opening.MODELS["sface"]
    read = []
    monkeypatch.setattr(
        "facespace.io.packed_weights.read_packed", lambda *file: read.append(file) or read_packed(*file)
    )
    opened = open_model("sface")
    assert not read
    assert (opened.name, opened.format, opened.card) == ("sface", "ONNX", card)
    assert (opened.spec, opened.spec_reason) == (INPUT_SPECS["sface"], "as published for sface")
    assert (opened.assumption, opened.remarks) == ("", ())
    assert (opened.source, opened.fingerprint) == (str(packed_path(card.file)), card.sha256)
    data = opened.read_onnx()
    assert read == [(card.file, card.sha256)]
    (weight,) = {array.dtype for array in read_weights(data, "sface").values()}
    assert weight == np.float32
    with pytest.raises(
        ModelError, match=r"sface.*\.onnx: an ONNX model runs only on the processor and cannot be trained"
    ):
        opened.backbone()
    assert opened.folded_batch_norms(create("tiny", dimension=4)) == []


def test_a_packed_model_takes_another_spec_of_its_size():
    given = InputSpec(112, "arcface", channel_order="BGR", mean=0.0, std=1.0)
    assert open_model("sface", given).spec == given
    assert open_model("sface", "arcface-112").spec == INPUT_SPECS["arcface-112"]
    with pytest.raises(ModelError, match=r"^sface: the input spec must have a size of 112 px, got 160$"):
        open_model("sface", "facenet-2018")


def test_a_packed_model_opens_by_its_path_with_the_same_fingerprint():
    """A gallery made with one works with the other."""
    path = packed_path(opening.MODELS["sface"].file)
    by_path, by_name = open_model(path), open_model("sface")
    assert (by_path.spec, by_path.fingerprint) == (by_name.spec, by_name.fingerprint)
    assert by_path.read_onnx() == by_name.read_onnx()
    assert "assuming sface (112 px crops by five points, RGB, (x − 0)/1)" in by_path.assumption


def test_the_file_name_of_a_packed_model_opens_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = opening.MODELS["sface"].file
    assert open_model(file).remarks == (f"{file}: using the model sface",)


def test_a_changed_packed_model_gives_an_error_of_one_line(tmp_path, monkeypatch):
    path = packed_path(opening.MODELS["sface"].file)
    (tmp_path / path.name).write_bytes(path.read_bytes()[:-1])
    monkeypatch.setattr("facespace.io.packed_weights.FOLDER", str(tmp_path))
    opened = open_model("sface")
    with pytest.raises(ModelError, match=r"\.onnx: the file was changed or cut short since it was published; install"):
        opened.read_onnx()


def test_the_default_model_is_read_on_demand(monkeypatch):
    monkeypatch.setattr(opening, "_read_whole", lambda path: pytest.fail("the weights were read"))
    opened = open_model("casia-webface")
    assert (opened.name, opened.spec, opened.assumption) == ("casia-webface", INPUT_SPECS["facenet-2018"], "")
    assert opened.fingerprint == opened.card.sha256
