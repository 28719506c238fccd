"""The input pipeline: reproducible batches with any number of workers, damaged and missing images, preprocessing."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from facespace.datasets.formats.class_folders import ImageFolder
from facespace.datasets.opening import open_dataset
from facespace.errors import DatasetError, TrainingError
from facespace.faces.input_spec import INPUT_SPECS, InputSpec
from facespace.io.photo_files import LeftOutWarning
from facespace.training import data_loading as batches
from facespace.training.augmentation import Augmentation
from facespace.training.data_loading import Batch, TrainingImages, fingerprint, open_batches, standardized, stream_of
from facespace.training.sampling import Stream

PEOPLE = {"Anna": 4, "Ben": 1, "Cleo": 2, "Dora": 5}
PLAIN = Augmentation(12)
MIXED = Augmentation(10, crop="random", rotate=10, flip=True, color=0.3, low_resolution=0.3, occlusion=0.3, mask=0.3)


def write(file: Path, seed: int, size: tuple[int, int] = (14, 12)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for k, (name, n) in enumerate(PEOPLE.items()):
        for i in range(n):
            write(tmp_path / "crops" / name / f"{i}.png", 100 * k + i)
    return tmp_path / "crops"


@pytest.fixture
def images(root: Path) -> TrainingImages:
    return TrainingImages(ImageFolder(root))


def opened(images: TrainingImages, augmentation: Augmentation = PLAIN, **options: Any) -> Iterator[Batch]:
    usual: dict[str, Any] = {
        "first": 0, "end": 6, "batch_size": 8, "parts": range(1), "n_parts": 1, "workers": 0, "seed": 7,
    }  # fmt: skip
    given = {"stream": stream_of(images, images_per_person=0, seed=7), **usual, **options}
    return open_batches(images, augmentation, given.pop("stream"), **given)


def in_order(images: TrainingImages) -> Stream:
    return Stream(lambda number: np.arange(len(images)))


def whole(parts: list[Batch]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])


def equal(one: list[Batch], other: list[Batch]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(whole(one), whole(other), strict=True))


# Selection of images


def test_all_people_by_name(images: TrainingImages) -> None:
    assert list(images.names) == list(PEOPLE)
    assert images.labels.tolist() == np.repeat(range(4), list(PEOPLE.values())).tolist()
    assert images.kept.tolist() == list(range(12))
    assert (len(images), images.n_left_out) == (12, 0)


def test_people_with_few_images_are_left_out(root: Path) -> None:
    (root / "Bella").mkdir()  # a person without images does not count as left out
    few = TrainingImages(ImageFolder(root), min_images=3)
    assert list(few.names) == ["Anna", "Dora"]
    assert few.labels.tolist() == [0] * 4 + [1] * 5
    assert few.kept.tolist() == [0, 1, 2, 3, 7, 8, 9, 10, 11]
    assert few.n_left_out == 2
    assert [few.dataset.labels[few.kept[i]] for i in (0, 8)] == [0, 4]
    usual = TrainingImages(ImageFolder(root))
    assert (list(usual.names), usual.n_left_out) == (list(PEOPLE), 0)
    assert usual.labels.max() == 3
    batch = next(opened(few, stream=in_order(few), batch_size=9))
    np.testing.assert_array_equal(batch.images[4], PLAIN.apply(few.dataset.read(7), np.random.default_rng(0)))
    with pytest.raises(DatasetError, match="at least two people with at least 5 images each; the dataset has 1"):
        TrainingImages(ImageFolder(root), min_images=5)


def test_orders(root: Path, images: TrainingImages) -> None:
    assert sorted(stream_of(images, images_per_person=0, seed=1).part(0, 12).tolist()) == list(range(12))
    by_two = stream_of(images, images_per_person=2, seed=1).part(0, 7)
    assert np.bincount(images.labels[by_two]).tolist() == [2, 1, 2, 2]
    for name in ("Anna", "Cleo"):
        shutil.rmtree(root / name)
    lonely = TrainingImages(ImageFolder(root))
    with pytest.raises(DatasetError, match="at least two people with two images each; 1 of 2 people have them"):
        stream_of(lonely, images_per_person=2, seed=1)
    assert len(stream_of(lonely, images_per_person=0, seed=1).part(0, 9)) == 9


# Contents of batches


def test_images_and_labels_are_those_of_the_stream(images: TrainingImages) -> None:
    stream = stream_of(images, images_per_person=0, seed=7)
    numbers = stream.part(0, 48)
    parts = list(opened(images, MIXED))
    pixels, labels = whole(parts)
    assert [len(part.images) for part in parts] == [8] * 6
    assert (pixels.dtype, pixels.shape, labels.dtype) == (torch.uint8, (48, 10, 10, 3), torch.int64)
    assert labels.tolist() == images.labels[numbers].tolist()
    assert not any(part.failed for part in parts)
    looks: dict[int, set[bytes]] = {}
    for number, image in zip(numbers.tolist(), pixels, strict=True):
        looks.setdefault(number, set()).add(image.numpy().tobytes())
    assert all(len(look) == 4 for look in looks.values())  # each pass has new draws
    plain, _ = whole(list(opened(images)))
    for number, image in zip(numbers.tolist(), plain, strict=True):
        np.testing.assert_array_equal(image, images.dataset.read(number)[1:13])


@pytest.mark.parametrize("n_parts", [2, 4, 8])
def test_parts_of_a_step(images: TrainingImages, n_parts: int) -> None:
    """Micro-batches, on one rank or on several, add up to the same step."""
    at_once = list(opened(images, MIXED))
    parts = list(opened(images, MIXED, parts=range(n_parts), n_parts=n_parts))
    assert len(parts) == 6 * n_parts
    assert equal(at_once, parts)
    half = n_parts // 2
    ranks = [list(opened(images, MIXED, parts=range(k, k + half), n_parts=n_parts)) for k in (0, half)]
    woven = [part for step in range(6) for rank in ranks for part in rank[step * half : (step + 1) * half]]
    assert equal(at_once, woven)


@pytest.mark.parametrize("images_per_person", [0, 2])
def test_resumed_at_any_step(images: TrainingImages, images_per_person: int) -> None:
    def stream() -> Stream:
        return stream_of(images, images_per_person=images_per_person, seed=7)

    at_once = list(opened(images, MIXED, stream=stream()))
    for first in range(1, 6):
        assert equal(at_once[first:], list(opened(images, MIXED, stream=stream(), first=first)))
    assert list(opened(images, first=6)) == []


def test_seeds_differ(images: TrainingImages) -> None:
    stream = in_order(images)
    one, other = (next(opened(images, MIXED, stream=stream, seed=seed)) for seed in (1, 2))
    assert not torch.equal(one.images, other.images)
    assert torch.equal(one.labels, other.labels)


def test_workers_make_no_difference(root: Path, images: TrainingImages, monkeypatch: pytest.MonkeyPatch) -> None:
    """With real processes, more than there are cores. torch warns about that, and warnings are errors in the tests."""
    (root / "Anna" / "1.png").write_bytes(b"no image")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    here = list(opened(images, MIXED, parts=range(2), n_parts=2, end=12))
    apart = opened(images, MIXED, parts=range(2), n_parts=2, end=12, workers=2)
    there = [next(apart) for _ in range(12)]
    shutil.rmtree(root / "Dora")
    with pytest.raises(TrainingError, match=r"Dora.*\.png existed when training began and is missing now"):
        for part in apart:  # batches that were read ahead may still have her
            there.append(part)  # noqa: PERF402
    assert 12 <= len(there) < 24
    assert equal(here[: len(there)], there)
    assert [part.failed for part in here[: len(there)]] == [part.failed for part in there]
    assert any(part.failed for part in there)


def test_the_reader_can_be_sent_to_processes(images: TrainingImages) -> None:
    reader = batches._Reader(images, MIXED, 3)
    entries = [(5, 2), (9, 11)]
    sent = pickle.loads(pickle.dumps(reader))
    assert torch.equal(reader.__getitems__(entries).images, sent.__getitems__(entries).images)


def test_a_killed_worker(images: TrainingImages, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "DataLoader worker (pid(s) 7) exited unexpectedly"

    def next_of(loader: Any) -> Iterator[Batch]:
        raise RuntimeError(said)

    monkeypatch.setattr(batches.DataLoader, "__iter__", lambda loader: iter_failing(next_of))
    with pytest.raises(TrainingError, match=r"a process that reads images was killed, .* resume with fewer"):
        next(opened(images))
    said = "CUDA error: an illegal memory access"  # the error is not a worker's
    with pytest.raises(RuntimeError, match="illegal memory access"):
        next(opened(images))


def iter_failing(fail: Any) -> Iterator[Batch]:
    yield fail(None)


# Damaged datasets


def test_a_damaged_image_is_replaced_by_another_of_the_same_person(root: Path, images: TrainingImages) -> None:
    good = {name: {(root / name / f"{i}.png") for i in range(n)} for name, n in PEOPLE.items()}
    damaged = [root / "Anna" / "2.png", root / "Cleo" / "0.png", root / "Dora" / "4.png"]
    for file in damaged:
        file.write_bytes(file.read_bytes()[:60])
        good[file.parent.name].remove(file)
    looks = {
        name: {PLAIN.apply(_read(file), np.random.default_rng(0)).tobytes() for file in files}
        for name, files in good.items()
    }
    failed, seen = set(), {name: set() for name in PEOPLE}
    for part in opened(images, end=60):
        for image, label in zip(part.images, part.labels.tolist(), strict=True):
            seen[images.names[label]].add(image.numpy().tobytes())
        failed |= set(part.failed)
    assert seen == looks
    assert {name for name, _ in failed} == {str(file) for file in damaged}
    assert all("truncated, corrupt" in reason for _, reason in failed)


def _read(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))


def test_one_good_image_of_many_is_always_found(root: Path) -> None:
    """A person has one readable image, and every draw must find it."""
    for i in range(30):
        (root / "Anna" / f"x{i}.png").write_bytes(b"not an image at all")
    for i in (0, 1, 2):
        (root / "Anna" / f"{i}.png").write_bytes(b"")
    images = TrainingImages(ImageFolder(root))
    expected = _read(root / "Anna" / "3.png")[1:13]
    n = int((images.labels == 0).sum())
    assert n == 34
    for part in opened(images, stream=in_order(images), batch_size=n, end=1):
        assert part.labels.tolist() == [0] * n
        for image in part.images:
            np.testing.assert_array_equal(image, expected)
        assert {name for name, _ in part.failed} <= {str(file) for file in (root / "Anna").iterdir()}


def test_replacements_are_drawn_evenly_and_depend_on_the_position(root: Path, images: TrainingImages) -> None:
    (root / "Dora" / "0.png").write_bytes(b"")
    stream = Stream(lambda number: np.array([7]))  # Dora's first, again and again
    parts = list(opened(images, stream=stream, batch_size=20, end=10))
    counts: dict[bytes, int] = {}
    for image in whole(parts)[0]:
        counts[image.numpy().tobytes()] = counts.get(image.numpy().tobytes(), 0) + 1
    assert len(counts) == 4
    assert min(counts.values()) > 25  # of 50
    assert all(len(part.failed) == 20 for part in parts)
    assert equal(parts[3:], list(opened(images, stream=stream, batch_size=20, end=10, first=3)))


def test_a_person_without_any_image_that_can_be_read(root: Path, images: TrainingImages) -> None:
    for file in (root / "Cleo").iterdir():
        file.write_bytes(b"")
    with pytest.raises(
        TrainingError, match=r"no image of Cleo can be read \(last: .*Cleo.*the file is empty\)"
    ) as caught:
        list(opened(images))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("damaged", [False, True])
def test_a_file_that_vanished(root: Path, images: TrainingImages, damaged: bool) -> None:
    (root / "Cleo" / "1.png").unlink()
    if damaged:
        (root / "Cleo" / "0.png").write_bytes(b"")
    said = r"Cleo.1\.png existed when training began and is missing now: .* put it back"
    with pytest.raises(TrainingError, match=said):
        list(opened(images))


def test_a_file_of_many_images_that_is_damaged(images: TrainingImages, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the whole dataset is reported at once, without trying other images."""

    def fail(index: int) -> Any:
        raise DatasetError("train.rec: cut off")

    monkeypatch.setattr(images.dataset, "read", fail)
    with pytest.raises(TrainingError, match=r"^train\.rec: cut off$"):
        next(opened(images))


