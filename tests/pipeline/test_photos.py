"""Tests photos to faces: order, errors in place, and how far reading runs ahead."""

from __future__ import annotations

import dataclasses
import itertools
import os
import threading
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import facespace
from facespace.errors import ImageError
from facespace.faces.face import Face
from facespace.faces.input_spec import InputSpec
from facespace.faces.quality import face_quality
from facespace.io.photo_files import LeftOutWarning
from facespace.pipeline import face_batches, photos as pipeline, reduced_photos
from facespace.pipeline.photos import Photo, find_images, process

POINTS = ((1.0, 1.0), (3.0, 1.0), (2.0, 2.0), (1.0, 3.0), (3.0, 3.0))


class StubDetector:
    """Finds as many faces as the first pixel's red value, each wider than the last; the score is its green value."""

    def detect_many(self, images: Iterable[np.ndarray]) -> list[list[Face]]:
        return [
            [Face((0, 0, 4 + (k * 7) % 5, 4), float(image[0, 0, 1]) / 255, POINTS) for k in range(image[0, 0, 0])]
            for image in images
        ]


class StubEmbedder:
    """Embeds a crop as its mean colour, which identifies the photo."""

    spec = InputSpec(size=16, template="box")
    dimension = 3

    def __init__(self) -> None:
        self.batches: list[int] = []

    def represent(self, crops: np.ndarray) -> np.ndarray:
        self.batches.append(len(crops))
        return crops.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)


def run(paths: Iterable[str], *, embed: bool = False, **options: Any) -> Iterator[Photo]:
    return process(paths, StubDetector(), StubEmbedder() if embed else None, **options)  # type: ignore[arg-type]


def write(path: Path, red: int, green: int = 0, blue: int = 0, size: tuple[int, int] = (8, 8)) -> str:
    Image.new("RGB", size, (red, green, blue)).save(path)
    return str(path)


# process


def test_one_photo_per_path_in_order_with_errors_in_place(tmp_path: Path) -> None:
    empty, text = tmp_path / "empty.png", tmp_path / "text.jpg"
    empty.write_bytes(b"")
    text.write_text("no picture")
    (tmp_path / "folder").mkdir()
    paths, n_faces = [], []
    for k in range(45):
        paths.append(write(tmp_path / f"{k}.png", k % 4, k, k, size=(8 + k % 7, 8 + k % 5)))
        n_faces.append(k % 4)
    bad = {3: str(empty), 4: str(text), 20: str(tmp_path / "missing.png"), 21: str(tmp_path / "folder"), 48: paths[0]}
    for at, path in bad.items():
        paths.insert(at, path)
        n_faces.insert(at, 0)
    photos = list(run(paths, embed=True, keep_pixels=True, keep_crops=True))
    assert [photo.path for photo in photos] == paths
    assert [len(photo.faces) for photo in photos] == n_faces
    reasons = {at: photo.error for at, photo in enumerate(photos) if photo.error is not None}
    assert list(reasons) == [3, 4, 20, 21]
    assert reasons[3] == "the file is empty"
    assert (reasons[4] or "").startswith("not an image")
    assert reasons[20] == "no such file"
    assert reasons[21] == "no images in this folder"
    for photo in photos:
        if photo.error is not None:
            assert (photo.faces, photo.embeddings.shape, photo.pixels) == ([], (0, 0), None)
            continue
        colour = facespace.read(photo.path)[0, 0]
        assert photo.pixels is not None
        assert np.array_equal(photo.pixels[0, 0], colour)
        assert photo.embeddings.shape == (len(photo.faces), 3)
        assert photo.crops.shape == (len(photo.faces), 16, 16, 3)
        assert (photo.embeddings == colour).all(), "each photo has its own embeddings"
        assert (photo.crops == colour).all()


@pytest.mark.parametrize("embed", [False, True])
@pytest.mark.parametrize("n", [1, 16, 17])
def test_only_unreadable_photos(embed: bool, n: int) -> None:
    photos = list(run([f"/no/such/{k}.jpg" for k in range(n)], embed=embed, keep_crops=True))
    assert [(photo.path, photo.error) for photo in photos] == [(f"/no/such/{k}.jpg", "no such file") for k in range(n)]


def test_no_photos_and_no_faces(tmp_path: Path) -> None:
    assert list(run([], embed=True)) == []
    (photo,) = run([write(tmp_path / "a.png", 0)], embed=True, keep_crops=True)
    assert (photo.error, photo.faces, photo.embeddings.shape, photo.crops.shape) == (None, [], (0, 3), (0, 16, 16, 3))


def test_pixels_not_requested_are_not_kept(tmp_path: Path) -> None:
    (photo,) = run([write(tmp_path / "a.png", 2)])
    assert photo.pixels is None
    assert photo.crops.shape[0] == photo.embeddings.shape[0] == 0
    (photo,) = run([write(tmp_path / "a.png", 2)], embed=True)
    assert photo.crops.shape[0] == 0
    assert photo.embeddings.shape == (2, 3)


