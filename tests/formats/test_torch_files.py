"""Torch weights: safetensors both ways, and other programs' pickles without running them."""

from __future__ import annotations

import io
import os
import pickle
import re
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st

from facespace.backbones.backbone import Backbone
from facespace.backbones.registry import create
from facespace.errors import ModelError, RuntimeUnavailable
from facespace.faces.input_spec import INPUT_SPECS
from facespace.formats.torch_files import (
    as_safetensors,
    is_safetensors,
    is_torch_file,
    load_state,
    parse_safetensors,
    read_state_dict,
    require_torch,
)
from facespace.models.folder import ONNX, WEIGHTS, ModelRecord, read_backbone, read_record, write_model


@pytest.fixture(scope="module")
def network() -> Backbone:
    return create("tiny", dimension=8)


def folder_of(path: Path, network: Backbone, **changes: object) -> Path:
    fields = {"backbone": network.name, "options": network.options, "dimension": 8, **changes}
    record = ModelRecord("t", "0" * 64, input_spec=INPUT_SPECS["arcface-112"], **fields)
    write_model(path / "m", record, {WEIGHTS: as_safetensors(network)})
    return path / "m"


def same(a: dict, b: dict) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_a_network_is_read_back_from_its_folder(network, tmp_path):
    folder = folder_of(tmp_path, network)
    found = read_backbone(folder, read_record(folder))
    assert same(found.state_dict(), network.state_dict())
    assert not found.training


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": None}, "names no backbone"),
        ({"backbone": "tinny"}, "the closest is tiny"),
        ({"options": {"dimension": 9}, "dimension": 9}, "must have shape"),
        ({"options": {"dimension": 10**12}}, "are not valid for tiny"),
        ({"options": {"depth": 3}}, "are not valid for tiny"),
        ({"dimension": 9}, "the dimension must be 8 with these options, got 9"),
    ],
)
def test_a_record_that_does_not_fit_its_weights(network, tmp_path, changes, message):
    folder = folder_of(tmp_path, network, **changes)
    with pytest.raises(ModelError, match=message) as caught:
        read_backbone(folder, read_record(folder))
    assert "\n" not in str(caught.value)


def test_a_folder_without_weights(network, tmp_path):
    record = ModelRecord("t", "0" * 64, 8, INPUT_SPECS["arcface-112"], backbone="tiny")
    write_model(tmp_path / "m", record, {ONNX: b"x"})
    with pytest.raises(ModelError, match=r"model\.safetensors is missing"):
        read_backbone(tmp_path / "m", read_record(tmp_path / "m"))


def test_missing_unknown_and_misshapen_tensors(network):
    state = network.state_dict()
    name = next(iter(state))
    with pytest.raises(ModelError, match=f"x: the tensor {name} of tiny is missing"):
        load_state(network, {key: value for key, value in state.items() if key != name}, "x")
    with pytest.raises(ModelError, match="x: tiny has no tensor zzz"):
        load_state(network, {**state, "zzz": state[name]}, "x")
    with pytest.raises(ModelError, match=f"{name} of tiny must have shape"):
        load_state(network, {**state, name: state[name][:1, :1]}, "x")


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_is_read(network, tmp_path, zipped):
    path = tmp_path / "weights.any"
    torch.save({"state_dict": network.state_dict(), "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
    assert is_torch_file(path.read_bytes()[:4])
    found = read_state_dict(path)
    assert found["epoch"] == 3
    assert same(found["state_dict"], network.state_dict())


def test_safetensors_under_any_name(network, tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(as_safetensors(network))
    assert is_safetensors(path.read_bytes())
    assert same(read_state_dict(path), network.state_dict())


class Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain"])
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, kind):
    path, proof = tmp_path / "evil.pt", tmp_path / "proof"
    if kind == "plain":
        path.write_bytes(pickle.dumps({"a": Runs(proof)}, protocol=2))
    else:
        torch.save({"a": Runs(proof)}, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(ModelError, match=r"evil\.pt: refused: it would run code of its own") as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)
    assert not proof.exists()


def test_whole_networks_are_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(ModelError, match="refused: it would run code"):
        read_state_dict(tmp_path / "module.pt")


def test_a_single_tensor_is_not_a_state_dict(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "t.pt")
    with pytest.raises(ModelError, match=r"must be a dictionary of tensors .* got Tensor"):
        read_state_dict(tmp_path / "t.pt")


def test_an_archive_that_grows_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    with pytest.raises(ModelError, match="bytes but would unpack to 50000000"):
        read_state_dict(tmp_path / "bomb.pt")


def test_an_archive_in_several_parts_is_refused(tmp_path):
    """`zipfile` raises this error already in its check for an archive."""
    whole = bytearray(_saved(True))
    locator = whole.rindex(b"PK\x06\x07")
    whole[locator + 16] = 7  # number of parts
    (tmp_path / "x.pt").write_bytes(whole)
    with pytest.raises(ModelError, match=r"x\.pt: a damaged archive \(zipfiles that span multiple disks"):
        read_state_dict(tmp_path / "x.pt")


@pytest.mark.parametrize("member", ["x/constants.pkl", "x/archive_format"])
def test_programs_are_not_weights(tmp_path, member):
    """Files of TorchScript and torch.export, whose members are compressed."""
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, bytes(1000))
    with pytest.raises(
        ModelError, match=r"x\.pt: contains a program \(TorchScript or torch\.export\), not only weights"
    ):
        read_state_dict(tmp_path / "x.pt")


def test_a_refusal_says_what_to_do(tmp_path):
    torch.save({"best": Path("x")}, tmp_path / "x.pt")
    with pytest.raises(ModelError) as caught:
        read_state_dict(tmp_path / "x.pt")
    assert re.search(
        r"refused: it would run code of its own \(pathlib.*\); save the tensors alone with "
        r"torch\.save\(network\.state_dict\(\), FILE\) where the network was trained$",
        str(caught.value),
    )


@pytest.mark.parametrize("data", [b"", b"\x80\x02", b"PK\x03\x04", b"PK\x03\x04" + bytes(100), b"hello", b"\x80\x02."])
def test_files_that_are_not_weights(tmp_path, data):
    (tmp_path / "x.pt").write_bytes(data)
    with pytest.raises(ModelError) as caught:
        read_state_dict(tmp_path / "x.pt")
    assert "\n" not in str(caught.value)


def _saved(zipped: bool) -> bytes:
    buffer = io.BytesIO()
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.int64)}
    torch.save(state, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


FILES = {"zip": _saved(True), "legacy": _saved(False)}


@pytest.mark.parametrize("kind", FILES)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_files_are_refused_or_read_right(tmp_path_factory, kind, data):
    text = bytearray(FILES[kind])
    if data.draw(st.booleans()):
        text = text[: data.draw(st.integers(0, len(text)))]
    for _ in range(data.draw(st.integers(0, 3))):
        if text:
            text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / "x.pt"
    path.write_bytes(text)
    try:
        found = read_state_dict(path)
    except ModelError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(found, dict)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_safetensors_are_refused_or_read_right(network, data):
    text = bytearray(as_safetensors(network))
    if data.draw(st.booleans()):
        text = text[: data.draw(st.integers(0, len(text)))]
    for _ in range(data.draw(st.integers(0, 3))):
        if text:
            text[data.draw(st.integers(0, min(len(text), 600) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse_safetensors(bytes(text), "x")
    except ModelError as error:
        assert "\n" not in str(error)


def test_without_torch_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(RuntimeUnavailable, match=r"^this: needs torch; pip install 'facespace\[train\]'$"):
        require_torch("this")