# The fingerprint of a dataset


def test_fingerprint(root: Path, tmp_path: Path, images: TrainingImages) -> None:
    def now(source: Path = root, **options: Any) -> str:
        return fingerprint(TrainingImages(open_dataset(source), **options), [str(source)])

    began = now()
    assert len(began) == 64
    assert now() == began
    elsewhere = tmp_path / "moved" / "there"
    shutil.copytree(root, elsewhere)
    assert now(elsewhere) == began
    seen = {began, now(min_images=2)}
    assert len(seen) == 2

    file = elsewhere / "Dora" / "3.png"
    data = file.read_bytes()
    changes: list[Any] = [
        lambda: file.write_bytes(data + b"\0"),
        lambda: file.unlink(),
        lambda: (elsewhere / "Dora" / "9.png").write_bytes(data),  # with the previous assertion: renaming is noticed
        lambda: file.write_bytes(data),
        lambda: write(elsewhere / "Emil" / "0.png", 0),
        lambda: (elsewhere / "Emil").rename(elsewhere / "Ed"),
        lambda: write(elsewhere / "Ed" / "0.png", 0, (30, 30)),
        lambda: shutil.rmtree(elsewhere / "Ben"),
    ]
    for k, change in enumerate(changes, 3):
        change()
        seen.add(now(elsewhere))
        assert len(seen) == k

    # People and labels are those of the start, so the files alone make the difference.
    before = fingerprint(images, [str(root)])
    write(root / "Ben" / "1.png", 0)
    assert fingerprint(images, [str(root)]) != before
    (root / "Ben" / "1.png").unlink()
    assert fingerprint(images, [str(root)]) == before == began


