# /// script
# dependencies = ["tensorflow-cpu", "mtcnn==1.0.0", "pillow", "numpy"]
# [tool.bench]
# title = "mtcnn (TensorFlow)"
# ///
"""The package mtcnn, with TensorFlow and its defaults."""

import os
from importlib import metadata

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from mtcnn import MTCNN
from PIL import Image


class Peer:
    def __init__(self):
        self.versions = {name: metadata.version(name) for name in ("mtcnn", "tensorflow-cpu")}
        self.detector = MTCNN()

    def read(self, path):
        return np.asarray(Image.open(path).convert("RGB"))

    def size(self, photo):
        return photo.shape[1], photo.shape[0]

    def detect(self, photo):
        return [corners(face) for face in self.detector.detect_faces(photo)]

    def detect_many(self, photos):
        return [[corners(face) for face in faces] for faces in self.detector.detect_faces(list(photos))]


def corners(face):
    x, y, width, height = face["box"]
    return x, y, x + width, y + height
