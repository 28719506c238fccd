"""Files of torch weights that hold the default model's numbers, and such as do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from facespace import Embedder
from facespace.backbones import create
from facespace.backbones.foreign_weights import facenet_pytorch_name, from_state_dict
from facespace.batch_norms import reestimate
from facespace.errors import ModelError
from facespace.face import INPUT_SPECS
from facespace.install import add
from facespace.model_source import find_model
from facespace.pretrained import MODELS, model_folder
from facespace.same_weights import difference_from, first_difference

CARD = MODELS["facenet-pytorch-casia-webface"]
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def default():
    return find_model("casia-webface").backbone()[0]


@pytest.fixture(scope="module")
def ported(default) -> State:
    """The default model as a port of the checkpoint has it: batch norms with statistics, scales of 1, other names."""
    torch.manual_seed(1)
    ours, state = default.state_dict(), {}
    for entry, value in ours.items():
        name = facenet_pytorch_name(default, entry)
        layer, _, leaf = entry.rpartition(".")
        if leaf == "weight" and f"{entry.removesuffix('.weight')}.batchnorm.running_var" in ours:
            norm = entry.removesuffix("weight") + "batchnorm."
            slope = (ours[norm + "running_var"].double() + 1e-3).rsqrt()
            variance = 0.5 + torch.rand(slope.shape, dtype=torch.float64)
            mean = torch.randn(slope.shape, dtype=torch.float64)
            beta = ours[norm + "bias"] - slope * ours[norm + "running_mean"] + mean / (variance + 1e-3).sqrt()
            weight = value * (slope * (variance + 1e-3).sqrt()).reshape(-1, *[1] * (value.dim() - 1))
            state[name] = weight.float()
            for kind, numbers in (("bias", beta), ("running_mean", mean), ("running_var", variance)):
                state[facenet_pytorch_name(default, norm + kind)] = numbers.float()
            state[facenet_pytorch_name(default, norm + "weight")] = torch.ones(len(slope))
        elif not layer.endswith("batchnorm"):
            state[name] = value.clone()
    return {**state, "logits.weight": torch.zeros(7, 512), "logits.bias": torch.zeros(7)}


def saved(state: State, path: Path) -> Path:
    torch.save(state, path)
    return path


def test_statistics_may_differ_where_the_numbers_do_not(default):
    crops = np.random.default_rng(0).integers(0, 256, (4, 160, 160, 3), np.uint8)
    norms = [name for name, _ in default.named_modules() if name.endswith("batchnorm")]
    assert first_difference(default, default) is None
    assert first_difference(reestimate(default, crops, INPUT_SPECS["facenet-2018"], norms), default) is None


def test_a_port_of_the_checkpoint_is_taken(default, ported, tmp_path):
    assert difference_from(saved(ported, tmp_path / "port.pt"), "casia-webface") is None


@pytest.mark.parametrize(
    ("entry", "layer", "kind"),
    [
        ("conv2d_1a.conv.weight", "conv2d_1a_3x3", "weights"),
        ("conv2d_4b.bn.running_mean", "conv2d_4b_3x3", "biases"),
        ("repeat_2.3.branch1.1.bn.running_var", "repeat_1.block17_4.branch_1.conv2d_0b_1x7", "weights"),
        ("repeat_3.0.conv2d.bias", "repeat_2.block8_1.conv2d_1x1", "biases"),
        ("last_linear.weight", "bottleneck", "weights"),
        ("last_bn.bias", "bottleneck", "biases"),
    ],
)
def test_one_number_that_differs(default, ported, entry, layer, kind):
    changed = {**ported, entry: ported[entry].clone()}
    changed[entry].view(-1)[0] += 0.01 * changed[entry].abs().max()
    found = first_difference(from_state_dict(changed), default)
    assert str(found).startswith(f"{layer}: {kind} differ by ")


def test_a_file_with_a_number_that_differs(ported, tmp_path, monkeypatch):
    monkeypatch.setenv("FACESPACE_HOME", str(tmp_path / "home"))
    path = saved({**ported, "last_bn.bias": ported["last_bn.bias"] + 0.01}, tmp_path / "changed.pt")
    with pytest.raises(ModelError, match=r"^\S*changed.pt: its weights are not those of casia-webface \(bottleneck: "):
        add(path, CARD)
    assert not model_folder(CARD).exists()


def test_other_networks(default, tmp_path):
    assert first_difference(create("squeezenet", dimension=512), default) == (
        "squeezenet of 512 numbers, not inception-resnet-v1 of 512"
    )
    assert "of 128 numbers" in str(first_difference(create("inception-resnet-v1", dimension=128), default))


@pytest.mark.parametrize("content", [b"", b"no weights", b"<html>not found</html>"])
def test_what_is_no_weights_at_all(tmp_path, content):
    path = tmp_path / "text.pt"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"text\.pt: no file of torch weights$"):
        difference_from(path, "casia-webface")


def test_such_a_file_is_installed_without_its_hash(ported, tmp_path, monkeypatch):
    monkeypatch.setenv("FACESPACE_HOME", str(tmp_path / "home"))
    installed = add(saved(ported, tmp_path / CARD.file), CARD)
    assert installed.verified == "weights"
    crops = np.random.default_rng(0).integers(0, 256, (3, 160, 160, 3), np.uint8)
    ours, theirs = (Embedder.load(name, precision="float32").embed(crops) for name in ("casia-webface", CARD.name))
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
