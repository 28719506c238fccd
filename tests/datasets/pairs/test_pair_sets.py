"""Pairs with their photos: `.bin`, LFW's lists and CSV, whole photos and crops."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facespace.datasets.pairs.pair_sets import binary_pairs, read_pair_set
from facespace.errors import DatasetError, ImageError
from facespace.faces.crops import CropRecord
from facespace.faces.input_spec import InputSpec

SPEC = InputSpec(32, "box", 4)


def picture(seed: int, width: int = 32, height: int = 32) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Photos 1 and 2 of Ann, and photo 1 of Bob."""
    for k, name in enumerate(("Ann/Ann_0001.png", "Ann/Ann_0002.png", "Bob/Bob_0001.png")):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(k))
    return tmp_path / "photos"


def lfw_list(folder: Path) -> Path:
    path = folder / "pairs.txt"
    path.write_text("1\nAnn\t1\t2\nAnn\t1\tBob\t1\n")
    return path


def bin_file(path: Path, images: list[bytes], same: list[bool]) -> Path:
    path.write_bytes(pickle.dumps((images, same), protocol=4))
    return path


def test_the_list_of_lfw(photos, tmp_path):
    found = read_pair_set(lfw_list(tmp_path), photos, False, SPEC)
    assert found.name == "pairs.txt" and found.crops is None
    assert found.files == [photos / "Ann/Ann_0001.png", photos / "Ann/Ann_0002.png", photos / "Bob/Bob_0001.png"]
    assert found.pairs.same.tolist() == [True, False]


@pytest.mark.parametrize("name", ["pairs.csv", "Pairs.CSV"])
def test_csv(photos, tmp_path, name):
    table = tmp_path / name
    table.write_text("a,b,same\nBob/Bob_0001.png,Ann/Ann_0001.png,no\nAnn/Ann_0001.png,Cid/1.png,no\n")
    found = read_pair_set(table, photos, False, SPEC)
    assert found.name == name and found.crops is None
    assert found.files == [photos / "Bob/Bob_0001.png", photos / "Ann/Ann_0001.png", None]


@pytest.mark.parametrize("name", ["set.bin", "SET.BIN"])
def test_the_ending_identifies_a_bin(tmp_path, name):
    images = [picture(k, 48, 48) for k in range(4)]
    path = bin_file(tmp_path / name, images, [True, False])
    for root in (None, tmp_path / "nowhere"):
        found = read_pair_set(path, root, False, SPEC)
        assert (found.name, found.files, found.crops) == (name, images, CropRecord(48, 0, "arcface"))
        assert found.pairs.same.tolist() == [True, False]


def test_a_bin_with_damaged_images(tmp_path):
    with pytest.raises(ImageError, match="<bytes>"):
        binary_pairs(bin_file(tmp_path / "a.bin", [b"no image", b"neither"], [True]))
    with pytest.raises(DatasetError, match=r"a.bin: .*pickle"):
        (tmp_path / "a.bin").write_bytes(b"no bin")
        binary_pairs(tmp_path / "a.bin")
    with pytest.raises(DatasetError, match="size cannot be 8"):
        binary_pairs(bin_file(tmp_path / "a.bin", [picture(0, 8, 8), picture(1, 8, 8)], [True]))


def test_lists_need_a_folder(photos, tmp_path):
    with pytest.raises(DatasetError, match=r"pairs.txt: a list of pairs needs a folder of photos; only a .bin needs"):
        read_pair_set(lfw_list(tmp_path), None, False, SPEC)
    with pytest.raises(DatasetError, match="nowhere: no such folder of images"):
        read_pair_set(lfw_list(tmp_path), photos / "nowhere", False, SPEC)


def test_crops_are_recognised_by_their_record_or_their_size(photos, tmp_path):
    pairs = lfw_list(tmp_path)
    assert read_pair_set(pairs, photos, True, SPEC).crops == CropRecord(32, 4, "box")
    assert read_pair_set(pairs, photos, True, InputSpec(112, "arcface")).crops == CropRecord(32, 0, "arcface")
    (photos / "Ann/Ann_0001.png").write_bytes(picture(0, 32, 30))
    with pytest.raises(DatasetError, match="32x30 px; aligned crops are square"):
        read_pair_set(pairs, photos, True, SPEC)
    (photos / "Ann/Ann_0001.png").unlink()  # the next existing one decides
    (photos / "Ann/Ann_0002.png").write_bytes(picture(0, 48, 48))
    assert read_pair_set(pairs, photos, True, SPEC).crops == CropRecord(48, 4, "box")
    CropRecord(64, 8, "box").write(photos)
    assert read_pair_set(pairs, photos, True, SPEC).crops == CropRecord(64, 8, "box")
    assert read_pair_set(pairs, photos, False, SPEC).crops is None


def test_crops_that_are_all_missing(tmp_path):
    (tmp_path / "empty").mkdir()
    found = read_pair_set(lfw_list(tmp_path), tmp_path / "empty", True, SPEC)
    assert found.files == [None, None, None] and found.crops == CropRecord(32, 4, "box")


@pytest.mark.shared
def test_real_sets(shared):
    found = binary_pairs(shared / "data" / "lfw_dev_40_protocol2.bin")
    assert found.crops == CropRecord(112, 0, "arcface")
    assert len(found.pairs.same) == 40 and len(found.files) == len(found.pairs.photos)
    view = shared / "data" / "lfw_view1"
    found = read_pair_set(view / "pairsDevTest.txt", view / "images", False, SPEC)
    assert len(found.pairs.same) == 1000 and None not in found.files
