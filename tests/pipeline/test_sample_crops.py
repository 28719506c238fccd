"""Tests samples of crops."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from facespace.errors import DatasetError
from facespace.faces.input_spec import INPUT_SPECS
from facespace.pipeline.sample_crops import sample_crops

SPEC = INPUT_SPECS["facenet-2018"]


@pytest.fixture
def folder(tmp_path):
    for person in range(5):
        (tmp_path / f"p{person}").mkdir()
        for n in range(4):
            colour = np.full((182, 182, 3), person * 40 + n * 10, np.uint8)
            Image.fromarray(colour).save(tmp_path / f"p{person}" / f"{n}.png")
    return tmp_path


def test_they_are_spread_over_the_folder(folder):
    crops = sample_crops(folder, SPEC, 5)
    assert (crops.shape, crops.dtype) == ((5, 160, 160, 3), np.uint8)
    assert [int(crop[0, 0, 0]) // 40 for crop in crops] == [0, 1, 2, 3, 4]


def test_no_more_crops_than_images(folder):
    assert len(sample_crops(folder, SPEC, 100)) == 20


def test_unreadable_images_are_skipped(folder):
    (folder / "p0" / "0.png").write_bytes(b"no image")
    assert len(sample_crops(folder, SPEC, 100)) == 19


def test_no_readable_crops(tmp_path):
    with pytest.raises(DatasetError, match="contains no readable image"):
        sample_crops(tmp_path, SPEC, 3)
    with pytest.raises(DatasetError, match="not a folder"):
        sample_crops(tmp_path / "none", SPEC, 3)


def test_photos_given_as_crops_are_not_all_in_memory(folder, monkeypatch):
    """Each is resized where it is read."""
    given = []

    def taken(function, items, **options):
        given.extend(map(function, items))
        return iter(given)

    monkeypatch.setattr("facespace.pipeline.sample_crops.map_ahead", taken)
    sample_crops(folder, SPEC, 5)
    assert [(crop.shape, crop.base) for crop in given] == [((160, 160, 3), None)] * 5
