"""`dataset convert` in parts: the images of a dataset become shards, each written and read back by one worker.

First the images are read in parts of `PER_PART`: their SHA-256 give the checksum of the dataset, their sizes the bounds of
the shards. Then each shard is written in its own folder, read back, and moved to its final place. So the output is byte
for byte the same as that of one process.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.datasets.checksum import Chain, read_ahead
from facespace.datasets.convert import PARTS, Conversion, ConversionPlan, check_written, written_otherwise
from facespace.datasets.names import FILE_NAME as NAMES_FILE, Names
from facespace.datasets.opening import open_dataset
from facespace.datasets.protocol import LabelledImages
from facespace.datasets.writing import SHARDED, bytes_in_shard, open_writer, open_written, shard_start
from facespace.distribution.archives import as_archive, damaged, read_archives
from facespace.distribution.parts import Work
from facespace.distribution.plan import Plan, make_plan, read_pairs, result_name
from facespace.distribution.storage import Folder
from facespace.errors import DatasetError
from facespace.io.file_kinds import image_ending
from facespace.io.files import TEMPORARY, sync_folder
from facespace.io.text import plain_text

PER_PART = 10_000  # images

Compute = Callable[[Work, Plan, str], None]


@dataclass(frozen=True)
class _Source:
    """Represents the conversion of the dataset at absolute `paths` into the folder `out` in the format `to`.

    All workers can access the dataset and the folder.
    """

    paths: tuple[str, ...]
    out: str
    to: str
    shard_images: int
    shard_bytes: int
    fingerprint: str

    @property
    def gpu(self) -> bool:
        """Whether a worker needs a GPU: never."""
        return False

    def settings(self) -> dict[str, Any]:
        """Return everything that the results depend on."""
        sizes = {"shard_images": self.shard_images, "shard_bytes": self.shard_bytes} if self.to in SHARDED else {}
        return {"command": "convert", "format": self.to, "fingerprint": self.fingerprint, **sizes}

    def opened(self) -> tuple[LabelledImages, Names]:
        """Return images and names to write. Raises `DatasetError` if the command was started on other images."""
        images, plan = _open(self.paths, self.to)
        if plan.fingerprint != self.fingerprint:
            raise DatasetError(
                f"{plain_text(self.paths[0])}: a worker does not see the same images as the machine where the command was started"
            )
        return images, plan.written_names()


@dataclass(frozen=True)
class ReadingWork(_Source):
    """Represents the `parts.Work` that reads all images once.

    A part's result has, for each image, the SHA-256, the number of bytes in a shard, and whether the format is unknown.
    """

    @property
    def folder(self) -> Folder:
        """The folder of the plan and the results."""
        return Folder(os.path.join(self.out, PARTS, "read"))

    def result(self, number: int) -> str:
        """Return the name of a part's archive."""
        return result_name(number, "npz")

    def compute(self, number: int) -> None:
        """Read the images of a part."""
        images, names = self.opened()
        [(begin, end)] = read_pairs(self.folder, number)
        digests, sizes, unrecognised = bytearray(), [], []
        for label, encoded, digest in read_ahead(images, begin, end):
            digests += digest
            sizes.append(bytes_in_shard(self.to, encoded, label, names))
            unrecognised.append(image_ending(encoded) is None)
        archive = as_archive(
            digest=np.frombuffer(bytes(digests), np.uint8).reshape(-1, 32),
            size=np.array(sizes, np.int64),
            unrecognised=np.array(unrecognised, np.bool_),
        )
        self.folder.create(self.result(number), archive)


@dataclass(frozen=True)
class WritingWork(_Source):
    """Represents the `parts.Work` of writing shards."""

    @property
    def folder(self) -> Folder:
        """The folder of the plan and the results."""
        return Folder(os.path.join(self.out, PARTS, "written"))

    def result(self, number: int) -> str:
        """Return the name of the file that marks a shard as done.

        It contains the SHA-256 of the SHA-256 digests of the shard's images, which are read back from the shard.
        """
        return result_name(number, "txt")

    def compute(self, number: int) -> None:
        """Write a shard, read it back, and move its files to their places."""
        images, names = self.opened()
        [(begin, end)] = read_pairs(self.folder, number)
        if self.to == "folder":  # the writer makes a class folder for every name
            names = Names(len(names), {label: names.known[label] for label in set(images.labels[begin:end].tolist())})
        apart = Path(self.out, PARTS, f"{TEMPORARY}{secrets.token_hex(8)}")
        apart.mkdir()
        try:
            writer = open_writer(
                self.to, apart, names,
                shard_images=self.shard_images, shard_bytes=self.shard_bytes, resume_at=shard_start(self.to, number, begin),
            )  # fmt: skip
            for label, encoded, _ in read_ahead(images, begin, end):
                writer.write(encoded, label)
            writer.close()
            written = open_written(self.to, apart, names, n_before=begin)
            digest = hashlib.sha256(b"".join(digest for _, _, digest in read_ahead(written))).hexdigest()
            _move(apart, Path(self.out))
        finally:
            shutil.rmtree(apart, ignore_errors=True)
        self.folder.create(self.result(number), digest.encode())


