"""Crop boxes on LFW view 1 compared with the 2018 aligner's (160 px, crop margin 32): share within one pixel per side."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import facespace
from facespace.faces.alignment import crop_box


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    shared = parser.parse_args().shared
    golden = {}
    for line in (shared / "golden/lfw_view1_boxes_160_32.txt").read_text().splitlines():
        name, *box = line.split()
        golden[name] = [int(value) for value in box]

    root = shared / "data/lfw_view1/images"
    paths = [str(root / name) for name in golden]
    detector = facespace.MTCNN()
    errors, disagree = [], []
    for (name, box), photo in zip(golden.items(), facespace.process(paths, detector, keep_pixels=True), strict=True):
        if photo.pixels is None or bool(photo.faces) != bool(box):
            disagree.append(name)
        elif box:
            height, width = photo.pixels.shape[:2]
            ours = crop_box(facespace.faces.face.central_face(photo.faces, width, height).box, width, height, 32)
            errors.append(np.abs(np.subtract(ours, box)).max())
    errors = np.array(errors)
    print(f"runtime                       {detector.runtime}")
    print(f"photos / golden faces         {len(golden)} / {sum(bool(box) for box in golden.values())}")
    print(f"found in one, not in other    {len(disagree)} {disagree}")
    print(f"identical boxes               {(errors == 0).mean():.4%}")
    print(f"within 1 px on every side     {(errors <= 1).mean():.4%}")
    print(f"largest difference            {errors.max()} px; {(errors > 1).sum()} boxes beyond 1 px")


if __name__ == "__main__":
    main()
