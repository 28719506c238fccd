"""The state of a run between two steps, saved and restored, and the model folder that training writes."""

from __future__ import annotations

import copy
import dataclasses
import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

from torch import nn  # noqa: E402

from facespace.backbones.backbone import Backbone  # noqa: E402
from facespace.backbones.registry import create  # noqa: E402
from facespace.errors import RuntimeUnavailable, TrainingError  # noqa: E402
from facespace.faces.input_spec import InputSpec  # noqa: E402
from facespace.models.folder import read_backbone, read_record  # noqa: E402
from facespace.training import distributed, recipe as recipes  # noqa: E402
from facespace.training.checkpoint import Checkpoint  # noqa: E402
from facespace.training.guards import Guards  # noqa: E402
from facespace.training.state import Progress, restore, tensors, write_trained  # noqa: E402

# Progress


def progress() -> Progress:
    """Return a progress in which no field has its default value."""
    return Progress(
        step=17,
        accumulate=4,
        best=0.75,
        verified=12,
        measured={"lfw": {"accuracy": 0.75, "accuracy_interval": [0.7, 0.8], "val": None}},
        guards=Guards(collapsed=3, without_triplets=5),
        scaler={"scale": 1024.0, "_growth_tracker": 7},
    )


def saved(progress: Progress) -> Checkpoint:
    """Return the checkpoint after a round trip through JSON."""
    return Checkpoint(progress.step, {}, json.loads(json.dumps(progress.facts())))


def test_no_field_of_the_example_has_its_default_value():
    first = Progress()
    for entry in dataclasses.fields(Progress):
        assert getattr(progress(), entry.name) != getattr(first, entry.name), entry.name


def test_progress_comes_back_from_a_checkpoint():
    resumed = Progress()
    resumed.take(saved(progress()))
    assert resumed == progress()
    assert isinstance(resumed.guards, Guards)


def test_the_facts_contain_everything_but_the_step():
    facts = progress().facts()
    assert set(facts) == {"accumulate", "best", "measured", "verified", "guards", "scaler"}
    assert facts["guards"] == {"collapsed": 3, "without_triplets": 5}


def test_facts_do_not_change_with_the_progress():
    ongoing = progress()
    facts = ongoing.facts()
    ongoing.guards.collapsed = 49
    ongoing.measured["lfw"]["accuracy"] = 0.0
    assert facts == progress().facts()


def test_taking_leaves_the_checkpoint_as_it_was():
    checkpoint = saved(progress())
    before = copy.deepcopy(checkpoint.facts)
    Progress().take(checkpoint)
    assert checkpoint.facts == before


@pytest.mark.parametrize(
    "change",
    [
        {"guards": {"collapsed": 1, "without_triplets": 0, "lonely": 2}},
        {"guards": None},
        {"guards": ...},
        {"momentum": 0.9},
    ],
    ids=["unknown guard", "no guards", "guards left out", "unknown field"],
)
def test_a_checkpoint_of_another_version_is_refused(change):
    facts = {name: value for name, value in {**progress().facts(), **change}.items() if value is not ...}
    with pytest.raises(TrainingError, match="another version of facespace"):
        Progress().take(Checkpoint(17, {}, facts))


# Tensors


