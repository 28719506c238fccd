"""Whether the rates are true on group photos. The thresholds for each photo are measured without it.

On the photos of data/groups and data/photos, without the collage bald_guys:
- pairs of different people within one photo that reach the threshold of a claimed false match rate;
- one face per photo enrolled (the largest; the median), all other faces identified alone: strangers named, and enrolled
  faces recognized in a copy of the photo at 0.8 of its size, JPEG 75;
- faces refused by `enroll` and called too small by `identify`, by size;
- the same with thresholds that ignore the quality of faces.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import itertools
from pathlib import Path

import numpy as np
from PIL import Image

import facespace
import look_alikes
from facespace.defaults import DEFAULT_MODEL, DEFAULT_RATE
from facespace.embedding.calibration import Calibration
from facespace.faces.quality import LOW_QUALITY

SHARED_BY = {
    "g15.jpg": "a painting: all faces are by one painter",
    "g8.jpg": "a dance team: young women, made up alike, in one light",
    "g5.jpg": "a marching band: teenagers, faces of 13 px",
}
# Photos of one television series: looked at by eye, a face of one that is named as a face of the other is the same man.
# He counts as a stranger all the same, and how often is printed.
ONE_PERSON = ({"g9.jpg", "g10.jpg"}, {"g9.jpg", "g13.jpg"}, {"g11.jpg", "g12.jpg"})
SIZES = (0, 20, 40, 60, 100, 10_000)


def interval(hits: np.ndarray, photo: np.ndarray) -> str:
    """A share with a 95 % interval over draws of photos."""
    names = np.unique(photo)
    per = np.array([[hits[photo == name].sum(), (photo == name).sum()] for name in names], float)
    draws = np.random.default_rng(0).integers(0, len(names), (2000, len(names)))
    shares = per[draws, 0].sum(axis=1) / per[draws, 1].sum(axis=1)
    return f"{hits.mean():.4f} ({np.quantile(shares, 0.025):.4f} to {np.quantile(shares, 0.975):.4f})"


def pair_rows(faces: look_alikes.GroupFaces, vectors: np.ndarray, tables: dict[str, Calibration]) -> None:
    first, second = look_alikes.pairs_within(faces.photo)
    photo, similarity = faces.photo[first], (vectors[first] * vectors[second]).sum(axis=1)
    quality = (faces.quality[first] + faces.quality[second]) / 2
    for rate in (1e-2, 1e-3):
        wanted = np.array(
            [tables[name].match_threshold(rate, float(q)) for name, q in zip(photo, quality, strict=True)]
        )
        reached = similarity >= wanted
        shares = {name: reached[photo == name].mean() for name in np.unique(photo) if (photo == name).sum() >= 10}
        print(
            f"  claimed {rate:g}: pooled {interval(reached, photo)} of {len(reached)} pairs; "
            f"mean over {len(shares)} photos {np.mean(list(shares.values())):.4f}"
        )
        crowded = [name for name in shares if ((faces.photo == name) & (faces.side >= 20)).sum() >= 8]
        worst = sorted(crowded, key=lambda name: -shares[name])[:3]
        print("    worst photos:", "; ".join(f"{n} {shares[n]:.4f} ({SHARED_BY.get(n, 'mixed')})" for n in worst))


def enrolled_rows(
    faces: look_alikes.GroupFaces,
    copies: look_alikes.GroupFaces,
    vectors: np.ndarray,
    copied: np.ndarray,
    tables: dict[str, Calibration],
    which: str,
) -> None:
    area = (faces.box[:, 2:] - faces.box[:, :2]).prod(axis=1)
    chosen = []
    for name in np.unique(faces.photo):
        rows = np.flatnonzero(faces.photo == name)
        if len(rows) >= 3:
            rows = rows[np.argsort(-area[rows])]
            chosen.append(rows[0] if which == "largest" else rows[len(rows) // 2])
    people = np.array(chosen)
    refused = faces.quality[people] < LOW_QUALITY
    enrolled = people[~refused]
    probes = np.flatnonzero(~np.isin(np.arange(len(faces.photo)), people))

    def thresholds(name: str, quality: np.ndarray) -> np.ndarray:
        return tables[name].identification_thresholds(
            DEFAULT_RATE,
            [1] * len(enrolled),
            qualities=faces.quality[enrolled],
            probe_qualities=quality,
        )

    def named_as(row: int) -> str:
        """The photo of the person whose name the face gets, or nothing."""
        over = vectors[row] @ vectors[enrolled].T - thresholds(faces.photo[row], faces.quality[row : row + 1])[0]
        return str(faces.photo[enrolled[over.argmax()]]) if over.max() >= 0 else ""

    names = np.array([named_as(row) for row in probes])
    strangers = names != ""
    recurring = sum({one, other} in ONE_PERSON for one, other in zip(faces.photo[probes], names, strict=True))
    again = look_alikes.same_faces(faces, copies, 0.8)
    found = []
    for row in people:
        if row not in enrolled or again[row] < 0:
            found.append(False)
            continue
        similarity = copied[again[row]] @ vectors[enrolled].T
        wanted = thresholds(faces.photo[row], copies.quality[again[row] : again[row] + 1])[0]
        best = int(similarity.argmax())
        found.append(bool(enrolled[best] == row and similarity[best] >= wanted[best]))
    large = faces.side[probes] >= 40
    print(
        f"  {which} face of {len(people)} photos enrolled ({int(refused.sum())} refused): strangers named "
        f"{interval(strangers, faces.photo[probes])} of {len(probes)}; of 40 px and more "
        f"{interval(strangers[large], faces.photo[probes][large])} of {int(large.sum())} (named rightly, as the enrolled "
        f"person is in two photos: {recurring}); found again in the copy "
        f"{np.mean(found):.4f} (missing: {', '.join(faces.photo[people[~np.array(found)]])})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--model", default=DEFAULT_MODEL)
    args = parser.parse_args()
    embedder = facespace.Embedder.load(args.model)
    detector = facespace.create_detector(embedder.detector)
    table = embedder.calibration
    assert table is not None
    paths = look_alikes.group_photos(args.shared)
    faces = look_alikes.group_faces({path.name: path for path in paths}, embedder, detector)
    copies = look_alikes.group_faces({path.name: smaller(path) for path in paths}, embedder, detector)
    vectors, copied = (look_alikes.unit(some.vectors - table.center) for some in (faces, copies))
    print(f"{embedder.name}, {embedder.detector}, {embedder.runtime} {embedder.precision}; default rates")
    print(f"{len(faces.photo)} faces of {len(np.unique(faces.photo))} photos, median {np.median(faces.side):.0f} px")
    for low, high in itertools.pairwise(SIZES):
        here = (faces.side >= low) & (faces.side < high)
        poor = (faces.quality < LOW_QUALITY)[here]
        print(f"  {low}-{high} px: {here.sum()} faces, refused or called too small {poor.mean():.4f}")
    if table.look_alikes is None:
        tables = dict.fromkeys(np.unique(faces.photo), table)
        print("no table of look-alikes: thresholds of random pairs")
    else:
        tables = {
            name: dataclasses.replace(table, look_alikes=look_alikes.look_alikes(faces, table.center, without=name))
            for name in np.unique(faces.photo)
        }
        print("thresholds measured without the photo judged")
    print("pairs of different people within one photo:")
    pair_rows(faces, vectors, tables)
    print("identification, 1 % of strangers asked for, every face alone:")
    for which in ("largest", "median"):
        enrolled_rows(faces, copies, vectors, copied, tables, which)
    if table.look_alikes is not None:
        print("the same with thresholds that do not know the quality of faces:")
        blind = {
            name: dataclasses.replace(
                table, look_alikes=look_alikes.look_alikes(faces, table.center, without=name, blind=True)
            )
            for name in np.unique(faces.photo)
        }
        pair_rows(faces, vectors, blind)
        for which in ("largest", "median"):
            enrolled_rows(faces, copies, vectors, copied, blind, which)


def smaller(path: Path) -> np.ndarray:
    """The photo at 0.8 of its size, through JPEG 75."""
    image = Image.fromarray(facespace.read(path))
    size = (round(image.width * 0.8), round(image.height * 0.8))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=75)
    return facespace.read(buffer.getvalue())


if __name__ == "__main__":
    main()
