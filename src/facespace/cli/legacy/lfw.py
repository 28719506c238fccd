"""The old flags for LFW: a folder of crops, the list of pairs, the number of folds."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from facespace.cli.shared.output import say
from facespace.errors import DatasetError
from facespace.io.text import plain_text

if TYPE_CHECKING:
    from facespace.datasets.pairs.lists import PairList
    from facespace.datasets.pairs.pair_sets import PairSet
    from facespace.faces.crops import CropRecord
    from facespace.faces.input_spec import InputSpec

DEFAULT_PAIRS = "data/pairs.txt"
DISTANCES = ("euclidean", "angle")  # indexed by --distance_metric


def pairs_path(given: str) -> Path:
    """Return the path of the list of pairs. Raises `DatasetError` if it does not exist."""
    path = Path(given).expanduser()
    if not path.is_file():
        raise DatasetError(
            f"{plain_text(str(path))}: no such file; facespace does not include LFW's list of pairs: download pairs.txt "
            "from LFW or from data/ of FaceNet's repository, and give its path with --lfw_pairs"
        )
    return path


def read_pairs(path: Path, n_folds: int) -> PairList:
    """Read the list of pairs, in `n_folds` folds.

    If the list has no folds or a different number of them, it is split into `n_folds` contiguous folds, as the old
    programs did. If a fold would then have only pairs of the same person, or none, the result has no folds. Raises
    `DatasetError` if `n_folds` is below 2.
    """
    import numpy as np

    from facespace.datasets.pairs.lists import read_lfw_pairs

    pairs = read_lfw_pairs(path)
    if n_folds < 2:
        raise DatasetError(f"--lfw_nrof_folds must be at least 2, got {n_folds}")
    if pairs.fold is not None and pairs.fold.max() == n_folds:
        return pairs
    parts = np.array_split(np.arange(len(pairs.same)), n_folds)
    fold = np.concatenate([np.full(len(part), k, np.int64) for k, part in enumerate(parts, 1)])
    both = all(0 < pairs.same[part].sum() < len(part) for part in parts)
    if not both:
        say(
            f"{path}: some of {n_folds} folds would have pairs of one kind only; all pairs are scored at the best threshold"
        )
    return dataclasses.replace(pairs, fold=fold if both else None)


def pair_set(root: Path, path: Path, pairs: PairList, spec: InputSpec) -> PairSet:
    """Return the pairs with crops of the model's size. The first image found decides how all images are treated.

    If it is square and larger by up to a quarter, the centre of each image is used, as in the old programs. Images of
    any other size are resized if `root` has a crop record. Without one they are treated as whole photos, in which faces
    are detected later. Raises `DatasetError` if `root` has none of the photos, or crops that were aligned for another
    template.
    """
    from facespace.datasets.pairs.pair_sets import listed_pairs
    from facespace.faces.crops import fit, may_be_cut, read_record
    from facespace.io import image
    from facespace.io.png import encode_png

    found = listed_pairs(path, pairs, root, False, spec)
    sample = next((file for file in found.files if isinstance(file, Path)), None)
    if sample is None:
        raise DatasetError(
            f"{plain_text(str(root))}: contains none of the photos of {path.name}, such as NAME/NAME_0001.png"
        )
    record = read_record(root)
    height, width = image.read(sample).shape[:2]
    fits = height == width == spec.size
    if record is None and not fits and not may_be_cut(height, width, spec.size):
        say(f"{root}: photos of {width}x{height} px instead of crops of {spec.size} px; faces are detected and cropped")
        return found
    if record is not None and record.template != spec.template:
        raise DatasetError(f"{root}: {record.misfit(spec)}; align the photos for this model")
    if fits:
        misfit = record.misfit(spec) if record is not None else None
        if misfit:
            say(f"{root}: {misfit}; scored as they are")
        return dataclasses.replace(found, crops=_record_for(spec))
    say(f"{root}: crops of {width} px; {fit(image.read(sample), spec.size)[1]}")
    files = [None if file is None else encode_png(fit(image.read(file), spec.size)[0]) for file in found.files]
    return dataclasses.replace(found, files=files, crops=_record_for(spec))


def _record_for(spec: InputSpec) -> CropRecord:
    """Return the record of crops that fit a model exactly."""
    from facespace.faces.crops import CropRecord

    return CropRecord(spec.size, spec.crop_margin, spec.template)


def count_skipped(found: PairSet) -> int:
    """Return the number of pairs with a missing photo, and report some of the photos."""
    there = [file is not None for file in found.files]
    n = sum(
        not (there[a] and there[b])
        for a, b in zip(found.pairs.first.tolist(), found.pairs.second.tolist(), strict=True)
    )
    if n:
        lost = [name for name, is_there in zip(found.pairs.photos, there, strict=True) if not is_there]
        say(f"{n} of {len(found.pairs.same)} pairs are left out because a photo is missing ({_some(lost)})")
    return n


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def distance_name(metric: int) -> str:
    """Return the name of the distance with this number. Raises `DatasetError` for a number other than 0 and 1."""
    if metric not in (0, 1):
        raise DatasetError(f"the distance metric must be 0 (squared Euclidean) or 1 (angle), got {metric}")
    return DISTANCES[metric]


def checked_folder(given: str) -> Path:
    """Return the path of a folder of photos. Raises `DatasetError` if it does not exist."""
    root = Path(os.path.expanduser(given))
    if not root.is_dir():
        raise DatasetError(f"{plain_text(str(root))}: no such folder of images")
    return root