def test_fingerprint_knows_people_and_labels(root: Path, images: TrainingImages) -> None:
    """This matters for datasets in one file, which may be replaced by another of the same size."""
    seen = {fingerprint(images, [str(root)])}
    images.labels = images.labels[::-1].copy()
    seen.add(fingerprint(images, [str(root)]))
    images.names = ["Anna", "Ben", "Cleo", "Doro"]
    seen.add(fingerprint(images, [str(root)]))
    assert len(seen) == 3


def test_fingerprint_ignores_files_that_are_not_read(root: Path, images: TrainingImages) -> None:
    began = fingerprint(images, [str(root)])
    (root / "Ben" / ".hidden.png").write_bytes(b"x")
    (root / ".git").mkdir()
    (root / ".git" / "index").write_bytes(b"x")
    (root / "training.log").write_bytes(b"a growing log beside the folders")
    (root / "Ben" / "Thumbs.db").write_bytes(b"x")
    (root / "Ben" / "@eaDir").mkdir()
    (root / "Ben" / "@eaDir" / "0.png").write_bytes(b"x")
    (root / "Ben" / "round").symlink_to(root)
    os.utime(root / "Ben" / "0.png", (0, 0))
    with pytest.warns(LeftOutWarning, match="Thumbs.db"):
        dataset = open_dataset(root)
    assert fingerprint(TrainingImages(dataset), [str(root)]) == began
    (root / "Ben" / "IMG_1").write_bytes((root / "Ben" / "0.png").read_bytes())
    assert fingerprint(TrainingImages(dataset), [str(root)]) != began, "an image, whatever its name"


