"""Reads pairs together with their photos: from LFW's lists, CSV files or insightface's `.bin` files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from facespace.datasets.pairs.insightface_bin import as_pairs, read_bin
from facespace.datasets.pairs.lists import PairList, find_photos, read_csv_pairs, read_lfw_pairs
from facespace.errors import DatasetError
from facespace.faces.crops import CropRecord, aligned_record
from facespace.faces.input_spec import InputSpec
from facespace.io import image
from facespace.io.text import plain_text


@dataclass(frozen=True, slots=True)
class PairSet:
    """A list of pairs with its N photos: each of `files` is a path, the encoded bytes, or None if the photo is missing.

    `crops` records how crops were aligned; it is None if the photos are whole. `name` identifies the list in reports.
    """

    name: str
    pairs: PairList
    files: Sequence[Path | bytes | None]
    crops: CropRecord | None = None


@dataclass(frozen=True, slots=True)
class PairSource:
    """The source of a `PairSet`: `path`, a list or `.bin` file; for a list also `root`, the folder of its images."""

    path: Path
    kind: Literal["lfw", "csv", "bin"]
    root: Path | None = None
    aligned: bool = False

    @classmethod
    def of(cls, path: Path, root: Path | None, aligned: bool) -> PairSource:
        """Return the source for a file. The ending gives the kind: `.csv`, `.bin`, or LFW for any other.

        >>> PairSource.of(Path("pairs.csv"), Path("photos"), aligned=False).kind
        'csv'
        """
        kinds: dict[str, Literal["csv", "bin"]] = {".csv": "csv", ".bin": "bin"}
        return cls(path, kinds.get(path.suffix.lower(), "lfw"), root, aligned)

    def absolute(self) -> PairSource:
        """Return the same source with absolute paths."""
        return replace(self, path=self.path.absolute(), root=None if self.root is None else self.root.absolute())

    def read(self, spec: InputSpec) -> PairSet:
        """Read the pairs and their photos for a model with the input `spec`; raises `DatasetError` if that fails."""
        if self.kind == "bin":
            return binary_pairs(self.path)
        if self.root is None:
            raise DatasetError(
                f"{plain_text(self.path.name)}: a list of pairs needs a folder of photos; only a .bin needs no folder"
            )
        pairs = read_csv_pairs(self.path) if self.kind == "csv" else read_lfw_pairs(self.path)
        return listed_pairs(self.path, pairs, self.root, self.aligned, spec)


def listed_pairs(path: Path, pairs: PairList, root: Path, aligned: bool, spec: InputSpec) -> PairSet:
    """Return the pairs of the list that was read from `path`, with their photos, which are below the folder `root`.

    If `aligned`, the photos are already crops for a model with the input `spec`.
    """
    if not root.is_dir():
        raise DatasetError(f"{plain_text(str(root))}: no such folder of images")
    files = find_photos(pairs, root)
    sample = next((file for file in files if file is not None), None)
    return PairSet(path.name, pairs, files, aligned_record(root, spec, sample) if aligned else None)


def binary_pairs(path: Path) -> PairSet:
    """Read the pairs of a `.bin` file."""
    pairs, images = as_pairs(read_bin(path))
    return PairSet(path.name, pairs, images, CropRecord(image.read(images[0]).shape[0], 0, "arcface"))


def read_pair_set(path: Path, root: Path | None, aligned: bool, spec: InputSpec) -> PairSet:
    """Read a list of pairs or a `.bin` file. A list needs `root`, its folder of photos, or of crops if `aligned`."""
    return PairSource.of(path, root, aligned).read(spec)
