"""Photos a second that facenet-pytorch names, from the file to the name: one JSON line. Run with the peers' python.

usage: peer_album.py PEOPLE IMAGE...    Each photo is decoded, its faces found and cut out by one call of MTCNN, embedded in one
batch (random weights: same arithmetic) and compared with PEOPLE invented templates.
"""

import json
import sys
import time

import torch
from facenet_pytorch import MTCNN, InceptionResnetV1
from PIL import Image


def main() -> None:
    n_people, paths = int(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(2)
    mtcnn = MTCNN(image_size=160, keep_all=True, min_face_size=20, thresholds=[0.6, 0.7, 0.7])
    net = InceptionResnetV1().eval()
    templates = torch.nn.functional.normalize(torch.randn(n_people, 512))
    n_faces, start = 0, 0.0
    for part in (paths[:8], paths):  # the first warms up
        n_faces, start = 0, time.perf_counter()
        for path in part:
            crops = mtcnn(Image.open(path).convert("RGB"))
            if crops is not None:
                best = (net(crops) @ templates.T).max(dim=1)
                n_faces += len(best.indices.tolist())
    print(json.dumps({"photos_per_s": len(paths) / (time.perf_counter() - start), "faces": n_faces}))


if __name__ == "__main__":
    with torch.inference_mode():
        main()