def test_fingerprint_of_files_and_of_several(root: Path, tmp_path: Path, images: TrainingImages) -> None:
    """A record file alone, the same file in a folder with others, and unions."""
    folder = tmp_path / "records"
    folder.mkdir()
    for name in ("train.rec", "train.idx", "property"):
        (folder / name).write_bytes(b"12345")
    sources = ([str(folder / "train.rec")], [str(folder)], [str(root)], [str(root), str(folder)])
    before = [fingerprint(images, source) for source in sources]
    assert len(set(before)) == 4
    (folder / "train.rec").write_bytes(b"123456")
    after = [fingerprint(images, source) for source in sources]
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, False, True, False]
    write(folder / "samples" / "1.png", 0)  # `train.rec` takes precedence over class folders
    assert fingerprint(images, [str(folder)]) == after[1]


def test_fingerprint_of_missing_files(root: Path, images: TrainingImages) -> None:
    before = fingerprint(images, [str(root)])
    (root / "Ben" / "1.png").symlink_to(root / "nowhere.png")
    assert fingerprint(images, [str(root)]) != before
    shutil.rmtree(root)
    with pytest.raises(DatasetError, match=r"crops: the folder cannot be listed \(No such file"):
        fingerprint(images, [str(root)])


# Preprocessing


@pytest.mark.parametrize("name", [*INPUT_SPECS, "bgr", "per-image bgr", "odd"])
def test_standardized_is_what_the_spec_says(name: str) -> None:
    others = {
        "bgr": InputSpec(16, "arcface", channel_order="BGR", mean=100.0, std=7.0),
        "per-image bgr": InputSpec(17, "box", channel_order="BGR", standardization="per-image"),
        "odd": InputSpec(31, "box", mean=0.0, std=255.0),
    }
    spec = INPUT_SPECS.get(name) or others[name]
    random = np.random.default_rng(0)
    crops = random.integers(0, 256, (6, spec.size, spec.size, 3)).astype(np.uint8)
    crops[1], crops[2], crops[3] = 0, 255, 137  # of one colour: the deviation is 0
    crops[4] = 200 + crops[4] % 2  # nearly of one colour
    crops[5, :, :, 0] //= 8
    came = standardized(torch.from_numpy(crops), spec, torch.device("cpu"))
    assert (came.dtype, came.shape) == (torch.float32, (6, 3, spec.size, spec.size))
    assert came.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(came.permute(0, 2, 3, 1), spec.preprocess(crops), rtol=1e-5, atol=5e-5)