def write_in_parts(
    images: LabelledImages,
    folder: Path,
    plan: ConversionPlan,
    _: Callable[[int, int], None],
    *,
    paths: tuple[str, ...],
    compute: Compute,
) -> Conversion:
    """Write the dataset at absolute `paths` in parts; `compute` computes the parts of a `Work`.

    `functools.partial` with `paths` and `compute` makes this a `datasets.convert.Write`.
    """
    source = (paths, str(folder), plan.to, plan.shard_images, plan.shard_bytes, plan.fingerprint)
    reading, writing = ReadingWork(*source), WritingWork(*source)
    if folder.exists() and not (folder / PARTS).is_dir():
        raise DatasetError(
            f"{plain_text(str(folder))}: contains a conversion started without --ray; continue without --ray, or remove this folder"
        )
    (folder / PARTS).mkdir(parents=True, exist_ok=True)
    n = plan.n_images
    read_plan = _plan(reading, ((begin, min(begin + PER_PART, n)) for begin in range(0, n, PER_PART)))
    compute(reading, read_plan, "reading")
    digests, sizes, n_unrecognised = _read(reading, read_plan, n)
    ends = list(_shard_ends(plan, sizes))
    shards = list(zip([0, *ends[:-1]], ends, strict=True))
    written_plan = _plan(writing, shards)
    there = set(writing.folder.names())
    n_here = sum(end - begin for k, (begin, end) in enumerate(shards) if writing.result(k) not in there)
    names = plan.written_names()
    open_writer(
        plan.to, folder, names, shard_images=plan.shard_images, shard_bytes=plan.shard_bytes
    ).abandon()  # writes only the files next to the shards
    compute(writing, written_plan, "converting")
    for number, (begin, end) in enumerate(shards):
        expected = hashlib.sha256(digests[begin:end].tobytes()).hexdigest()
        if writing.folder.read(writing.result(number)) != expected.encode():
            raise written_otherwise(folder, "other images")
    check_written(open_written(plan.to, folder, names), images, plan, folder)
    chain = Chain(plan.names)
    for label, digest in zip(images.labels.tolist(), digests, strict=True):
        chain.add(label, digest.tobytes())
    return Conversion(n, len(plan.names), chain.value.hex(), plan.renamed, n_unrecognised, n_here)


def _plan(work: ReadingWork | WritingWork, ranges: Iterable[tuple[int, int]]) -> Plan:
    """Return a plan with one range of images in each part."""
    return make_plan(work.folder, map(json.dumps, ranges), work.settings(), per_part=1)


def _read(work: ReadingWork, plan: Plan, n: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], int]:
    """Return each image's SHA-256 (N,32) and bytes in a shard (N,), and the number of images of an unknown format."""
    digests, sizes, n_unrecognised, begin = np.empty((n, 32), np.uint8), np.empty(n, np.int64), 0, 0
    for number, part in enumerate(read_archives(work, plan, ("digest", "size", "unrecognised"))):
        end = begin + len(part["size"])
        try:
            digests[begin:end], sizes[begin:end] = part["digest"], part["size"]
        except ValueError:
            raise damaged(work.folder, work.result(number)) from None
        n_unrecognised += int(part["unrecognised"].sum())
        begin = end
    return digests, sizes, n_unrecognised


def _shard_ends(plan: ConversionPlan, sizes: npt.NDArray[np.int64]) -> Iterator[int]:
    """Yield for each shard the index after its last image.

    Shards end where the format's writer would end them. Class folders have no shards, so a part has `PER_PART` images.
    """
    sharded = plan.to in SHARDED
    most = plan.shard_images if sharded else PER_PART
    n_in_shard = n_bytes = 0
    for k, size in enumerate(sizes.tolist(), 1):
        n_in_shard, n_bytes = n_in_shard + 1, n_bytes + size
        if n_in_shard >= most or (sharded and n_bytes >= plan.shard_bytes) or k == len(sizes):
            yield k
            n_in_shard = n_bytes = 0


def _move(apart: Path, out: Path) -> None:
    """Move the files of a shard, except `names.txt`, to their final places. Existing files have the same content."""
    for path in sorted(apart.rglob("*")):
        target = out / path.relative_to(apart)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        elif path.name != NAMES_FILE:
            os.replace(path, target)
    sync_folder(out)


@lru_cache(maxsize=1)  # a worker computes many parts
def _open(paths: tuple[str, ...], to: str) -> tuple[LabelledImages, ConversionPlan]:
    images = open_dataset(paths)
    return images, ConversionPlan.of(images, to, 1, 1, "")