def test_largest(tmp_path: Path) -> None:
    (all_of_them,) = run([write(tmp_path / "a.png", 5)])
    (photo, none) = run([write(tmp_path / "a.png", 5), write(tmp_path / "b.png", 0)], embed=True, largest=True)
    widths = [face.width for face in all_of_them.faces]
    assert widths != sorted(widths, reverse=True)
    assert [face.width for face in photo.faces] == [max(widths)]
    assert photo.embeddings.shape == (1, 3)
    assert none.faces == []


def test_many_faces_are_embedded_in_bounded_batches(tmp_path: Path) -> None:
    embedder = StubEmbedder()
    paths = [write(tmp_path / f"{k}.png", 50, k) for k in range(4)]
    photos = list(process(paths, StubDetector(), embedder))  # type: ignore[arg-type]
    assert [photo.embeddings[:, 1].tolist() for photo in photos] == [[k] * 50 for k in range(4)]
    assert sum(embedder.batches) == 200
    assert max(embedder.batches) <= 64


# Reading ahead


class CountingReader:
    """Replaces `facespace.io.image.read`: counts images read, and those still in memory."""

    def __init__(self, shape: tuple[int, int] = (8, 8)) -> None:
        self.shape = shape
        self.lock = threading.Lock()
        self.n_read = self.n_alive = self.most_alive = 0

    def __call__(self, path: str) -> np.ndarray:
        if path.startswith("bad"):
            raise ImageError(path, "bad")
        pixels = np.zeros((*self.shape, 3), np.uint8)
        weakref.finalize(pixels, self._gone)
        with self.lock:
            self.n_read += 1
            self.n_alive += 1
            self.most_alive = max(self.most_alive, self.n_alive)
        return pixels

    def _gone(self) -> None:
        with self.lock:
            self.n_alive -= 1


def use(monkeypatch: pytest.MonkeyPatch, reader: CountingReader) -> None:
    monkeypatch.setattr(pipeline, "image", SimpleNamespace(as_rgb=reader))


def test_reading_ahead_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = CountingReader()
    use(monkeypatch, reader)
    taken = itertools.count()
    photos = run(f"{next(taken)}.jpg" for _ in itertools.count())  # endless
    for k in range(100):
        photo = next(photos)
        assert photo.path == f"{k}.jpg"
        ahead = face_batches.MAX_IMAGES + pipeline._READ_AHEAD
        assert reader.n_read <= k + 1 + ahead
    photos.close()  # type: ignore[attr-defined]
    assert next(taken) <= 100 + ahead + 1
    assert reader.most_alive <= 2 * ahead


def test_large_photos_come_in_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = CountingReader((3000, 4100))
    use(monkeypatch, reader)
    for _ in itertools.islice(run(f"{k}.jpg" for k in itertools.count()), 20):
        pass
    n_in_chunk = -(-face_batches._MAX_PIXELS // (3000 * 4100))
    assert n_in_chunk == 2
    assert reader.most_alive <= n_in_chunk * 2 + pipeline._READ_AHEAD + 1


def test_stopping_early_ends_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, CountingReader())
    photos = run(f"{k}.jpg" for k in itertools.count())
    next(photos)
    photos.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("facespace-read")]


def test_an_unexpected_failure_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: str) -> np.ndarray:
        raise RuntimeError(path)

    monkeypatch.setattr(reduced_photos, "image", SimpleNamespace(as_rgb=broken))
    with pytest.raises(RuntimeError, match=r"a\.jpg"):
        list(run(["a.jpg"]))


# find_images


def test_files_as_given_and_folders_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "b.jpg", "a.PNG", "notes.txt", ".hidden.jpg", "Z.jpeg", "no_ending", "photo.jpg.part",
        "sub/2.webp", "sub/1.heic", "sub/film.mov", "sub/deeper/x.tif", "another/y.gif", "._b.jpg", ".git/z.jpg", "sub/.cache/w.png",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "sub" / "IMG_1").write_bytes(b"\xff\xd8\xff\xe0")
    monkeypatch.chdir(tmp_path)
    inside = ["Z.jpeg", "a.PNG", "b.jpg", "another/y.gif", "sub/1.heic", "sub/2.webp", "sub/IMG_1", "sub/deeper/x.tif"]
    left_out = r"^left out 1 video \(\./sub/film\.mov; .*\) and 3 files that are not photos \(\./no_ending, \./notes\.txt, \./photo"
    with pytest.warns(LeftOutWarning, match=left_out):
        assert list(find_images(["."])) == [os.path.join(".", name) for name in inside]
    with pytest.warns(LeftOutWarning):
        assert list(find_images([tmp_path])) == [str(tmp_path / name) for name in inside]
    (tmp_path / "sub" / "film.mov").unlink()
    assert list(find_images(["notes.txt", Path("missing"), "sub", "b.jpg", "b.jpg", ".hidden.jpg"])) == [
        "notes.txt", "missing", "sub/1.heic", "sub/2.webp", "sub/IMG_1", "sub/deeper/x.tif", "b.jpg", "b.jpg", ".hidden.jpg",
    ]  # fmt: skip


