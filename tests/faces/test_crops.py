"""Tests crop records, which models may use the crops, and how crops are brought to a model's size."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from facespace.errors import DatasetError
from facespace.faces.crops import (
    CropRecord,
    aligned_record,
    fit,
    holds_crops,
    may_be_cut,
    read_record,
    resize,
    size_of_first,
)
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


def test_the_margin_of_five_point_crops_is_ignored():
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


def test_a_record_distinguishes_crops_from_photos(tmp_path):
    spec = InputSpec(16, "box")
    assert not holds_crops(tmp_path, spec)
    assert holds_crops(tmp_path, spec, aligned=True)
    CropRecord(16, 0, "box").write(tmp_path)
    assert holds_crops(tmp_path, spec)
    CropRecord(18, 9, "box").write(tmp_path)  # as the 2018 trainer's, whose centre is taken
    assert holds_crops(tmp_path, spec)
    for size, template in ((24, "box"), (40, "box"), (112, "arcface")):
        CropRecord(size, 0, template).write(tmp_path)
        with pytest.raises(DatasetError, match="the model takes 16 px box"):
            holds_crops(tmp_path, spec)


def test_crops_of_the_size_need_the_margin_of_the_model(tmp_path):
    CropRecord(160, 44, "box").write(tmp_path)
    assert holds_crops(tmp_path, InputSpec(160, "box", 44))
    with pytest.raises(DatasetError):
        holds_crops(tmp_path, InputSpec(160, "box", 32))


def test_a_larger_crop_holds_the_crop_of_a_box_model_alone(tmp_path):
    """Larger crops are cut to their centre for models of box crops; a record of five-point crops must fit exactly."""
    CropRecord(182, 44, "box").write(tmp_path)
    assert holds_crops(tmp_path, InputSpec(160, "box", 32))
    for spec in (InputSpec(183, "box", 44), InputSpec(160, "arcface")):
        with pytest.raises(DatasetError):
            holds_crops(tmp_path, spec, aligned=True)
    CropRecord(120, 0, "arcface").write(tmp_path)
    with pytest.raises(DatasetError):
        holds_crops(tmp_path, InputSpec(112, "arcface"))
    assert holds_crops(tmp_path, InputSpec(120, "arcface"))


def test_record_of_aligned_crops(tmp_path):
    spec = InputSpec(32, "box", 4)
    sample = tmp_path / "a.png"
    Image.new("RGB", (32, 32)).save(sample)
    assert aligned_record(tmp_path, spec, sample) == CropRecord(32, 4, "box")
    Image.new("RGB", (64, 64)).save(sample)
    assert aligned_record(tmp_path, spec, sample).image_size == 64
    Image.new("RGB", (64, 60)).save(sample)
    with pytest.raises(DatasetError, match="64x60 px; aligned crops are square"):
        aligned_record(tmp_path, spec, sample)
    CropRecord(112, 0, "arcface").write(tmp_path)  # counts more than the sample
    assert aligned_record(tmp_path, spec, sample).template == "arcface"


def test_without_a_record_and_a_sample_crops_are_as_the_model_takes_them(tmp_path):
    assert aligned_record(tmp_path, InputSpec(64, "box", 7), None) == CropRecord(64, 7, "box")


@pytest.mark.parametrize(
    ("height", "width", "size", "expected"),
    [
        (160, 160, 160, True),
        (159, 159, 160, False),
        (182, 182, 160, True),
        (200, 200, 160, True),  # larger by a quarter, the most there is
        (201, 201, 160, False),
        (182, 181, 160, False),
        (160, 182, 160, False),
        (125, 125, 100, True),
        (126, 126, 100, False),
    ],
)
def test_a_crop_may_be_cut_when_it_is_square_and_a_little_larger(height, width, size, expected):
    assert may_be_cut(height, width, size) is expected


def test_the_size_of_the_first_image_that_can_be_read(tmp_path):
    (tmp_path / "damaged.png").write_bytes(b"no image")
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    Image.new("RGB", (10, 20)).save(tmp_path / "b.png")
    paths = [tmp_path / name for name in ("damaged.png", "nowhere.png", "a.png", "b.png")]
    assert size_of_first(iter(paths)) == (30, 40)
    assert size_of_first(map(str, paths[3:])) == (20, 10)
    assert size_of_first(paths[:2]) is None
    assert size_of_first([]) is None


def test_resizing_leaves_a_crop_of_the_size_as_it_is():
    crop = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8)
    assert resize(crop, 20) is crop


def test_resizing_is_bilinear():
    """At twice the size a pixel is 3/4 of the nearest and 1/4 of the next in each direction; borders are repeated."""
    crop = np.random.default_rng(1).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    padded = np.pad(crop.astype(float), ((1, 1), (1, 1), (0, 0)), mode="edge")
    expected = np.zeros((18, 18, 3))
    for y in range(18):
        for x in range(18):
            near_y, near_x = y // 2 + 1, x // 2 + 1
            next_y, next_x = near_y + (1 if y % 2 else -1), near_x + (1 if x % 2 else -1)
            near_row = 0.75 * padded[near_y, near_x] + 0.25 * padded[near_y, next_x]
            next_row = 0.75 * padded[next_y, near_x] + 0.25 * padded[next_y, next_x]
            expected[y, x] = 0.75 * near_row + 0.25 * next_row
    found = resize(crop, 18)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, expected, atol=1.01)


def test_crops_are_cut_or_resized_to_a_size() -> None:
    random = np.random.default_rng(0)
    crop = random.integers(0, 256, (182, 182, 3)).astype(np.uint8)
    assert (fit(crop, 160)[0] == crop[11:171, 11:171]).all()
    assert fit(crop[:160, :160], 160)[1] == "160 px crops as they are"
    for shape, said in (
        ((112, 112), "112 px crops resized to 160 px"),
        ((250, 250), "250 px crops resized to 160 px"),
        ((100, 300), "300x100 px crops resized to 160 px"),
        ((160, 190), "the central 160 px of 190x160 px crops"),
        ((1, 1), "1 px crops resized to 160 px"),
    ):
        fitted, how = fit(random.integers(0, 256, (*shape, 3)).astype(np.uint8), 160)
        assert fitted.shape == (160, 160, 3)
        assert how == said
    wide = np.zeros((50, 150, 3), np.uint8)
    wide[:, 50:100] = 200
    assert (fit(wide, 160)[0] == 200).all()


@pytest.mark.parametrize(
    ("height", "width", "top", "left", "side", "is_cut"),
    [
        (160, 160, 0, 0, 160, True),
        (200, 200, 20, 20, 160, True),
        (201, 201, 0, 0, 201, False),
        (159, 159, 0, 0, 159, False),
        (160, 200, 0, 20, 160, True),
        (190, 161, 15, 0, 160, True),
        (160, 201, 0, 20, 160, False),  # too wide to be cut; its central square happens to have the size
        (100, 171, 0, 35, 100, False),
    ],
)
def test_which_part_of_a_crop_is_kept(height, width, top, left, side, is_cut):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    before = pixels.copy()
    found, how = fit(pixels, 160)
    part = pixels[top : top + side, left : left + side]
    expected = Image.fromarray(np.ascontiguousarray(part)).resize((160, 160), Image.Resampling.BILINEAR)
    assert (found == np.asarray(expected)).all()
    assert found.flags.c_contiguous
    assert ("resized" not in how) == is_cut
    assert (pixels == before).all()
