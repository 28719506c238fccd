"""Model folders: written atomically, and checked when they are read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from facespace.errors import ModelError
from facespace.faces.input_spec import INPUT_SPECS
from facespace.models.folder import (
    ONNX,
    RECORD,
    WEIGHTS,
    ModelRecord,
    is_model_folder,
    read_record,
    read_weights_file,
    write_model,
)

RECORD_OF_A_MODEL = ModelRecord(
    name="王 tiny",
    fingerprint=hashlib.sha256(b"x").hexdigest(),
    dimension=8,
    input_spec=INPUT_SPECS["facenet-2017"],
    backbone="tiny",
    options={"dimension": 8},
    source={"file": "a.pb"},
    training={"epochs": 3},
    metrics={"lfw": 0.9},
)


def written(folder: Path) -> Path:
    write_model(folder / "model", RECORD_OF_A_MODEL, {ONNX: b"onnx bytes", WEIGHTS: b"tensors"})
    return folder / "model"


def test_a_written_folder_is_read_back(tmp_path):
    out = written(tmp_path)
    record = read_record(out)
    digests = {ONNX: hashlib.sha256(b"onnx bytes").hexdigest(), WEIGHTS: hashlib.sha256(b"tensors").hexdigest()}
    assert record == dataclasses.replace(RECORD_OF_A_MODEL, files=digests)
    assert read_weights_file(out, record, ONNX) == b"onnx bytes"
    assert read_weights_file(out, record, WEIGHTS) == b"tensors"
    assert is_model_folder(out)
    assert not is_model_folder(tmp_path)
    assert os.listdir(tmp_path) == ["model"]


def test_nothing_is_overwritten(tmp_path):
    out = written(tmp_path)
    with pytest.raises(ModelError, match="already exists; give another folder"):
        write_model(out, RECORD_OF_A_MODEL, {})
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ModelError, match="already exists"):
        write_model(tmp_path / "file", RECORD_OF_A_MODEL, {})
    os.symlink(tmp_path / "nowhere", tmp_path / "link")
    with pytest.raises(ModelError, match="already exists"):
        write_model(tmp_path / "link", RECORD_OF_A_MODEL, {})


def test_a_folder_that_appears_meanwhile_is_kept(tmp_path, monkeypatch):
    out = tmp_path / "model"
    rename = Path.rename

    def late(self, target):
        target.mkdir()
        (target / "theirs").write_text("")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    with pytest.raises(ModelError, match="already exists"):
        write_model(out, RECORD_OF_A_MODEL, {ONNX: b"x"})
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "theirs"]


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as caught:
        write_model(tmp_path / "model", RECORD_OF_A_MODEL, {ONNX: b"x"})
    assert caught.value.filename == str(tmp_path / "model")  # the name that the user knows
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(not hasattr(os, "O_DIRECTORY"), reason="this system cannot tell when names are on the disk")
def test_everything_is_on_the_disk_before_the_folder_is_renamed(tmp_path, monkeypatch):
    steps = []
    fsync, rename = os.fsync, Path.rename

    def synced(descriptor):
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", lambda *paths: (steps.append("rename"), rename(*paths))[1])
    write_model(tmp_path / "model", RECORD_OF_A_MODEL, {ONNX: b"x"})
    assert steps == ["file", "file", "folder", "rename", "folder"]


def test_a_replaced_file_is_refused(tmp_path):
    out = written(tmp_path)
    record = read_record(out)
    (out / ONNX).write_bytes(b"others")
    with pytest.raises(ModelError, match=r"model\.onnx: not the file that model\.json describes"):
        read_weights_file(out, record, ONNX)
    (out / ONNX).unlink()
    with pytest.raises(ModelError, match=r"model\.onnx is missing"):
        read_weights_file(out, record, ONNX)


def test_a_folder_without_a_record(tmp_path):
    with pytest.raises(ModelError, match=r"not a model folder, model\.json is missing"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, 'must be an object with "format"'),
        ({"version": 2}, "the version must be 1 for this facespace, got 2"),
        ({"colour": 1}, "unknown field 'colour'"),
        ({"name": 3}, "name cannot be 3"),
        ({"fingerprint": "ab"}, "fingerprint cannot be 'ab'"),
        ({"dimension": 0}, "dimension cannot be 0"),
        ({"dimension": True}, "dimension cannot be True"),
        ({"dimension": 10**9}, "dimension cannot be"),
        ({"input_spec": None}, "input_spec cannot be None"),
        ({"input_spec": {"size": 160}}, "the field 'template' is missing"),
        ({"backbone": 7}, "backbone cannot be 7"),
        ({"options": []}, r"options cannot be \[\]"),
        ({"files": {"../../etc/passwd": "0" * 64}}, "files must be the SHA-256"),
        ({"files": {ONNX: "xyz"}}, "files must be the SHA-256"),
        ({"revision": []}, r"revision cannot be \[\]"),
    ],
    ids=str,
)
def test_invalid_records(tmp_path, change, message):
    out = written(tmp_path)
    data = {**json.loads((out / RECORD).read_text()), **change}
    (out / RECORD).write_text(json.dumps(data))
    with pytest.raises(ModelError, match=message) as caught:
        read_record(out)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b" " * (2**20 + 1)])
def test_files_that_are_not_a_record(tmp_path, text):
    (tmp_path / RECORD).write_bytes(text)
    with pytest.raises(ModelError):
        read_record(tmp_path)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_records_are_refused_or_read_right(tmp_path_factory, data):
    out = written(tmp_path_factory.mktemp("fuzz"))
    text = bytearray((out / RECORD).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    (out / RECORD).write_bytes(text)
    try:
        record = read_record(out)
    except ModelError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(record, ModelRecord)
