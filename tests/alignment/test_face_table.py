"""Tests the table next to the crops: it reads back as written, and damaged tables are refused."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from facespace.alignment.face_table import (
    COLUMNS,
    Row,
    check_parquet,
    read_csv,
    write_bounding_boxes,
    write_csv,
    write_parquet,
)
from facespace.errors import DatasetError, RuntimeUnavailable
from facespace.faces.crops import CropRecord
from facespace.faces.face import Face

RECORD = CropRecord(160, 32, "box")
FACE = Face((10.1234, 20.5, 90.0, 100.25), 0.987654321, ((30, 40), (60, 40), (45, 60), (35, 80), (55.5555, 80)))
ROWS = [
    Row.of_face("A b/1.jpg", "A b/1.png", (250, 200), FACE),
    Row('艾琳/a, "b".jpg', "", "no face", "no face found", 100, 50),
    Row("C/line\u2028end.jpg", "", "unreadable", "the file is empty"),
]


def test_csv_reads_back_as_it_was_written(tmp_path):
    write_csv(tmp_path / "faces.csv", RECORD, ROWS)
    assert read_csv(tmp_path / "faces.csv") == ROWS
    comment, *lines = (tmp_path / "faces.csv").read_bytes().decode().split("\n")
    assert json.loads(comment.removeprefix("# facespace align ")) == {
        "image_size": 160, "crop_margin": 32, "template": "box", "faces": "central", "format": "png", "min_size": 20.0,
        "detector": "mtcnn", "model": "",
    }  # fmt: skip
    first = next(csv.DictReader(lines))
    assert first["x1"] == "10.123" and first["score"] == "0.987654" and first["right_mouth_x"] == "55.556"
    assert (first["width"], first["height"]) == ("250", "200")


def test_a_path_cannot_break_a_line(tmp_path):
    write_csv(tmp_path / "faces.csv", RECORD, [Row("A/1\n2.jpg", "", "unreadable", "x")])
    assert len((tmp_path / "faces.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a,b\n",
        ",".join(COLUMNS) + "\nA/1.jpg,A/1.png,aligned\n",
        ",".join(COLUMNS) + "\nA/1.jpg,A/1.png,perhaps" + "," * (len(COLUMNS) - 3) + "\n",
        ",".join(COLUMNS) + "\nA/1.jpg,A/1.png,aligned,,wide,2" + ",1" * 15 + "\n",
        ",".join(COLUMNS) + "\nA/1.jpg,A/1.png,aligned,,3,2" + ",one" * 15 + "\n",
        ",".join(COLUMNS) + '\n"A/1.jpg',
    ],
)
def test_damaged_tables_are_refused(tmp_path, text):
    (tmp_path / "faces.csv").write_text(text)
    with pytest.raises(DatasetError, match=r"faces\.csv"):
        read_csv(tmp_path / "faces.csv")


def test_fuzzed_tables_are_read_or_refused(tmp_path):
    write_csv(tmp_path / "good.csv", RECORD, ROWS)
    good = (tmp_path / "good.csv").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(500):
        data = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(len(data))] = rng.integers(256)
        (tmp_path / "bad.csv").write_bytes(bytes(data[: rng.integers(1, len(data) + 1)]))
        try:
            read_csv(tmp_path / "bad.csv")
        except DatasetError:
            continue


def test_parquet_contains_the_same_rows(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_parquet(tmp_path / "faces.parquet", RECORD, ROWS)
    table = parquet.read_table(tmp_path / "faces.parquet")
    assert tuple(table.column_names) == COLUMNS
    rows = table.to_pylist()
    assert rows[0]["x1"] == 10.123 and rows[0]["width"] == 250
    assert rows[1]["x1"] is None and rows[2]["width"] is None and rows[1]["input"] == ROWS[1].input
    assert json.loads(table.schema.metadata[b"facespace"])["crop_margin"] == 32


def test_parquet_without_pyarrow(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(RuntimeUnavailable, match=r"facespace\[data\]"):
        check_parquet()


def test_bounding_boxes_are_after_the_margin(tmp_path):
    write_bounding_boxes(tmp_path / "b.txt", tmp_path, RECORD, ROWS)
    assert (tmp_path / "b.txt").read_text().splitlines() == [
        f"{tmp_path}/A b/1.png 0 4 106 116",
        f'{tmp_path}/艾琳/a, "b".png',
    ]
