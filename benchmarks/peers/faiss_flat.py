# /// script
# dependencies = ["faiss-cpu", "numpy"]
# [tool.bench]
# title = "faiss flat"
# ///
"""faiss, comparing with everybody: IndexFlatIP, float32."""

from importlib import metadata

import faiss
import numpy as np


class Peer:
    def __init__(self):
        self.versions = {"faiss-cpu": metadata.version("faiss-cpu")}

    def index(self, path):
        vectors = np.load(path, mmap_mode="r")
        self.flat = faiss.IndexFlatIP(vectors.shape[1])
        for start in range(0, len(vectors), 65536):
            self.flat.add(np.asarray(vectors[start : start + 65536], np.float32))

    def search(self, path):
        return self.flat.search(np.load(path), 1)[1][:, 0]
