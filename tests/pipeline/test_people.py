"""Tests reading class folders: names, embeddings, files left out, and embeddings that are reused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facespace.errors import DatasetError
from facespace.pipeline.people import portraits, read_people, split_people
from support import gray_people
from support.calibrations import StubEmbedder


class CountingEmbedder(StubEmbedder):
    n_embedded = 0

    def represent(self, crops: np.ndarray) -> np.ndarray:
        self.n_embedded += len(crops)
        return super().represent(crops)


def quietly(items, total, what):
    return iter(items)


def crops(root: Path, **people: int) -> Path:
    rng = np.random.default_rng(0)
    for name, n in people.items():
        (root / name).mkdir(parents=True)
        for k in range(n):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(root / name / f"{k}.png")
    return root


def read(root, embedder=None, **options):
    return read_people(root, embedder or StubEmbedder(), aligned=True, progress=quietly, **options)


def test_names_and_embeddings_in_order(tmp_path):
    root = crops(tmp_path / "data", Bob=2, Anna=3)
    found = read(root)
    assert found.names == ("Anna", "Anna", "Anna", "Bob", "Bob")
    assert [Path(path).name for path in found.paths] == ["0.png", "1.png", "2.png", "0.png", "1.png"]
    pixels = np.stack([np.asarray(Image.open(path)) for path in found.paths])
    np.testing.assert_array_equal(found.embeddings, StubEmbedder().represent(pixels))
    assert not found.failed
    assert found.prepared == {"16 px crops as they are": 5}


def test_known_embeddings_are_not_computed_again(tmp_path):
    root = crops(tmp_path / "data", Anna=3, Bob=2)
    first = read(root)
    shutil.move(root / "Bob" / "0.png", root / "Bob" / "moved and renamed.png")
    (tmp_path / "more").mkdir()
    crops(tmp_path / "more", Cleo=70)
    shutil.move(tmp_path / "more" / "Cleo", root / "Cleo")
    embedder = CountingEmbedder()
    again = read(root, embedder, known=dict(zip(first.digests, first.embeddings, strict=True)))
    # Cleo's first five crops are those of Anna and Bob, drawn from the same seed, so their content is known.
    assert embedder.n_embedded == 65
    assert again.n_known == 10
    fresh = read(root)
    np.testing.assert_array_equal(again.embeddings, fresh.embeddings)
    assert again.names == fresh.names


def test_damaged_files_copies_and_people_without_a_face_are_reported(tmp_path):
    root = crops(tmp_path / "data", Anna=2, Bob=1, Empty=0)
    (root / "Bob" / "0.png").write_text("not an image")
    shutil.copy(root / "Anna" / "0.png", root / "Anna" / "copy.png")
    found = read(root)
    assert found.names == ("Anna", "Anna")
    assert [Path(path).name for path, _ in found.failed] == ["0.png"]
    assert [(Path(path).name, Path(first).name) for path, first in found.copies] == [("copy.png", "0.png")]
    assert found.without == ("Bob", "Empty")


def test_no_people(tmp_path):
    with pytest.raises(DatasetError, match="not a folder"):
        read(tmp_path / "nowhere")
    (tmp_path / "flat").mkdir()
    with pytest.raises(DatasetError, match="one folder per person"):
        read(tmp_path / "flat")
    found = read(crops(tmp_path / "data", Anna=0))
    assert found.embeddings.shape == (0, StubEmbedder().dimension)


def test_photos_give_their_largest_face(tmp_path, hopper_file, collins_file, cat_file, detector, embedder, monkeypatch):
    monkeypatch.setattr("facespace.pipeline.people.create_detector", lambda name: detector)
    for name, file in (("Hopper", hopper_file), ("Collins", collins_file), ("Cat", cat_file)):
        (tmp_path / name).mkdir()
        shutil.copy(file, tmp_path / name)
    both = Image.new("RGB", (1000, 600))
    both.paste(Image.open(hopper_file), (0, 0))
    both.paste(Image.open(collins_file).convert("RGB").resize((256, 256)), (650, 0))
    both.save(tmp_path / "Hopper" / "with Collins.png")
    found = read_people(tmp_path, embedder, progress=quietly)
    assert found.names == ("Collins", "Hopper", "Hopper")
    assert [reason for _, reason in found.failed] == ["no face found"]
    assert found.without == ("Cat",)
    assert found.embeddings[1] @ found.embeddings[2] > 0.8
    assert found.embeddings[0] @ found.embeddings[2] < 0.4


def test_the_split_is_drawn_by_the_seed() -> None:
    names = ("a",) * 10 + ("b",) * 12
    learn, test, too_few = split_people(names, n_train=7, min_images=10, seed=666)
    assert (len(learn), len(test), too_few) == (14, 8, [])
    assert not set(learn) & set(test)
    assert split_people(names, n_train=7, min_images=10, seed=666) == (learn, test, [])
    assert split_people(names, n_train=7, min_images=10, seed=1) != (learn, test, [])
    assert split_people((*names, "c"), n_train=7, min_images=10, seed=666) == (learn, test, ["c"])
    assert split_people(names, n_train=None, min_images=11, seed=0) == (list(range(10, 22)), [], ["a"])


def test_a_portrait_is_the_face_most_like_the_persons_template(tmp_path):
    for name, grays in {"Anna": (10, 12, 11), "Bob": (50,), "Cleo": (30,)}.items():
        (tmp_path / name).mkdir()
        for k, gray in enumerate(grays):
            Image.fromarray(gray_people.frame(0, gray).pixels).save(tmp_path / name / f"{k}.png")
    detector = gray_people.StubDetector()
    people = read_people(tmp_path, gray_people.StubEmbedder(), detector=detector, progress=quietly)
    (tmp_path / "Cleo" / "0.png").unlink()
    templates = {name: gray_people.embedding(gray) for name, gray in {"Anna": 12, "Cleo": 30, "Dora": 70}.items()}
    found = portraits(people, templates, detector, side=24)
    assert {name: int(np.asarray(picture).max()) for name, picture in found.items()} == {"Anna": 12}
    assert max(found["Anna"].size) == 24


def test_a_portrait_of_a_crop_is_the_crop(tmp_path):
    people = read(crops(tmp_path / "data", Anna=2, Bob=1))
    detector = gray_people.StubDetector()
    found = portraits(people, {"Anna": people.embeddings[1], "Bob": people.embeddings[2]}, detector, side=16)
    for name, row in (("Anna", 1), ("Bob", 2)):
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(Image.open(people.paths[row])))
    assert {
        picture.size for picture in portraits(people, {"Bob": people.embeddings[2]}, detector, side=8).values()
    } == {(8, 8)}
    assert detector.calls == []
