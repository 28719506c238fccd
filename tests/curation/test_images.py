"""A dataset of faces as arrays: what is read from each file, in order, and which files are left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import facespace
from facespace.curation import images as images_module
from facespace.curation.images import read_crops, read_photos, thumbnail
from facespace.errors import DatasetError
from facespace.faces.alignment import align
from facespace.faces.face import Face
from facespace.faces.input_spec import InputSpec
from support.pictures import scene

SIZE = 16


@dataclasses.dataclass
class MeanColours:
    """Replaces a model: the embedding of a crop is its mean colour, negated by `embed`."""

    spec: InputSpec = InputSpec(size=SIZE, template="box")  # noqa: RUF009
    dimension: int = 3

    def __post_init__(self) -> None:
        self.batches: list[int] = []

    def represent(self, crops: np.ndarray) -> np.ndarray:
        self.batches.append(len(crops))
        return crops.mean((1, 2)).astype(np.float32)

    def embed(self, crops: np.ndarray) -> np.ndarray:
        return -self.represent(crops)


def quietly(items: Iterable[Any], total: int, what: str) -> Iterator[Any]:
    return iter(items)


def write(path: Path, seed: int, width: int = SIZE, height: int = SIZE) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three crops of Ann, a damaged file of Ben, an empty folder of Cleo, and two crops of Dan, one of them larger."""
    for k in range(3):
        write(tmp_path / "Ann" / f"{k}.png", k)
    for folder in ("Ben", "Cleo"):
        (tmp_path / folder).mkdir()
    (tmp_path / "Ben" / "damaged.png").write_bytes(b"no image")
    write(tmp_path / "Dan" / "0.png", 3)
    write(tmp_path / "Dan" / "1.png", 4, width=20, height=18)
    return tmp_path


def test_crops_are_read_in_order_of_name_and_file(root: Path) -> None:
    found = read_crops(root, MeanColours(), progress=quietly)
    assert found.names == ("Ann", "Ben", "Cleo", "Dan")
    assert [Path(path).relative_to(root).as_posix() for path in found.paths] == [
        "Ann/0.png", "Ann/1.png", "Ann/2.png", "Dan/0.png", "Dan/1.png",
    ]  # fmt: skip
    assert found.labels.tolist() == [0, 0, 0, 3, 3]
    assert found.sizes.tolist() == [[16, 16]] * 4 + [[20, 18]]  # width, then height
    assert found.prepared == {"16 px crops as they are": 4, "the central 16 px of 20x18 px crops": 1}
    assert [(label, Path(path).name) for label, path, _ in found.unreadable] == [(1, "damaged.png")]
    assert found.unreadable[0][2]
    assert found.faceless == ()


def test_embeddings_and_thumbnails_are_those_of_the_crops(root: Path) -> None:
    found = read_crops(root, MeanColours(), progress=quietly)
    pixels = [np.asarray(Image.open(path).convert("RGB")) for path in found.paths]
    pixels[4] = pixels[4][1:17, 2:18]  # the central 16 px
    np.testing.assert_allclose(found.embeddings, [crop.mean((0, 1)) for crop in pixels], rtol=1e-6)
    assert found.embeddings.dtype == np.float32
    assert (found.thumbnails == np.stack([thumbnail(crop) for crop in pixels])).all()
    plain = read_crops(root, MeanColours(), progress=quietly, plain=True)
    np.testing.assert_array_equal(plain.embeddings, -found.embeddings)


@pytest.mark.parametrize(("size", "batches"), [(1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (64, [5])])
def test_the_size_of_batches_does_not_matter(
    root: Path, monkeypatch: pytest.MonkeyPatch, size: int, batches: list[int]
) -> None:
    whole = read_crops(root, MeanColours(), progress=quietly)
    monkeypatch.setattr(images_module, "_BATCH", size)
    embedder = MeanColours()
    np.testing.assert_array_equal(read_crops(root, embedder, progress=quietly).embeddings, whole.embeddings)
    assert embedder.batches == batches


def test_progress_counts_every_file(root: Path) -> None:
    told: list[object] = []

    def progress(items: Iterable[Any], total: int, what: str) -> Iterator[Any]:
        for item in items:
            told.append((total, what))
            yield item

    read_crops(root, MeanColours(), progress=progress)
    assert told == [(6, "reading")] * 6


def test_photos_give_their_central_face(tmp_path: Path) -> None:
    """The detector finds a face in the middle and a smaller one in a corner, or nothing in a narrow picture."""
    landmarks = ((0.0, 0.0),) * 5
    corner, middle = Face((0, 0, 10, 10), 0.99, landmarks), Face((20, 15, 40, 35), 0.5, landmarks)

    class Detector:
        def detect(self, pixels: np.ndarray) -> list[Face]:
            return [corner, middle] if pixels.shape == (50, 60, 3) else []

    photo = write(tmp_path / "Ann" / "1.png", 1, width=60, height=50)
    write(tmp_path / "Ann" / "2.png", 2, width=30, height=50)
    (tmp_path / "Ann" / "3.png").write_bytes(b"no image")
    embedder = MeanColours()
    found = read_photos(tmp_path, embedder, detector=Detector(), progress=quietly)
    assert [Path(path).name for path in found.paths] == ["1.png"]
    assert [(label, Path(path).name) for label, path in found.faceless] == [(0, "2.png")]
    assert [Path(path).name for _, path, _ in found.unreadable] == ["3.png"]
    crop = align(photo, middle, embedder.spec)
    np.testing.assert_allclose(found.embeddings, [crop.mean((0, 1))], rtol=1e-6)
    assert (found.thumbnails[0] == thumbnail(crop)).all()
    assert found.sizes.tolist() == [[60, 50]]  # the size of the photo
    assert sum(found.prepared.values()) == 1
    # The digest is that of the photo too: the same picture read as a crop has the same digest.
    assert read_crops(tmp_path, embedder, progress=quietly).digests[0] == found.digests[0]


def test_digests_depend_on_pixels_not_on_files(embedder: facespace.Embedder, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    picture = scene(1)
    picture.save(tmp_path / "a" / "1.png")
    picture.save(tmp_path / "a" / "2.bmp")
    picture.crop((0, 0, 160, 80)).save(tmp_path / "a" / "3.png")
    Image.new("RGB", (160, 80)).save(tmp_path / "a" / "4.png")
    Image.new("RGB", (80, 160)).save(tmp_path / "a" / "5.png")
    digests = read_crops(tmp_path, embedder, progress=lambda items, *_: iter(items)).digests
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4


def test_a_dataset_without_images(tmp_path: Path) -> None:
    (tmp_path / "Ann").mkdir()
    found = read_crops(tmp_path, MeanColours(), progress=quietly)
    assert found.names == ("Ann",)
    assert (found.embeddings.shape, found.thumbnails.shape, found.sizes.shape) == ((0, 3), (0, 24, 24), (0, 2))
    assert (found.paths, found.digests, found.prepared) == ((), (), {})
    with pytest.raises(DatasetError):
        read_crops(tmp_path / "nowhere", MeanColours(), progress=quietly)


def test_a_thumbnail_is_the_mean_gray_of_each_area() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (72, 72, 3)).astype(np.uint8)
    gray = crop @ np.array([0.299, 0.587, 0.114])  # luma of ITU-R BT.601
    expected = [[gray[3 * y : 3 * y + 3, 3 * x : 3 * x + 3].mean() for x in range(24)] for y in range(24)]
    found = thumbnail(crop)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, expected, atol=1.01)
    assert np.abs(found - np.array(expected)).mean() < 0.5
