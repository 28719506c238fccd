"""How crops were made, and who may use them."""

from __future__ import annotations

import json

import pytest

from facespace.errors import DatasetError
from facespace.faces.crops import CropRecord, read_record
from facespace.faces.input_spec import InputSpec


def test_reads_back_as_it_was_written(tmp_path):
    assert read_record(tmp_path) is None
    record = CropRecord(182, 44, "box", faces="all", format="webp", min_size=40)
    record.write(tmp_path)
    assert read_record(tmp_path) == record


@pytest.mark.parametrize(
    ("record", "fits"),
    [
        (CropRecord(160, 32, "box"), True),
        (CropRecord(160, 32, "box", faces="all", format="jpeg"), True),
        (CropRecord(160, 44, "box"), False),
        (CropRecord(182, 32, "box"), False),
        (CropRecord(160, 0, "arcface"), False),
    ],
)
def test_what_a_box_model_may_use(record, fits):
    assert (record.misfit(InputSpec(160, "box", 32)) is None) == fits


def test_the_margin_of_five_point_crops_means_nothing():
    assert CropRecord(112, 7, "arcface").misfit(InputSpec(112, "arcface")) is None


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 0}, {"image_size": 5000}, {"image_size": "160"}, {"crop_margin": -1}, {"template": "oval"},
        {"faces": "some"}, {"format": "gif"}, {"min_size": 0}, {"min_size": "x"}, {"more": 1}, {"min_size": None},
    ],
)  # fmt: skip
def test_damaged_records_are_refused(tmp_path, change):
    fields = {"image_size": 160, "crop_margin": 32, "template": "box", **change}
    (tmp_path / "align.json").write_text(json.dumps(fields))
    with pytest.raises(DatasetError, match=r"align\.json"):
        read_record(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, "\xff"])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "align.json").write_text(text, encoding="latin-1")
    with pytest.raises(DatasetError, match=r"align\.json"):
        read_record(tmp_path)
