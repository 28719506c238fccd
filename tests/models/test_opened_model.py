"""What an opened model gives, whatever it was."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from facespace.backbones.registry import create  # noqa: E402
from facespace.errors import ModelError  # noqa: E402
from facespace.faces.input_spec import INPUT_SPECS  # noqa: E402
from facespace.formats.torch_files import as_safetensors  # noqa: E402
from facespace.models.folder import ModelRecord, write_model  # noqa: E402
from facespace.models.opening import open_model  # noqa: E402
from support.tf_checkpoints import write_model as write_checkpoint  # noqa: E402
from support.tiny_model import tiny_model  # noqa: E402


def test_an_onnx_file_has_no_network_for_torch(tmp_path):
    (tmp_path / "n.onnx").write_bytes(tiny_model())
    (tmp_path / "n.json").write_text('{"size": 16, "template": "box"}')
    opened = open_model(tmp_path / "n.onnx")
    assert opened.read_onnx is not None and opened.read_onnx() == tiny_model()
    with pytest.raises(ModelError, match=r"n\.onnx: an ONNX model runs on the processor only, and is not trained"):
        opened.backbone()


def test_a_folder_without_weights_says_how_to_get_them(tmp_path):
    spec = INPUT_SPECS["arcface-112"]
    write_model(tmp_path / "m", ModelRecord("m", "0" * 64, 4, spec), {"model.onnx": tiny_model()})
    with pytest.raises(ModelError, match=r"m: holds no model\.safetensors .*; convert its source again"):
        open_model(tmp_path / "m").backbone()


def test_weights_of_torch_have_no_onnx(tmp_path):
    torch.manual_seed(0)
    network = create("tiny", dimension=4).eval()
    (tmp_path / "w").write_bytes(as_safetensors(network))
    opened = open_model(tmp_path / "w")
    assert opened.read_onnx is None and opened.folded_batch_norms(opened.backbone()) == []
    x = torch.zeros(1, 3, 112, 112)
    with torch.no_grad():
        np.testing.assert_array_equal(opened.backbone()(x), network(x))


def test_a_graph_that_no_backbone_is_opens_all_the_same(tmp_path):
    write_checkpoint(tmp_path)
    opened = open_model(tmp_path)
    assert opened.read_onnx is not None and opened.read_onnx()[:1] == b"\x08"
    with pytest.raises(ModelError, match=str(tmp_path)):
        opened.backbone()


def test_the_default_model_is_not_read_before_it_is_asked_for(monkeypatch):
    from facespace.models import opening

    monkeypatch.setattr(opening, "_read_whole", lambda path: pytest.fail("the weights were read"))
    opened = open_model("casia-webface")
    assert (opened.name, opened.spec, opened.assumption) == ("casia-webface", INPUT_SPECS["facenet-2018"], "")
    assert opened.fingerprint == opened.card.sha256
