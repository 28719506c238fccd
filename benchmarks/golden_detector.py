"""MTCNN compared with the 2018 program's golden boxes: matched faces, IoU, landmark distances, extra faces."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from facespace.detection.mtcnn.detector import MTCNN


def iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    shared = parser.parse_args().shared
    golden = json.loads((shared / "golden/mtcnn.json").read_text())["images"]
    detector = MTCNN()
    images = [np.asarray(Image.open(shared / entry["image"]).convert("RGB")) for entry in golden]
    found = detector.detect_many(images)

    n_golden = n_sure = n_matched = n_extra = n_found = 0
    overlaps, distances, score_errors = [], [], []
    for entry, faces in zip(golden, found, strict=True):
        used = set()
        n_found += len(faces)
        for face in entry["faces"]:
            n_golden += 1
            best = max(range(len(faces)), key=lambda k: iou(list(faces[k].box), face["box"]), default=None)
            overlap = iou(list(faces[best].box), face["box"]) if best is not None else 0.0
            points = np.abs(np.subtract(faces[best].landmarks, face["landmarks"])) if best is not None else np.inf
            if overlap >= 0.5:
                used.add(best)
            if face["score"] >= 0.9:
                n_sure += 1
                matched = overlap >= 0.95 and np.hypot(*points.T).max() <= 2
                n_matched += matched
                overlaps.append(overlap)
                distances.extend(np.hypot(*points.T))
                score_errors.append(abs(faces[best].score - face["score"]))
                if not matched:
                    print(f"missed: {entry['image']} {face['box']} {face['score']} IoU {overlap:.3f}")
        for k, face in enumerate(faces):
            if k not in used and face.score >= 0.95:
                n_extra += 1
                print(f"extra: {entry['image']} {face.box} {face.score:.3f}")
    print(f"runtime                             {detector.runtime}")
    print(f"images / golden faces / ours        {len(golden)} / {n_golden} / {n_found}")
    print(f"golden faces with score >= 0.9      {n_sure}")
    print(f"found, IoU >= 0.95, marks <= 2 px   {n_matched}")
    print(f"extra faces with score >= 0.95      {n_extra}")
    print(f"IoU min / median                    {min(overlaps):.4f} / {np.median(overlaps):.4f}")
    print(
        f"landmark px median / p99 / max      {np.median(distances):.3f} / {np.quantile(distances, 0.99):.3f} / {max(distances):.3f}"
    )
    print(f"score difference max                {max(score_errors):.5f}")


if __name__ == "__main__":
    main()
