"""The contract of every dataset reader."""

from __future__ import annotations

import base64
import concurrent.futures
import io
import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facespace.datasets.formats.class_folders import ImageFolder
from facespace.datasets.formats.recordio import RecordImages
from facespace.datasets.formats.recordio_writer import RecordWriter
from facespace.datasets.opening import open_dataset
from facespace.datasets.protocol import LabelledImages
from facespace.datasets.union import UnionImages
from facespace.io import image

NAMES = ["Anna", "王 小明", "Zoë"]
LABELS = [0, 0, 1, 2, 2, 2, 2]


def encoded_images() -> list[bytes]:
    rng = np.random.default_rng(0)
    images = []
    for k, kind in enumerate(["JPEG", "PNG", "WEBP", "JPEG", "PNG", "JPEG", "PNG"]):
        stream = io.BytesIO()
        pixels = rng.integers(256, size=(12, 9 + k, 3), dtype=np.uint8)
        Image.fromarray(pixels if k % 2 else pixels[..., 0]).save(stream, kind)  # gray images too
        images.append(stream.getvalue())
    return images


def class_folders(root: Path) -> LabelledImages:
    for k, (label, encoded) in enumerate(zip(LABELS, encoded_images(), strict=True)):
        (root / NAMES[label]).mkdir(parents=True, exist_ok=True)
        (root / NAMES[label] / f"{k}.png").write_bytes(encoded)  # some have a wrong ending, as in practice
    return ImageFolder(root)


def recordio(root: Path) -> LabelledImages:
    with RecordWriter(root, names=NAMES) as writer:
        for label, encoded in zip(LABELS, encoded_images(), strict=True):
            writer.write(encoded, label)
    return RecordImages(root)


def recordio_images_only(root: Path) -> LabelledImages:
    with RecordWriter(root, names=NAMES) as writer:
        for label, encoded in zip([*LABELS[::-1], 2], [*encoded_images()[::-1], encoded_images()[3]], strict=True):
            writer.write(encoded, label)
    return RecordImages(root)


def tfrecord(root: Path) -> LabelledImages:
    from facespace.datasets.formats.tfrecord import TFRecordImages, TFRecordWriter

    root.mkdir()
    writer = TFRecordWriter(root / "a.tfrecord", names=NAMES)
    for label, encoded in zip(LABELS, encoded_images(), strict=True):
        writer.write(encoded, label)
    writer.close()
    return TFRecordImages(root)


def webdataset(root: Path) -> LabelledImages:
    from facespace.datasets.formats.webdataset import TarImages, TarWriter

    root.mkdir()
    writer = TarWriter(root, names=NAMES, shard_images=3)
    for label, encoded in zip(LABELS, encoded_images(), strict=True):
        writer.write(encoded, label)
    writer.close()
    return TarImages(root)


def parquet(root: Path) -> LabelledImages:
    from facespace.datasets.formats.parquet import ParquetImages, ParquetWriter

    root.mkdir()
    writer = ParquetWriter(root, names=NAMES, shard_images=3)
    for label, encoded in zip(LABELS, encoded_images(), strict=True):
        writer.write(encoded, label)
    writer.close()
    return ParquetImages(root)


def msceleb(root: Path) -> LabelledImages:
    from facespace.datasets.formats.msceleb import MSCelebImages

    root.mkdir()
    lines = [
        f"{NAMES[label]}\t{k}\thttp://a\thttp://b\tFaceId-{k}\tAAAA\t{base64.b64encode(encoded).decode()}\n"
        for k, (label, encoded) in enumerate(zip(LABELS, encoded_images(), strict=True))
    ]
    (root / "a.tsv").write_text("".join(lines[:4]), encoding="utf-8")
    (root / "b.tsv").write_text("".join(lines[4:]), encoding="utf-8")
    return MSCelebImages(root)


def union(root: Path) -> LabelledImages:
    return UnionImages([class_folders(root / "a"), recordio(root / "b")])


MAKERS: dict[str, Callable[[Path], LabelledImages]] = {
    maker.__name__: maker
    for maker in (class_folders, recordio, recordio_images_only, tfrecord, webdataset, parquet, msceleb, union)
}