def test_files_in_the_output_folder_are_skipped(tmp_path: Path) -> None:
    """The skipped files are not counted as left out either: warnings are errors here."""
    for name in ("a.jpg", "groups/faces/a-0.jpg", "groups/groups.csv", "groupsX/b.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    given = [tmp_path, tmp_path / "groups", tmp_path / "groups/faces/a-0.jpg", tmp_path / "a.jpg"]
    found = list(find_images(given, without=tmp_path / "groups"))
    assert found == [str(tmp_path / name) for name in ("a.jpg", "groupsX/b.jpg", "a.jpg")]


def test_a_folder_without_images_is_passed_on(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.warns(LeftOutWarning, match=r"1 file that is not a photo \(.*notes.txt\)"):
        assert list(find_images([tmp_path])) == [str(tmp_path)]
    (photo,) = run([str(tmp_path)])
    assert (photo.path, photo.error) == (str(tmp_path), "no images in this folder")


@pytest.mark.skipif(os.name == "nt", reason="names are bytes only on POSIX")
def test_undecodable_names_are_returned_unchanged(tmp_path: Path) -> None:
    target = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        Path(os.fsdecode(target)).write_bytes(Path(write(tmp_path / "a.png", 1)).read_bytes())
    except OSError:
        pytest.skip("this file system requires UTF-8")
    (tmp_path / "a.png").unlink()
    (path,) = find_images([tmp_path])
    assert os.fsencode(path) == target
    (photo,) = run([path])
    assert (photo.path, photo.error, len(photo.faces)) == (path, None, 1)


# With the networks


def test_the_same_as_one_by_one(
    detector: facespace.MTCNN, embedder: facespace.Embedder,
    hopper_file: Path, collins_file: Path, stranger_file: Path, cat_file: Path,
) -> None:  # fmt: skip
    files = [str(file) for file in (hopper_file, cat_file, collins_file, "/no/such.jpg", stranger_file)]
    photos = list(process(files, detector, embedder, keep_crops=True))
    assert [photo.path for photo in photos] == files
    assert [len(photo.faces) > 0 for photo in photos] == [True, False, True, False, True]
    for photo in photos:
        if photo.error is not None:
            continue
        image = facespace.read(photo.path)
        faces = detector.detect(image)
        assert [dataclasses.replace(face, quality=None) for face in photo.faces] == faces
        assert [face.quality for face in photo.faces] == [face_quality(image, face) for face in faces]
        if faces:
            crops = np.stack([facespace.align(image, face, embedder.spec) for face in faces])
            assert np.array_equal(photo.crops, crops)
            assert (photo.embeddings * embedder.represent(crops)).sum(axis=1) == pytest.approx(1, abs=1e-4)


# Images that are not files


def test_arrays_and_pictures_are_processed_like_files(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", 3)
    pixels = facespace.read(path)
    with Image.open(path) as opened:
        photos = list(run([path, Path(path), pixels, opened, Path(path).read_bytes()], embed=True))
    assert [photo.path for photo in photos] == [path, path, "<array>", "<PIL image>", "<bytes>"]
    assert [photo.error for photo in photos] == [None] * 5
    for photo in photos:
        np.testing.assert_array_equal(photo.embeddings, photos[0].embeddings)
        assert photo.faces == photos[0].faces
    assert not (tmp_path / "<array>").exists()


def test_a_folder_with_images_is_reported_differently_from_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "a.png", 1)
    photos = list(run([str(tmp_path), str(tmp_path / "empty")]))
    assert [photo.error for photo in photos] == [
        "this is a folder; list its images with find_images",
        "no images in this folder",
    ]
    assert list(find_images(tmp_path)) == list(find_images(str(tmp_path))) == [str(tmp_path / "a.png")]


def test_an_array_that_is_not_an_image_ends_the_run() -> None:
    with pytest.raises(ValueError, match=r"an image must be \(H, W, 3\) uint8 RGB"):
        list(run([np.zeros((2, 3, 4, 5), np.uint8)]))


@pytest.mark.parametrize("one", ["a.jpg", Path("a.jpg"), b"a.jpg", np.zeros((4, 4, 3), np.uint8)])
def test_one_image_is_not_several(one: object) -> None:
    with pytest.raises(TypeError, match="process takes several images, got one"):
        next(run(one))  # type: ignore[arg-type]
