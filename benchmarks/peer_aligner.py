"""Images a second facenet-pytorch aligns, crops written: one JSON line. Run with the python of the peers' environment.

usage: peer_aligner.py OUT IMAGE...    One photo a call, then (photos of one size) batches of 16; its own default crop.
"""

import json
import sys
import time
from pathlib import Path

import torch
from facenet_pytorch import MTCNN
from PIL import Image


def main() -> None:
    out, paths = Path(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(2)
    mtcnn = MTCNN(image_size=160, margin=32, min_face_size=20, thresholds=[0.6, 0.7, 0.7], post_process=False)
    rate = {}
    for size in (1, 16):
        for turn in range(2):  # the first warms up
            part = paths[:32] if turn == 0 else paths
            start = time.perf_counter()
            for k in range(0, len(part), size):
                photos = [Image.open(path).convert("RGB") for path in part[k : k + size]]
                crops = [str(out / f"{size}-{k + i}.png") for i in range(len(photos))]
                mtcnn(photos if size > 1 else photos[0], save_path=crops if size > 1 else crops[0])
            rate[size] = len(part) / (time.perf_counter() - start)
    print(json.dumps({"one_by_one": rate[1], "batches_of_16": rate[16]}))


if __name__ == "__main__":
    with torch.inference_mode():
        main()
