"""Pairs with their photos, from the files people have them in: LFW's lists, CSV, insightface's `.bin`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from facespace import image
from facespace.crop_record import CropRecord, read_record
from facespace.datasets.bin import as_pairs, read_bin
from facespace.datasets.pairs import PairList, find_photos, read_csv_pairs, read_lfw_pairs
from facespace.errors import DatasetError
from facespace.face import InputSpec
from facespace.text import plain_text


@dataclass(frozen=True, slots=True)
class PairSet:
    """A list of pairs with its photos: `files` (N) are paths or encoded bytes, None where one is missing.

    `crops` says how they were aligned, None for whole photos. `name` is how reports call the list.
    """

    name: str
    pairs: PairList
    files: Sequence[Path | bytes | None]
    crops: CropRecord | None = None


def aligned_record(folder: Path, spec: InputSpec, sample: Path | None) -> CropRecord:
    """How the crops of a folder were made: its `align.json`, else told by the size of a `sample` alone."""
    record = read_record(folder)
    if record is not None:
        return record
    if sample is None:
        return CropRecord(spec.size, spec.crop_margin, spec.template)
    height, width = image.read(sample).shape[:2]
    if height != width:
        raise DatasetError(f"{plain_text(str(sample))}: {width}x{height} px; aligned crops are square")
    return CropRecord(width, spec.crop_margin, spec.template)


def listed_pairs(path: Path, pairs: PairList, root: Path, aligned: bool, spec: InputSpec) -> PairSet:
    """The pairs of the list `path`, whose photos, or `aligned` crops, lie below `root`."""
    if not root.is_dir():
        raise DatasetError(f"{plain_text(str(root))}: no such folder of images")
    files = find_photos(pairs, root)
    sample = next((file for file in files if file is not None), None)
    return PairSet(path.name, pairs, files, aligned_record(root, spec, sample) if aligned else None)


def binary_pairs(path: Path) -> PairSet:
    """The pairs of a `.bin` file."""
    pairs, images = as_pairs(read_bin(path))
    return PairSet(path.name, pairs, images, CropRecord(image.read(images[0]).shape[0], 0, "arcface"))


def read_pair_set(path: Path, root: Path | None, aligned: bool, spec: InputSpec) -> PairSet:
    """A list of pairs of any kind; the photos of lists lie below `root`."""
    if path.suffix.lower() == ".bin":
        return binary_pairs(path)
    if root is None:
        raise DatasetError(
            f"{plain_text(path.name)}: a list of pairs wants a folder of photos; beside a .bin give a .bin"
        )
    pairs = read_csv_pairs(path) if path.suffix.lower() == ".csv" else read_lfw_pairs(path)
    return listed_pairs(path, pairs, root, aligned, spec)
