"""The old trainers' flags for LFW, as keys of a recipe that is verified after every epoch."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.cli.legacy import lfw
from facespace.cli.shared.output import say
from facespace.datasets.pairs.lists import PairList, find_photos, read_lfw_pairs
from facespace.errors import RecipeError
from facespace.faces.crops import read_record
from facespace.io import image
from facespace.io.files import atomic_path
from facespace.io.text import plain_text


def keys_of(arguments: argparse.Namespace, own_list: Path) -> dict[str, Any]:
    """Return the recipe's keys for verification on LFW.

    If a photo is missing, or `--lfw_nrof_folds` splits the list into other folds than its own, the pairs to measure are
    written to `own_list`, and the recipe uses that list.
    Raises `RecipeError` if the folder contains none of the photos.
    """
    root, path = lfw.checked_folder(arguments.lfw_dir), lfw.pairs_path(arguments.lfw_pairs)
    pairs = lfw.read_pairs(path, arguments.lfw_nrof_folds)
    files = find_photos(pairs, root)
    sample = next((file for file in files if file is not None), None)
    if sample is None:
        raise RecipeError(f"--lfw_dir: {plain_text(str(root))} contains none of the photos of {path.name}")
    size = arguments.image_size
    aligned = read_record(root) is not None or image.read(sample).shape[:2] == (size, size)
    if not aligned:
        say(f"{root}: images are not crops of {size} px; faces are detected and cropped once, before training")
    there = np.array([file is not None for file in files])
    kept = even_folds(pairs.fold, pairs.same, there[pairs.first] & there[pairs.second])
    n_out = int((~kept).sum())
    if n_out or _fold(pairs) != _fold(read_lfw_pairs(path)):
        own_list.parent.mkdir(parents=True, exist_ok=True)
        write_list(own_list, pairs, kept)
        path = own_list
    if n_out:
        say(
            f"LFW: {n_out} of {len(kept)} pairs are left out, because a photo is missing or to keep the folds even; the "
            f"others are listed in {own_list}"
        )
    return {
        "verify_lfw": str(root),
        "verify_pairs": str(path),
        "verify_aligned": aligned,
        "verify_distance": lfw.distance_name(getattr(arguments, "lfw_distance_metric", 0)),
        "verify_flip": "concat" if getattr(arguments, "lfw_use_flipped_images", False) else "none",
        "verify_subtract_mean": getattr(arguments, "lfw_subtract_mean", False),
    }


def _fold(pairs: PairList) -> list[int]:
    return [] if pairs.fold is None else pairs.fold.tolist()


def even_folds(
    fold: npt.NDArray[np.int64] | None, same: npt.NDArray[np.bool_], usable: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Return a mask (P,) of the `usable` pairs (P,) to keep, so that all folds have about equally many.

    Same-person and different-person pairs are counted separately. For each, the numbers in two folds may differ by one;
    if they differ by more, every fold keeps only as many as the smallest has.

    >>> even_folds(np.array([1, 1, 1, 2]), np.array([True] * 4), np.array([True] * 4)).tolist()
    [True, False, False, True]
    """
    kept: npt.NDArray[np.bool_] = usable.copy()
    if fold is None:
        return kept
    for kind in (same, ~same):
        groups = [np.flatnonzero((fold == number) & kind & usable) for number in np.unique(fold)]
        sizes = [len(group) for group in groups]
        if max(sizes) - min(sizes) > 1:
            for group in groups:
                kept[group[min(sizes) :]] = False
    return kept


def write_list(path: Path, pairs: PairList, kept: npt.NDArray[np.bool_]) -> None:
    """Write the pairs that are kept as a CSV table for recipes and `verify pairs`."""
    columns: dict[str, list[Any]] = {
        "a": [pairs.photos[k] for k in pairs.first],
        "b": [pairs.photos[k] for k in pairs.second],
        "same": pairs.same.astype(int).tolist(),
    }
    if pairs.fold is not None:
        columns["fold"] = pairs.fold.tolist()
    if pairs.people is not None:
        columns["person_a"] = [pairs.people[k] for k in pairs.first]
        columns["person_b"] = [pairs.people[k] for k in pairs.second]
    with atomic_path(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(columns)
        writer.writerows(row for row, keep in zip(zip(*columns.values(), strict=True), kept, strict=True) if keep)
