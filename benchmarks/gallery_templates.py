"""Mean or best of a person's photos: which names people better on the album, with six photos per person, with three and with one.

Every person is enrolled into a gallery file with the first photos; the other photos of known people and all of strangers are
probes, at the default rate and at others. At equal rates the two differ in how many strangers they name. So the table below gives
the known people named correctly at the same share of strangers named, for which the threshold is adjusted.
Intervals (95 %) of the difference are bootstraps over people.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

import facespace
from facespace.defaults import DEFAULT_MODEL, DEFAULT_RATE
from gallery_float16 import fill, split
from gallery_strangers import Faces, real_faces

PHOTOS = (6, 3, 1)
STRANGERS = (0.0, 0.01, 0.02, 0.05)


class Found(NamedTuple):
    """Of each face: how far its best person is above the threshold, and whether that is the right one."""

    margin: np.ndarray
    right: np.ndarray


def found(album: Faces, n_photos: int, templates: str, model: facespace.Embedder) -> tuple[Found, np.ndarray]:
    enrolled, looked_for = split(album)
    few = {name: rows[:n_photos] for name, rows in enrolled.items()}
    with tempfile.TemporaryDirectory() as folder, facespace.Gallery(Path(folder, "g"), model, create=True) as gallery:
        gallery.set_templates(templates)
        fill(gallery, album, few, model)
        matches = gallery.identify(album.vectors[looked_for], rate=DEFAULT_RATE)
    margin = np.array([match.similarity - match.threshold for match in matches])
    right = np.array([match.nearest == name for match, name in zip(matches, album.people[looked_for], strict=True)])
    return Found(margin, right), album.people[looked_for].astype(str)


def named_right(result: Found, known: np.ndarray, share: float) -> np.ndarray:
    """Which known faces (N,) are named right where at most that share of strangers is named."""
    strangers = np.sort(result.margin[~known])[::-1]
    least = strangers[int(share * len(strangers))]
    return ((result.margin > least) & result.right)[known]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--model", nargs="+", default=[DEFAULT_MODEL])
    parser.add_argument("--cache", type=Path, help="folder in which embeddings of the photos are stored between runs")
    args = parser.parse_args()
    for name in args.model:
        _, album, told = real_faces(args.shared, name, args.cache)
        model = facespace.Embedder.load(name)
        print(told)
        print(f"{'known named right':<44}{'mean':>8}{'best':>8}{'mean - best':>13}   95 %")
        for n_photos in PHOTOS:
            (mean, people), (best, _) = (found(album, n_photos, how, model) for how in ("mean", "best"))
            known = np.char.startswith(people, "known")
            for share in (None, *STRANGERS):
                if share is None:
                    what = f"{n_photos} photos, default rate"
                    one, other = (((part.margin >= 0) & part.right)[known] for part in (mean, best))
                    named = [float((part.margin >= 0)[~known].mean()) for part in (mean, best)]
                    what += f" (strangers {named[0]:.3f}, {named[1]:.3f})"
                else:
                    what = f"{n_photos} photos, {share:.0%} of strangers named"
                    one, other = named_right(mean, known, share), named_right(best, known, share)
                low, high = difference(one.astype(float) - other, people[known])
                print(f"{what:<44}{one.mean():>8.4f}{other.mean():>8.4f}{one.mean() - other.mean():>13.4f}   [{low:.4f}, {high:.4f}]")  # fmt: skip


def difference(values: np.ndarray, people: np.ndarray) -> tuple[float, float]:
    codes = np.unique(people, return_inverse=True)[1]
    sums, counts = np.bincount(codes, weights=values), np.bincount(codes)
    draws = np.random.default_rng(0).integers(0, len(counts), (5000, len(counts)))
    low, high = np.quantile(sums[draws].sum(axis=1) / counts[draws].sum(axis=1), (0.025, 0.975))
    return float(low), float(high)


if __name__ == "__main__":
    main()
