"""RecordIO files exchanged with MXNet itself, in both directions, compared record by record and byte by byte.

MXNet is in a separate Python (`--peer PYTHON`, with `pip install mxnet==1.9.1 "numpy<1.24"`). Images are those
of `../shared/data/records`, and random bytes with many occurrences of RecordIO's magic number, at multiples of four and
elsewhere, at which records are split when they are written.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import random
import struct
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import facespace
from facespace.datasets.formats.recordio import RecordImages
from facespace.datasets.formats.recordio_writer import RecordWriter

MAGIC = 0xCED7230A
N_WITH_MAGIC = 500

Images = list[tuple[int, bytes]]  # label and encoded image


def images_with_magic() -> Images:
    """Random bytes that begin as a JPEG does; the first is a picture, for the size in `property`."""
    rng = random.Random(2018)
    images = [(0, b"P6 1 1 255 abc")]
    for k in range(1, N_WITH_MAGIC):
        parts = [b"\xff\xd8\xff"]
        for _ in range(rng.randrange(40)):
            n = rng.choice([1, 2, 3, 4, 4, 4, 8])
            parts.append(MAGIC.to_bytes(4, "little") if rng.random() < 0.3 else rng.randbytes(n))
        images.append((k // 10, b"".join(parts)))
    return images


def count_parts(path: Path) -> tuple[int, int]:
    """How many records of the file are in one part, and in several."""
    data, position = path.read_bytes(), 0
    flags = []
    while position < len(data):
        magic, word = struct.unpack_from("<II", data, position)
        assert magic == MAGIC
        flags.append(word >> 29)
        position += 8 + (word & 2**29 - 1)
        position += -position % 4
    return flags.count(0), flags.count(1)


def rows_of(images: RecordImages) -> list[list[Any]]:
    digests = [hashlib.sha256(images.encoded(k)).hexdigest() for k in range(len(images))]
    return [[k + 1, int(images.labels[k]), digest] for k, digest in enumerate(digests)]


def write_here(folder: Path, images: Images) -> Path:
    with RecordWriter(folder) as writer:
        for label, data in images:
            writer.write(data, label)
    return folder


class Exchange:
    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.all_equal = True

    def ask(self, *arguments: str | Path) -> Any:
        script = Path(__file__).with_name("peer_recordio.py")
        command = [self.peer, "-W", "ignore", script, *arguments]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])

    def compare(self, what: str, one: object, other: object, n: int) -> None:
        print(f"  {what:<70} {n:>6,} {'equal' if one == other else 'DIFFERENT'}", flush=True)
        self.all_equal &= one == other

    def run(self, name: str, images: Images, folder: Path) -> None:
        wanted = [[key, label, hashlib.sha256(data).hexdigest()] for key, (label, data) in enumerate(images, 1)]
        ours = write_here(folder / "ours", images)
        seen = self.ask("read", ours)
        n_all = len(images) + len(seen["ranges"]) + 1
        whole, parted = count_parts(ours / "train.rec")
        print(f"{name}: {len(images):,} images; {whole:,} records in one part, {parted:,} in several")
        self.compare("written here, read by MXNet: keys, labels, bytes", seen["images"], wanted, len(images))
        self.compare("the same one after the other, without index", seen["n_in_order"], n_all, n_all)
        members = [[row[1:] for row in wanted[first - 1 : end - 1]] for first, end in seen["ranges"]]
        people = [[row[1:] for row in rows] for _, rows in itertools.groupby(wanted, lambda row: row[1])]
        self.compare("the identities' ranges as MXNet reads them", members, people, len(people))

        order = [0, *random.Random(1).sample(range(1, len(images)), len(images) - 1)]
        mixed = write_here(folder / "mixed", [images[k] for k in order])
        shuffled = [[key, *wanted[k][1:]] for key, k in enumerate(order)]
        self.compare(
            "written here in mixed order, read by MXNet", self.ask("read", mixed)["images"], shuffled, len(order)
        )

        raw = folder / "raw"
        raw.mkdir()
        for k, (_, data) in enumerate(images):
            (raw / str(k)).write_bytes(data)
        (raw / "list.json").write_text(json.dumps([[label, str(k)] for k, (label, _) in enumerate(images)]))
        for labels in ("one", "two"):
            theirs = folder / labels
            theirs.mkdir()
            self.ask("write", raw, theirs, labels)
            found = rows_of(RecordImages(theirs))
            self.compare(f"written by MXNet, labels of {labels}: read here", found, wanted, len(found))
        theirs = folder / "one"
        for file in ("train.rec", "train.idx"):
            a, b = (ours / file).read_bytes(), (theirs / file).read_bytes()
            self.compare(f"{file} written here and by MXNet, byte by byte", a, b, n_all)
        (theirs / "train.idx").unlink()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            RecordImages(theirs)
        a, b = (ours / "train.idx").read_bytes(), (theirs / "train.idx").read_bytes()
        self.compare("MXNet's file without its index: the index made here", a, b, n_all)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--peer", required=True, help="path of a Python that has MXNet")
    args = parser.parse_args()
    exchange = Exchange(args.peer)
    print(f"{exchange.ask('versions')}; facespace {facespace.__version__}")
    real = RecordImages(args.shared / "data" / "records")
    sets = {
        "real JPEGs": [(int(real.labels[k]), real.encoded(k)) for k in range(len(real))],
        "bytes with magic numbers": images_with_magic(),
    }
    for name, images in sets.items():
        with tempfile.TemporaryDirectory() as folder:
            exchange.run(name, images, Path(folder))
    print("all equal" if exchange.all_equal else "NOT EQUAL")
    sys.exit(not exchange.all_equal)


if __name__ == "__main__":
    main()