@pytest.fixture(params=MAKERS)
def images(request: pytest.FixtureRequest, tmp_path: Path) -> LabelledImages:
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
    return MAKERS[request.param](tmp_path / "data")


def all_of(images: LabelledImages) -> list[bytes]:
    return [images.read(k).tobytes() for k in range(len(images))]


def test_lengths_labels_and_names(images: LabelledImages) -> None:
    n = len(images)
    assert n in (7, 8, 14)
    assert images.labels.dtype == np.int64
    assert images.labels.shape == (n,)
    assert images.labels.min() == 0
    assert images.labels.max() < len(images.names)
    assert all(isinstance(name, str) for name in images.names)
    assert sorted(images.names) == sorted(NAMES)
    assert images.names[0] in NAMES


def test_each_image_is_of_its_identity(images: LabelledImages) -> None:
    of = {encoded: NAMES[label] for encoded, label in zip(encoded_images(), LABELS, strict=True)}
    found = [images.encoded(k) for k in range(len(images))]
    assert [images.names[label] for label in images.labels] == [of[encoded] for encoded in found]
    assert set(found) == set(of)


def test_encoded_decodes_to_what_is_read(images: LabelledImages) -> None:
    for k in range(len(images)):
        encoded, pixels = images.encoded(k), images.read(k)
        assert isinstance(encoded, bytes)
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        assert pixels.flags.c_contiguous
        assert np.array_equal(pixels, image.read(encoded))


def test_order_is_stable(images: LabelledImages, tmp_path: Path) -> None:
    assert all_of(images) == all_of(images)
    backwards = [images.read(k).tobytes() for k in reversed(range(len(images)))]
    assert backwards[::-1] == all_of(images)


def test_a_reopened_folder_is_the_same(images: LabelledImages, tmp_path: Path) -> None:
    if isinstance(images, UnionImages):
        again = open_dataset([tmp_path / "data" / "a", tmp_path / "data" / "b"])
    else:
        again = open_dataset(tmp_path / "data")
    assert type(again) is type(images)
    assert list(again.names) == list(images.names)
    assert again.labels.tolist() == images.labels.tolist()
    assert all_of(again) == all_of(images)


@pytest.mark.parametrize("index", [-1, -7, 14, 2**63, -(2**70)])
def test_no_such_image(images: LabelledImages, index: int) -> None:
    for method in (images.encoded, images.read):
        with pytest.raises(IndexError):
            method(index)


def test_indices_may_be_numpy_integers_but_nothing_else(images: LabelledImages) -> None:
    assert np.array_equal(images.read(np.int64(1)), images.read(1))
    for method in (images.encoded, images.read):
        with pytest.raises(TypeError):
            method(1.0)  # type: ignore[arg-type]


def test_a_pickled_one_reads_the_same(images: LabelledImages) -> None:
    before = pickle.loads(pickle.dumps(images))
    expected = all_of(images)
    after = pickle.loads(pickle.dumps(images))  # while files are open
    for copy in (before, after):
        assert len(copy) == len(images)
        assert list(copy.names) == list(images.names)
        assert np.array_equal(copy.labels, images.labels)
        assert all_of(copy) == expected
    assert all_of(images) == expected


def test_threads_read_the_same(images: LabelledImages) -> None:
    indices = [k % len(images) for k in range(60)]
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        found = list(threads.map(images.encoded, indices))
    assert found == [images.encoded(k) for k in indices]


@pytest.fixture(scope="module")
def two_processes() -> Iterator[concurrent.futures.Executor]:
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context(method)) as processes:
        yield processes


def test_two_processes_read_the_same(images: LabelledImages, two_processes: concurrent.futures.Executor) -> None:
    images.read(0)
    jobs = [two_processes.submit(_read_all, images, part) for part in range(2)]
    expected = all_of(images)
    assert [job.result() for job in jobs] == [expected[0::2], expected[1::2]]


def _read_all(images: LabelledImages, part: int) -> list[bytes]:
    return [images.read(k).tobytes() for k in range(part, len(images), 2)]
