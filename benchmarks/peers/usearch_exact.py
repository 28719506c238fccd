# /// script
# dependencies = ["usearch", "numpy"]
# [tool.bench]
# title = "usearch exact"
# ///
"""usearch, comparing with everybody: `search(..., exact=True)`, float16."""

import os
from importlib import metadata

import numpy as np
from usearch.index import MetricKind, search


class Peer:
    def __init__(self):
        self.versions = {"usearch": metadata.version("usearch")}
        self.threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

    def index(self, path):
        self.vectors = np.load(path)

    def search(self, path):
        probes = np.load(path).astype(np.float16)
        return search(self.vectors, probes, 1, MetricKind.IP, exact=True, threads=self.threads).keys.reshape(-1)
