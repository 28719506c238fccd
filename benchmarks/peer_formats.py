"""Reads and writes datasets with TensorFlow, webdataset and Hugging Face's datasets. Run with the Python of the peers' environment.

usage: peer_formats.py read FOLDER    reads tfrecord/, webdataset/, parquet/ in it: one JSON line of counts and digests
       peer_formats.py write FOLDER OUT    the images of FOLDER/webdataset (read by tarfile) as each of them writes them
The digest is SHA-256 over label (8 bytes, little-endian) and image bytes, in order.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pyarrow
import pyarrow.parquet
import tensorflow as tf
import webdataset as wds
from PIL import Image

import datasets

SCHEMA = {"image_raw": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}


def digest(rows: Iterable[tuple[int, bytes]]) -> list[object]:
    total, n = hashlib.sha256(), 0
    for label, encoded in rows:
        total.update(int(label).to_bytes(8, "little") + encoded)
        n += 1
    return [n, total.hexdigest()]


def tensorflow_rows(paths: list[str], checks: dict[str, object]) -> Iterable[tuple[int, bytes]]:
    shapes = set()
    for serialized in tf.data.TFRecordDataset(paths):
        example = tf.io.parse_single_example(serialized, SCHEMA)
        pixels = tf.io.decode_jpeg(example["image_raw"], channels=3)
        shapes.add(tuple(pixels.shape))
        yield int(example["label"]), example["image_raw"].numpy()
    checks["decoded shapes"] = sorted(shapes)


def webdataset_rows(paths: list[str], checks: dict[str, object]) -> Iterable[tuple[int, bytes]]:
    names = {}
    for sample in wds.WebDataset(paths, shardshuffle=False, empty_check=False):
        label = int(sample["cls"])
        if "json" in sample:
            names[label] = json.loads(sample["json"])["name"]
        yield label, sample["jpg"]
    checks["names"] = len(names)
    decoded = wds.WebDataset(paths, shardshuffle=False).decode("rgb8").to_tuple("jpg", "cls")
    checks["decoded shapes"] = sorted({pixels.shape for pixels, _ in decoded})


def hugging_face_rows(folder: str, cache: str, checks: dict[str, object]) -> Iterable[tuple[int, bytes]]:
    rows = datasets.load_dataset(folder, split="train", cache_dir=cache)
    checks["features"] = {name: type(feature).__name__ for name, feature in rows.features.items()}
    checks["decoded shapes"] = sorted(
        {np.asarray(row["image"].convert("RGB")).shape for row in rows.select(range(100))}
    )
    for row in rows.cast_column("image", datasets.Image(decode=False)):
        yield row["label"], row["image"]["bytes"]


def read(folder: Path) -> None:
    found: dict[str, list[object]] = {}
    for kind, rows in {
        "TensorFlow": lambda checks: tensorflow_rows(
            sorted(map(str, (folder / "tfrecord").glob("*.tfrecords"))), checks
        ),
        "webdataset": lambda checks: webdataset_rows(sorted(map(str, (folder / "webdataset").glob("*.tar"))), checks),
        "datasets": lambda checks: hugging_face_rows(str(folder / "parquet"), str(folder / "cache"), checks),
    }.items():
        checks: dict[str, object] = {}
        found[kind] = [*digest(rows(checks)), checks]
    print(json.dumps(found))


def samples(folder: Path) -> list[tuple[int, bytes]]:
    """Label and image of every sample, read by the standard library."""
    rows = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            files = {name: tar.extractfile(name).read() for name in tar.getnames()}
        rows += [(int(files[f"{name[:-4]}.cls"]), data) for name, data in files.items() if name.endswith(".jpg")]
    return rows


def write(folder: Path, out: Path) -> None:
    rows = samples(folder / "webdataset")
    int64 = lambda value: tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))  # noqa: E731
    text = lambda value: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))  # noqa: E731
    for name, features in {
        "tfrecord_2018": lambda label, data: {"image_raw": text(data), "label": int64(label)},
        "tfrecord_slim": lambda label, data: {
            "image/encoded": text(data), "image/class/label": int64(label), "image/height": int64(112),
            "image/format": text(b"jpeg"), "image/class/text": text(f"person {label}".encode()),
        },
    }.items():  # fmt: skip
        (out / name).mkdir(parents=True)
        shards = [tf.io.TFRecordWriter(str(out / name / f"train-{k:05d}-of-00003")) for k in range(3)]
        for k, (label, data) in enumerate(rows):
            example = tf.train.Example(features=tf.train.Features(feature=features(label, data)))
            shards[k * 3 // len(rows)].write(example.SerializeToString())
        for shard in shards:
            shard.close()
    (out / "webdataset").mkdir()
    with wds.ShardWriter(str(out / "webdataset" / "s-%d.tar"), maxcount=100, verbose=0) as sink:
        for k, (label, data) in enumerate(rows):
            sink.write({"__key__": f"sample{k:06d}", "jpg": data, "cls": label, "json": {"name": f"person {label}"}})
    with wds.TarWriter(str(out / "webdataset_pil.tar")) as sink:
        for k, (label, data) in enumerate(rows[:200]):
            sink.write(
                {"__key__": f"deep/er.folder/{k}", "png": Image.open(io.BytesIO(data)), "json": {"label": label}}
            )
    names = [f"person {label}" for label in range(max(label for label, _ in rows) + 1)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    images = [{"bytes": data, "path": f"{k}.jpg"} for k, (_, data) in enumerate(rows)]
    table = datasets.Dataset.from_dict({"image": images, "label": [label for label, _ in rows]}, features=features)
    (out / "parquet_hf").mkdir()
    table.to_parquet(str(out / "parquet_hf" / "train-00000-of-00001.parquet"))
    plain = {"image": [data for _, data in rows], "label": [label for label, _ in rows]}
    (out / "parquet_plain").mkdir()
    pyarrow.parquet.write_table(pyarrow.table(plain), out / "parquet_plain" / "a.parquet", row_group_size=100)
    versions = {name: importlib.metadata.version(name) for name in ("webdataset", "datasets", "pyarrow")}
    print(json.dumps({"versions": {"tensorflow": tf.__version__, **versions}, "digest": digest(rows)}))


if __name__ == "__main__":
    if sys.argv[1] == "read":
        read(Path(sys.argv[2]))
    else:
        write(Path(sys.argv[2]), Path(sys.argv[3]))
