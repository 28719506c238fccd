"""Time OpenCV's FaceDetectorYN on images in memory: prints one JSON line. Run with the Python of the peer.

usage: peer_yunet.py MODEL IMAGES.npz [--rounds 3]. Each image is RGB and already has the size at which facespace searches
it; OpenCV gets it as BGR. One call per image, all cores; the detector gets a new size when the size changes, as its
interface requires. `faces` counts its faces with a score of at least 0.6, with its own non-maximum suppression at 0.3.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import cv2
import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("images")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with np.load(args.images) as stored:
        images = [np.ascontiguousarray(stored[name][..., ::-1]) for name in stored.files]
    detector = cv2.FaceDetectorYN.create(args.model, "", (32, 32), 0.6, 0.3, 5000)

    def detect() -> int:
        faces, size = 0, (0, 0)
        for image in images:
            if image.shape[1::-1] != size:
                size = image.shape[1::-1]
                detector.setInputSize(size)
            found = detector.detect(image)[1]
            faces += 0 if found is None else len(found)
        return faces

    n_faces = detect()
    wall, processor = [], []
    for _ in range(args.rounds):
        start, start_processor = time.perf_counter(), time.process_time()
        detect()
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_processor)
    answer = {"images": len(images), "faces": n_faces, "version": cv2.__version__, "threads": cv2.getNumThreads()}
    answer |= {"seconds": statistics.median(wall), "cpu_seconds": statistics.median(processor)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
