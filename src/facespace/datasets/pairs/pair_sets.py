"""Pairs with their photos, from the files people have them in: LFW's lists, CSV, insightface's `.bin`."""

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
    """A list of pairs with its photos: `files` (N) are paths or encoded bytes, None where one is missing.

    `crops` says how they were aligned, None for whole photos. `name` is how reports call the list.
    """

    name: str
    pairs: PairList
    files: Sequence[Path | bytes | None]
    crops: CropRecord | None = None


@dataclass(frozen=True, slots=True)
class PairSource:
    """Where a `PairSet` is read from: the list or `.bin` file at `path`, and the folder `root` of a list's photos or crops."""

    path: Path
    kind: Literal["lfw", "csv", "bin"]
    root: Path | None = None
    aligned: bool = False

    @classmethod
    def of(cls, path: Path, root: Path | None, aligned: bool) -> PairSource:
        """A file whose ending tells its kind.

        >>> PairSource.of(Path("pairs.csv"), Path("photos"), aligned=False).kind
        'csv'
        """
        kinds: dict[str, Literal["csv", "bin"]] = {".csv": "csv", ".bin": "bin"}
        return cls(path, kinds.get(path.suffix.lower(), "lfw"), root, aligned)

    def absolute(self) -> PairSource:
        """The same, by paths that do not depend on the working folder."""
        return replace(self, path=self.path.absolute(), root=None if self.root is None else self.root.absolute())

    def read(self, spec: InputSpec) -> PairSet:
        """The pairs and their photos, for a model that takes crops of `spec`; `DatasetError` for what cannot be read."""
        if self.kind == "bin":
            return binary_pairs(self.path)
        if self.root is None:
            raise DatasetError(
                f"{plain_text(self.path.name)}: a list of pairs wants a folder of photos; beside a .bin give a .bin"
            )
        pairs = read_csv_pairs(self.path) if self.kind == "csv" else read_lfw_pairs(self.path)
        return listed_pairs(self.path, pairs, self.root, self.aligned, spec)


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
    return PairSource.of(path, root, aligned).read(spec)
