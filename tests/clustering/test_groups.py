"""Tests groups of faces: photos are read once, old groups keep their numbers, and damaged files are refused."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facespace.clustering.groups import FaceGroups, load_groups, read_faces
from facespace.errors import DatasetError
from facespace.faces.face import Face
from facespace.io.checksums import sha256_of
from facespace.io.tensor_file import read_tensor_file, write_tensor_file
from facespace.pipeline.photos import Photo
from support import gray_people
from support.calibrations import StubEmbedder
from support.sphere import people, unit

EMBEDDER = StubEmbedder(dimension=16, calibration=None)
POINTS = ((20.0, 20.0), (30.0, 20.0), (25.0, 25.0), (21.0, 30.0), (29.0, 30.0))


def groups() -> FaceGroups:
    """Five people with four photos each, one face per photo, without groups."""
    found = FaceGroups(16)
    vectors, _ = people(5, 4, dimension=16, similarity=0.8)
    for k, vector in enumerate(vectors):
        face = Face((k / 4, 1.0, k + 10.5, 20.0), k / 32, POINTS)
        found.add(Photo(f"{k}.jpg", faces=[face], embeddings=vector[None]), f"{k:064x}")
    return found


def picture(path: Path, *grays: int) -> str:
    """Return a photo with a square of each gray; `gray_people.StubDetector` detects each square as a face."""
    Image.fromarray(gray_people.frame(0, *grays).pixels).save(path)
    return str(path)


def no_progress(items: Iterable[Any], total: int, _: str) -> Iterator[Any]:
    yield from items


class Reading:
    """Reads photos into groups and records the calls of `keep` and `checkpoint`."""

    def __init__(self, groups: FaceGroups) -> None:
        self.groups = groups
        self.kept: list[tuple[str, tuple[int, ...], int]] = []
        self.checkpoints: list[int] = []

    def read(self, *paths: str) -> list[tuple[str, str]]:
        def keep(photo: Photo, digest: str) -> None:
            assert photo.pixels is not None
            assert digest not in {known for _, known, _ in self.groups.photos}
            self.kept.append((photo.path, photo.pixels.shape, len(photo.faces)))

        def checkpoint() -> None:
            self.checkpoints.append(len(self.groups.photos))

        return list(
            read_faces(
                paths, self.groups, gray_people.StubEmbedder(), gray_people.StubDetector(),
                keep=keep, checkpoint=checkpoint, progress=no_progress,
            )
        )  # fmt: skip


def test_a_photo_adds_its_faces_in_rows():
    found = FaceGroups(4)
    assert found.embeddings().shape == (0, 4)
    faces = [Face((0.0, 0.0, 5.0, 6.0), 0.75, POINTS), Face((7.0, 0.0, 9.0, 6.0), 0.5, POINTS)]
    vectors = np.eye(4, dtype=np.float32)
    assert found.add(Photo("two.jpg", faces=faces, embeddings=vectors[:2]), "a" * 64) == range(2)
    assert found.add(Photo("broken\udce9.jpg", error="cut short"), "b" * 64) == range(2, 2)
    assert found.add(Photo("one.jpg", faces=faces[1:], embeddings=vectors[2:3]), "c" * 64) == range(2, 3)
    assert found.photos == [
        ("two.jpg", "a" * 64, ""),
        ("broken\\xe9.jpg", "b" * 64, "cut short"),
        ("one.jpg", "c" * 64, ""),
    ]
    assert found.photo == [0, 0, 2]
    assert found.box == [(0.0, 0.0, 5.0, 6.0), (7.0, 0.0, 9.0, 6.0), (7.0, 0.0, 9.0, 6.0)]
    assert found.score == [0.75, 0.5, 0.5]
    np.testing.assert_array_equal(found.embeddings(), vectors[:3])
    with pytest.raises(ValueError, match="zip"):
        found.add(Photo("odd.jpg", faces=faces, embeddings=vectors[:1]), "d" * 64)


def test_faces_without_a_group_get_one():
    found = groups()
    assert found.regroup(method="average", threshold=0.5) == 0
    assert sorted(np.bincount(found.group)) == [4] * 5
    for person in range(5):
        assert len(set(found.group[4 * person : 4 * person + 4].tolist())) == 1
    assert found.regroup(method="average", threshold=0.5) == 0, "no face is left without a group"


def test_new_faces_join_old_groups_and_old_ones_stay():
    found = FaceGroups(3)
    angles = np.deg2rad([0, 10, 90, 20, 200])
    vectors = unit(np.stack([np.cos(angles), np.sin(angles), np.zeros(5)], axis=1))
    face = Face((0.0, 0.0, 5.0, 6.0), 0.5, POINTS)
    for k in range(3):
        found.add(Photo(f"{k}.jpg", faces=[face], embeddings=vectors[k : k + 1]), f"{k:064x}")
    found.group = np.array([7, 7, 3])
    for k in range(3, 5):  # 20 degrees is near group 7, 200 degrees is near no group
        found.add(Photo(f"{k}.jpg", faces=[face], embeddings=vectors[k : k + 1]), f"{k:064x}")
    assert found.regroup(method="average", threshold=0.9) == 1
    assert found.group.tolist() == [7, 7, 3, 7, 8], "a new group has a number above all others"


def test_new_people_get_new_numbers():
    found = groups()
    found.regroup(method="average", threshold=0.5)
    before = found.group.copy()
    found.group = np.where(before == before[-1], -1, before)
    found.group[found.group == before.max()] = before.max() - 1  # the largest number is now in the middle
    old = set(found.group.tolist()) - {-1}
    new = found.group == -1
    assert found.regroup(method="average", threshold=0.9) == 0
    assert not set(found.group[new].tolist()) & old


def test_a_grouping_is_loaded_and_continued(tmp_path):
    path = tmp_path / "faces.safetensors"
    first = groups()
    first.regroup(method="average", threshold=0.5)
    first.photos.append(("broken.jpg", "f" * 64, "cut short"))
    first.save(path, EMBEDDER)
    again = load_groups(path, EMBEDDER)
    assert (again.photos, again.photo, again.box, again.score) == (first.photos, first.photo, first.box, first.score)
    assert again.dimension == 16
    np.testing.assert_array_equal(again.group, first.group)
    np.testing.assert_array_equal(again.embeddings(), first.embeddings())
    again.group[:2] = -1
    assert again.regroup(method="average", threshold=0.5) == 2
    np.testing.assert_array_equal(again.group, first.group)


def test_places_of_photos_are_stored_relative_to_the_file(tmp_path):
    """Also for names that are not UTF-8. File and photos may be moved together; older files have only names."""
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "faces.safetensors"
    found = FaceGroups(16)
    for k, name in enumerate((str(tmp_path / "photos" / "caf\udce9.jpg"), "/no-such-disk/b.jpg", "c.jpg")):
        found.add(Photo(name, embeddings=np.empty((0, 16), np.float32)), f"{k:064x}")
    assert list(found.places.values())[2] == os.path.abspath("c.jpg")
    del found.places[f"{2:064x}"]
    found.save(path, EMBEDDER)
    found.places[f"{2:064x}"] = os.path.abspath("c.jpg")
    assert load_groups(path, EMBEDDER).places == found.places
    path.parent.rename(tmp_path / "moved")
    (tmp_path / "moved").rename(tmp_path / "other")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "other").rename(tmp_path / "elsewhere" / "out")
    again = load_groups(tmp_path / "elsewhere" / "out" / "faces.safetensors", EMBEDDER).places
    assert again[f"{0:064x}"] == str(tmp_path / "elsewhere" / "photos" / "caf\udce9.jpg")
    assert again[f"{1:064x}"] == "/no-such-disk/b.jpg"


def test_a_photo_that_was_moved_is_found_again(tmp_path):
    first, moved = picture(tmp_path / "a.png", 10), tmp_path / "b.png"
    reading = Reading(FaceGroups(2))
    reading.read(first, picture(tmp_path / "copy.png", 10))
    assert list(reading.groups.places.values()) == [first]
    os.rename(first, moved)
    reading.read(str(moved))
    assert list(reading.groups.places.values()) == [str(moved)]
    assert len(reading.groups.photos) == 1


def test_faces_without_a_group_are_saved_as_such(tmp_path):
    path = tmp_path / "faces.safetensors"
    found = groups()
    found.group = np.array([4, 2])
    found.save(path, EMBEDDER)
    assert load_groups(path, EMBEDDER).group.tolist() == [4, 2] + [-1] * 18
    FaceGroups(16).save(path, EMBEDDER)
    assert load_groups(path, EMBEDDER).embeddings().shape == (0, 16)


def test_another_models_grouping_is_refused(tmp_path):
    path = tmp_path / "faces.safetensors"
    groups().save(path, EMBEDDER)
    with pytest.raises(DatasetError, match="cannot be compared") as error:
        load_groups(path, StubEmbedder(dimension=16, calibration=None, fingerprint="0" * 64))
    assert str(error.value).startswith(f"{path}: ")
    arrays, record = read_tensor_file(path, "grouping", DatasetError, remedy="")
    write_tensor_file(path, "grouping", arrays, {"photos": record["photos"]})
    with pytest.raises(DatasetError, match="cannot be compared"):
        load_groups(path, EMBEDDER)


def load_changed(path: Path, arrays: dict[str, Any] | None = None, **record: Any) -> None:
    """Load a grouping with some arrays or entries of the record replaced; None leaves an array out."""
    groups().save(path, EMBEDDER)
    old_arrays, old = read_tensor_file(path, "grouping", DatasetError, remedy="")
    kept = {name: array for name, array in {**old_arrays, **(arrays or {})}.items() if array is not None}
    write_tensor_file(path, "grouping", kept, {**old, **record})
    load_groups(path, EMBEDDER)


@pytest.mark.parametrize("array", ["photo", "box", "score", "embedding", "group"])
def test_an_array_that_does_not_fit_is_refused(tmp_path, array):
    path = tmp_path / "faces.safetensors"
    groups().save(path, EMBEDDER)
    old = read_tensor_file(path, "grouping", DatasetError, remedy="")[0][array]
    other_kind = old.astype(np.int64) if old.dtype.kind == "f" else old.astype(np.float32)
    for wrong in (old[1:], old[..., None], other_kind, None):
        with pytest.raises(DatasetError, match="a damaged grouping") as error:
            load_changed(path, {array: wrong})
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("arrays", "record"),
    [
        ({"photo": np.arange(1, 21)}, {}),
        ({"photo": np.arange(-1, 19)}, {}),
        ({"group": np.full(20, -2)}, {}),
        ({}, {"photos": []}),
        ({}, {"photos": [["a.jpg", "digest"]] * 20}),
        ({}, {"photos": None}),
        ({}, {"places": ["a.jpg"]}),
        ({}, {"places": {"a": 3}}),
        ({}, {"photos": 20}),
    ],
)
def test_faces_that_belong_to_no_photo_are_refused(tmp_path, arrays, record):
    load_changed(tmp_path / "faces.safetensors")
    with pytest.raises(DatasetError, match="a damaged grouping"):
        load_changed(tmp_path / "faces.safetensors", arrays, **record)


def test_copies_of_photos_are_read_once(tmp_path):
    first, both = picture(tmp_path / "a.png", 10), picture(tmp_path / "b.png", 20, 30)
    copy = picture(tmp_path / "copy of a.png", 10)
    reading = Reading(FaceGroups(gray_people.DIMENSION))
    assert reading.read(first, both, copy) == []
    assert reading.kept == [(first, (40, 200, 3), 1), (both, (40, 200, 3), 2)]
    assert reading.groups.photos == [(first, sha256_of(first), ""), (both, sha256_of(both), "")]
    assert reading.groups.photo == [0, 1, 1]
    assert reading.groups.box == [(10.0, 10.0, 30.0, 30.0), (10.0, 10.0, 30.0, 30.0), (50.0, 10.0, 70.0, 30.0)]
    expected = [gray_people.embedding(gray) for gray in (10, 20, 30)]
    np.testing.assert_allclose(reading.groups.embeddings(), expected, atol=1e-6)
    new = picture(tmp_path / "c.png", 40)
    again = Reading(reading.groups)
    assert again.read(first, copy, new) == []
    assert again.kept == [(new, (40, 200, 3), 1)]


def test_a_photo_whose_pictures_were_not_kept_is_read_again(tmp_path):
    first, second = picture(tmp_path / "a.png", 10), picture(tmp_path / "b.png", 20, 30)
    groups = FaceGroups(gray_people.DIMENSION)

    def keep(photo: Photo, _: str) -> None:
        if photo.path == second:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        list(
            read_faces(
                [first, second], groups, gray_people.StubEmbedder(), gray_people.StubDetector(),
                keep=keep, checkpoint=lambda: None, progress=no_progress,
            )
        )  # fmt: skip
    assert [path for path, _, _ in groups.photos] == [first]
    reading = Reading(groups)
    assert reading.read(first, second) == []
    assert [path for path, _, _ in reading.kept] == [second]


def test_photos_that_cannot_be_read_are_yielded_with_a_reason(tmp_path):
    good, broken = picture(tmp_path / "good.png", 10), tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    reading = Reading(FaceGroups(gray_people.DIMENSION))
    found = dict(reading.read(str(tmp_path / "gone.png"), str(tmp_path / "empty"), str(broken), good))
    assert found.keys() == {str(tmp_path / "gone.png"), str(tmp_path / "empty"), str(broken)}
    assert found[str(tmp_path / "empty")] == "no images in this folder"
    assert "o such file" in found[str(tmp_path / "gone.png")]
    assert [path for path, _, _ in reading.kept] == [good]
    assert reading.groups.photos == [(str(broken), sha256_of(broken), found[str(broken)]), (good, sha256_of(good), "")]
    assert reading.read(str(broken)) == [], "an unreadable photo is recognised by its content, too"


def test_work_is_saved_now_and_then(tmp_path, monkeypatch):
    monkeypatch.setattr("facespace.clustering.groups._SAVE_EVERY", 2)
    reading = Reading(FaceGroups(gray_people.DIMENSION))
    reading.read(*(picture(tmp_path / f"{k}.png", 10 * k) for k in range(1, 6)))
    assert reading.checkpoints == [2, 4]


def numbered(found: FaceGroups, first: int, last: int) -> None:
    """Add photos of one face each, and one without a face at the end."""
    vectors, _ = people(40, 1, dimension=16)
    for k in range(first, last):
        face = Face((k / 4, 1.0, k + 10.5, 20.0), k / 32, POINTS)
        found.add(Photo(f"{k}.jpg", faces=[face], embeddings=vectors[k : k + 1]), f"{k:064x}")
    found.add(Photo(f"empty{last}.jpg", error="cut short"), f"{1000 + last:064x}")


def same(one: FaceGroups, other: FaceGroups) -> bool:
    names = ("photos", "places", "photo", "box", "score", "quality", "id", "dimension")
    return all(getattr(one, name) == getattr(other, name) for name in names) and bool(
        (one.embeddings() == other.embeddings()).all() and one._groups().tolist() == other._groups().tolist()
    )


def test_checkpoints_write_new_photos_and_are_loaded_together(tmp_path):
    path = tmp_path / "faces.safetensors"
    found = FaceGroups(16)
    numbered(found, 0, 5)
    found.save_new(path, EMBEDDER)
    whole = path.read_bytes()
    found.save_new(path, EMBEDDER)
    assert os.listdir(tmp_path) == [path.name], "there are no new photos"
    for first in (5, 12):
        numbered(found, first, first + 7)
        found.save_new(path, EMBEDDER)
    assert sorted(os.listdir(tmp_path)) == [path.name, f"{path.name}.part-000001", f"{path.name}.part-000002"]
    assert path.read_bytes() == whole
    again = load_groups(path, EMBEDDER)
    assert same(again, found)
    numbered(again, 19, 20)
    again.save_new(path, EMBEDDER)
    assert same(load_groups(path, EMBEDDER), again)
    again.regroup(method="average", threshold=0.5)
    again.save(path, EMBEDDER)
    assert os.listdir(tmp_path) == [path.name]
    assert same(load_groups(path, EMBEDDER), again)


def test_parts_that_are_in_the_file_or_of_another_grouping_are_left_out(tmp_path):
    path = tmp_path / "faces.safetensors"
    found = FaceGroups(16)
    numbered(found, 0, 5)
    found.save_new(path, EMBEDDER)
    numbered(found, 5, 9)
    found.save_new(path, EMBEDDER)
    part = path.with_name(f"{path.name}.part-000001")
    data = part.read_bytes()
    found.save(path, EMBEDDER)
    part.write_bytes(data)  # as if the process had been stopped before it was removed
    assert same(load_groups(path, EMBEDDER), found)
    other = FaceGroups(16)
    numbered(other, 20, 22)
    other.save(path, EMBEDDER)
    part.write_bytes(data)
    assert same(load_groups(path, EMBEDDER), other)


def test_vectors_are_in_memory_once():
    found = groups()
    whole = found.embeddings()
    assert found.embeddings() is whole
    assert all(np.shares_memory(vector, whole) for vector in found.embedding)
    numbered(found, 0, 1)
    assert len(found.embeddings()) == 21
    np.testing.assert_array_equal(found.embeddings()[:20], whole)
