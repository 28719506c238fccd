"""The JSON file next to a model: its path and its content."""

from __future__ import annotations

from pathlib import Path

import pytest

from facespace.errors import ModelError
from facespace.faces.input_spec import INPUT_SPECS, InputSpec
from facespace.models.spec_file import read_spec, read_spec_of, spec_path


def test_it_has_the_name_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "2017.model").mkdir()
    (tmp_path / "n.pb").write_bytes(b"")
    assert spec_path(tmp_path / "n.pb") == tmp_path / "n.json"
    assert spec_path(tmp_path / "2017.model") == tmp_path / "2017.model.json", "a folder's ending belongs to its name"
    assert read_spec_of(tmp_path / "n.pb") is None
    (tmp_path / "n.json").write_text('{"input_spec": "arcface-112"}')
    assert read_spec_of(tmp_path / "n.pb") == INPUT_SPECS["arcface-112"]
    assert read_spec_of(tmp_path / "n.json") is None, "a file does not describe itself"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"input_spec": "facenet-2017"}', INPUT_SPECS["facenet-2017"]),
        ('{"size": 96, "template": "box", "crop_margin": 8}', InputSpec(96, "box", 8)),
        (
            '{"input_spec": {"size": 96, "template": "arcface", "channel_order": "BGR"}}',
            InputSpec(96, "arcface", 0, "BGR"),
        ),
        ('{"name": "my model", "input_spec": "facenet-2018"}', INPUT_SPECS["facenet-2018"]),
    ],
)
def test_a_preset_or_the_fields(tmp_path: Path, text: str, expected: InputSpec) -> None:
    (tmp_path / "n.json").write_text(text)
    assert read_spec(tmp_path / "n.json") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "must be an object like"),
        (b"\xff", "must be an object like"),
        (b"[" * 10_000, "must be an object like"),
        (b'{"input_spec": 7}', "must be an object like"),
        (b'{"input_spec": "facenet-2016"}', "the preset must be one of facenet-2018, .* got 'facenet-2016'"),
        (b'{"size": 160}', "the field 'template' is missing"),
        (b" " * (2**20 + 1), "too large for an input spec"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_an_invalid_file_gives_an_error_of_one_line(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "n.json").write_bytes(text)
    with pytest.raises(ModelError, match=message) as caught:
        read_spec(tmp_path / "n.json")
    assert str(caught.value).startswith(str(tmp_path / "n.json")) and "\n" not in str(caught.value)
