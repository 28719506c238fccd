"""How many of MTCNN's confident faces YuNet finds on group photos, by size, and which faces its second look drops.

Of the faces of at least 20 px (longer side) that MTCNN finds with a score of at least 0.95, those count as found that
overlap a face of YuNet by more than 0.4 (IoU); each face of YuNet counts once. Both detectors use their defaults. False faces of
MTCNN count too, so 1 cannot be reached.

YuNet checks uncertain faces a second time. On groups, photos and LFW view 1, the script counts how many of these it
drops: of those that MTCNN has found too (IoU above 0.25, any score), and of those that it has not.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np

import facespace
from facespace.detection import yunet as module
from facespace.detection.protocol import Detector
from facespace.faces.face import Box, overlaps

SIZES = (20, 32, 48, 64, 128, 10_000)
SURE, LEAST, OVERLAP = 0.95, 20, 0.4
SURE_AT_ONCE = module._CERTAIN


def matched(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return which of the expected boxes (N,4) match a found one (M,4); each matches once, the largest overlaps first."""
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


def second_look(data: Path, mtcnn: Detector, yunet: Detector) -> None:
    photos = [path for folder in ("groups", "photos", "lfw_view1/images") for path in (data / folder).rglob("*.jpg")]
    left_out: dict[bool, list[bool]] = {True: [], False: []}
    for path in sorted(photos):
        image = facespace.read(path)
        with mock.patch.object(module, "_CERTAIN", 0.0):
            unsure = [face.box for face in yunet.detect(image) if face.score < SURE_AT_ONCE]
        if unsure:
            kept, others = ([face.box for face in one.detect(image)] for one in (yunet, mtcnn))
            for box in unsure:
                left_out[overlap(box, others) > 0.25].append(overlap(box, kept) < 0.99)
    print(f"second look at unsure faces of {len(photos)} photos, left out:")
    for found, which in ((True, "found by MTCNN too"), (False, "not found by MTCNN")):
        print(f"  {which} {sum(left_out[found]):4} of {len(left_out[found])}", flush=True)


def overlap(box: Box, others: Sequence[Box]) -> float:
    """The largest IoU with one of the others."""
    return float(overlaps(np.array([box]), np.array(others).reshape(-1, 4)).max(initial=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    args = parser.parse_args()
    mtcnn, yunet = facespace.create_detector("mtcnn"), facespace.create_detector("yunet")
    second_look(args.shared / "data", mtcnn, yunet)
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
