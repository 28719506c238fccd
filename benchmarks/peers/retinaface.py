# /// script
# dependencies = ["insightface", "onnxruntime", "opencv-python-headless", "numpy"]
# [tool.bench]
# title = "RetinaFace"
# models = true
# ///
"""RetinaFace from insightface: PEER_MODELS/retinaface.onnx, any of its detectors exported with nine outputs."""

import os
from importlib import metadata
from pathlib import Path

import cv2
from insightface import model_zoo


class Peer:
    def __init__(self):
        self.versions = {name: metadata.version(name) for name in ("insightface", "onnxruntime")}
        path = Path(os.environ["PEER_MODELS"], "retinaface.onnx")
        self.detector = model_zoo.get_model(str(path), providers=["CPUExecutionProvider"])
        self.detector.prepare(ctx_id=-1, input_size=(640, 640), det_thresh=0.5)

    def read(self, path):
        return cv2.imread(path)

    def size(self, photo):
        return photo.shape[1], photo.shape[0]

    def detect(self, photo):
        return [tuple(map(float, row[:4])) for row in self.detector.detect(photo)[0]]
