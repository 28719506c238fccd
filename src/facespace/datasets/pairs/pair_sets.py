"""Pairs with their photos, from the files people have them in: LFW's lists, CSV, insightface's `.bin`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from facespace.datasets.pairs.insightface_bin import as_pairs, read_bin
from facespace.datasets.pairs.lists import PairList, find_photos, read_csv_pairs, read_lfw_pairs
from facespace.errors import DatasetError
from facespace.faces.crops import CropRecord, aligned_record
from facespace.faces.input_spec import InputSpec
from facespace.io import image
from facespace.io.text import plain_text


@dataclass(frozen=True, slots=True)
class PairSet:
    """A list of pairs with its photos: `files` (N) are paths or encoded bytes, None where one is missing.

    `crops` says how they were aligned, None for whole photos. `name` is how reports call the list.
    """

    name: str
    pairs: PairList
    files: Sequence[Path | bytes | None]
    crops: CropRecord | None = None


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
