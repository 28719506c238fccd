# /// script
# dependencies = ["insightface", "onnxruntime", "opencv-python-headless", "numpy"]
# [tool.bench]
# title = "insightface buffalo_l"
# models = true
# advice = "none in its documentation"
# ///
"""insightface's pack buffalo_l (SCRFD-10GF and a ResNet-50 with ArcFace): PEER_MODELS/models/buffalo_l/*.onnx."""

import os
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
from insightface.app import FaceAnalysis


class Peer:
    def __init__(self):
        self.versions = {name: metadata.version(name) for name in ("insightface", "onnxruntime")}
        folder = Path(os.environ["PEER_MODELS"], "models/buffalo_l")
        if not list(folder.glob("*.onnx")):  # it would be downloaded
            raise FileNotFoundError(f"{folder} must have the pack's ONNX files")
        self.app = FaceAnalysis(
            name="buffalo_l",
            root=os.environ["PEER_MODELS"],
            allowed_modules=["detection", "recognition"],
            providers=["CPUExecutionProvider"],
        )
        self.app.prepare(ctx_id=-1, det_size=(640, 640))  # as in its examples: photos of all sizes are made so small
        self.recognizer = self.app.models["recognition"]

    def read(self, path):
        return cv2.imread(path)

    def size(self, photo):
        return photo.shape[1], photo.shape[0]

    def detect(self, photo):
        return [tuple(map(float, row[:4])) for row in self.app.det_model.detect(photo)[0]]

    def crops(self, n):
        return list(np.random.default_rng(0).integers(0, 256, (n, 112, 112, 3), np.uint8))

    def embed(self, crops):
        return self.recognizer.get_feat(crops)

    def represent(self, photo):
        return [(tuple(map(float, face.bbox)), face.normed_embedding) for face in self.app.get(photo)]

    def verdict(self, a, b):
        return float(a @ b), None
