"""How many of MTCNN's sure faces YuNet finds on photos of groups, by size.

Of the faces of 20 px and more (longer side) that MTCNN finds with a score of 0.95 and more, those count as found that
overlap a face of YuNet by more than 0.4 (IoU), each face of YuNet for one of them. Both detectors at their defaults. What
MTCNN takes for a face by mistake counts too, so 1 is not to be had.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np

import facespace
from facespace.faces.face import overlaps

SIZES = (20, 32, 48, 64, 128, 10_000)
SURE, LEAST, OVERLAP = 0.95, 20, 0.4


def matched(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Which of the wanted boxes (N,4) have a found one (M,4) of their own, the largest overlaps first."""
    has = np.zeros(len(wanted), bool)
    if not len(wanted) or not len(found):
        return has
    common = overlaps(wanted, found)
    taken = np.zeros(len(found), bool)
    for flat in np.argsort(-common, axis=None, kind="stable"):
        i, j = divmod(int(flat), len(found))
        if common[i, j] <= OVERLAP:
            break
        if not has[i] and not taken[j]:
            has[i] = taken[j] = True
    return has


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    args = parser.parse_args()
    mtcnn, yunet = facespace.create_detector("mtcnn"), facespace.create_detector("yunet")
    for folder in ("groups", "photos"):
        sides, hits, missed, n_yunet = [], [], [], 0
        for path in sorted((args.shared / "data" / folder).glob("*.jpg")):
            image = facespace.read(path)
            faces = [f for f in mtcnn.detect(image) if f.score >= SURE and max(f.width, f.height) >= LEAST]
            found = yunet.detect(image)
            n_yunet += len(found)
            wanted = np.array([face.box for face in faces]).reshape(-1, 4)
            has = matched(wanted, np.array([face.box for face in found]).reshape(-1, 4))
            sides += (wanted[:, 2:] - wanted[:, :2]).max(axis=1, initial=0).tolist()
            hits += has.tolist()
            missed += [(path.name, face) for face, hit in zip(faces, has, strict=True) if not hit]
        side, hit = np.array(sides), np.array(hits)
        print(f"data/{folder}: {hit.sum()} of {len(hit)} found, {hit.mean():.4f}; YuNet has {n_yunet} faces in all")
        for low, high in itertools.pairwise(SIZES):
            here = (side >= low) & (side < high)
            if here.any():
                label = f"{low} to {high} px" if high < SIZES[-1] else f"{low} px and more"
                print(f"  {label:20}{hit[here].sum():5} of {here.sum():4}  {hit[here].mean():.4f}")
        for name, face in missed:
            print(f"  not found: {name} {[round(value) for value in face.box]} score {face.score:.3f}", flush=True)


if __name__ == "__main__":
    main()