def modules(seed: int) -> dict[str, nn.Module]:
    """A network after two batches of training, and a loss."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    for _ in range(seed + 1):
        network(torch.randn(5, 3))
    return {"backbone": network, "loss.softmax": nn.Linear(4, 2, bias=False)}


def copied(modules: dict[str, nn.Module]) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in tensors(modules).items()}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_tensors_are_named_by_their_module():
    owners = modules(0)
    found = tensors(owners)
    expected = ["0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"]
    assert set(found) == {*(f"backbone.{name}" for name in expected), "loss.softmax.weight"}
    assert torch.equal(found["backbone.1.running_mean"], owners["backbone"][1].running_mean)
    assert torch.equal(found["loss.softmax.weight"], owners["loss.softmax"].weight)


def test_restored_modules_have_the_saved_values():
    """Including statistics and counters; tensors of an optimiser are ignored."""
    saved = copied(modules(0)) | {"optimizer.backbone.0.weight.momentum_buffer": torch.zeros(4, 3)}
    target = modules(1)
    parameter = target["backbone"][0].weight
    assert not same(copied(target), copied(modules(0)))
    restore(target, saved)
    assert same(copied(target), copied(modules(0)))
    assert target["backbone"][1].num_batches_tracked.item() == 1
    assert target["backbone"][0].weight is parameter  # the optimiser keeps its tensor
    with torch.no_grad():
        parameter.zero_()
    assert saved["backbone.0.weight"].any()  # restored modules share no memory with the checkpoint


def test_a_tensor_that_is_missing_is_named():
    saved = {name: tensor for name, tensor in copied(modules(0)).items() if name != "loss.softmax.weight"}
    with pytest.raises(TrainingError, match=r"loss\.softmax\.weight"):
        restore(modules(1), saved)


def test_a_tensor_of_another_shape_is_refused():
    saved = copied(modules(0)) | {"loss.softmax.weight": torch.zeros(3, 4)}
    with pytest.raises(TrainingError, match=r"loss\.softmax\.weight .*\(3, 4\).*\(2, 4\)"):
        restore(modules(1), saved)


@pytest.mark.parametrize("rank", [0, 1])
def test_every_rank_takes_its_own_rows(monkeypatch, rank):
    monkeypatch.setattr(distributed, "n_ranks", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    whole = torch.arange(16.0).reshape(4, 4)
    target = modules(1)
    restore(target, copied(modules(0)) | {"loss.softmax.weight": whole})
    assert torch.equal(target["loss.softmax"].weight, whole[2 * rank : 2 * rank + 2])


# The model folder

SPEC = InputSpec(112, "box", crop_margin=32, channel_order="BGR")
RECIPE = recipes.parse('backbone = "tiny"\ndimension = 8\n[[losses]]\nname = "center"\nrate = 0.25\n', ["data=people"])
DATASET = {"sources": ["people"], "n_images": 47}


def backbone(seed: int) -> Backbone:
    torch.manual_seed(seed)
    network = create("tiny", dimension=8)
    network(torch.randn(4, 3, 112, 112))  # moves the statistics
    return network


def write(out: Path, network: Backbone, *, onnx: bool = False) -> list[str]:
    return write_trained(
        out, network, SPEC, name="my run", recipe=RECIPE, progress=progress(), dataset=DATASET, onnx=onnx
    )


def read(folder: Path) -> dict[str, Any]:
    return dict(read_backbone(folder, read_record(folder)).state_dict())


def test_the_folder_contains_the_network_and_its_origin(tmp_path):
    network = backbone(0)
    assert write(tmp_path / "model", network) == []
    assert sorted(os.listdir(tmp_path)) == ["model"]
    assert sorted(os.listdir(tmp_path / "model")) == ["model.json", "model.safetensors"]
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert same(safetensors_torch.load(weights), dict(network.state_dict()))
    record = read_record(tmp_path / "model")
    assert record.fingerprint == hashlib.sha256(weights).hexdigest()
    assert (record.name, record.backbone, record.dimension, record.options) == ("my run", "tiny", 8, {"dimension": 8})
    assert record.input_spec == SPEC
    assert recipes.Recipe.model_validate(record.training["recipe"]) == RECIPE
    assert (record.training["steps"], record.training["dataset"]) == (17, DATASET)
    assert record.metrics == progress().measured
    assert network.training  # the network is still in training mode


def test_the_folder_replaces_the_previous_one(tmp_path):
    write(tmp_path / "model", backbone(0))
    write(tmp_path / "model", backbone(1))
    assert os.listdir(tmp_path) == ["model"]
    assert same(read(tmp_path / "model"), dict(backbone(1).state_dict()))


def test_a_full_disk_leaves_the_previous_folder(tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write(tmp_path / "model", backbone(0))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path / "model", backbone(1))
    assert os.listdir(tmp_path) == ["model"]
    assert same(read(tmp_path / "model"), dict(backbone(0).state_dict()))


def test_onnx_is_exported_from_the_network_in_inference(tmp_path, monkeypatch):
    network, exported = backbone(0), []

    def export(given: Backbone, size: int) -> bytes:
        exported.append((given.training, size, same(dict(given.state_dict()), dict(network.state_dict()))))
        return b"the ONNX file"

    monkeypatch.setattr("facespace.backbones.onnx_export.backbone_to_onnx", export)
    assert write(tmp_path / "model", network, onnx=True) == []
    assert exported == [(False, 112, True)]
    assert (tmp_path / "model" / "model.onnx").read_bytes() == b"the ONNX file"
    assert set(read_record(tmp_path / "model").files) == {"model.onnx", "model.safetensors"}


def test_without_an_exporter_the_weights_are_written_all_the_same(tmp_path, monkeypatch):
    def unavailable(*_: object) -> bytes:
        raise RuntimeUnavailable("writing ONNX needs onnxscript")

    monkeypatch.setattr("facespace.backbones.onnx_export.backbone_to_onnx", unavailable)
    (remark,) = write(tmp_path / "model", backbone(0), onnx=True)
    assert "model.onnx" in remark and "onnxscript" in remark
    assert set(read_record(tmp_path / "model").files) == {"model.safetensors"}
