# /// script
# dependencies = ["{repository}"]
# [tool.bench]
# title = "facespace"
# project = true
# advice = "its default error rates"
# ///
"""This project with its default model: YuNet and SFace."""

import atexit
import tempfile
from pathlib import Path

import numpy as np

import facespace
from facespace._version import __version__


class Peer:
    model = "sface"

    def __init__(self):
        self.analyzer = facespace.FaceAnalyzer(self.model)
        self.detector, self.embedder = self.analyzer.detector, self.analyzer.embedder
        self.versions = {
            "facespace": __version__,
            "detector": f"{self.embedder.detector}, {self.detector.runtime}",
            "embedder": f"{self.model}, {self.embedder.runtime} {self.embedder.precision}",
        }
        self.folder = tempfile.TemporaryDirectory()
        atexit.register(self.folder.cleanup)
        self.training = None

    def read(self, path):
        return facespace.read(path)

    def size(self, photo):
        return photo.shape[1], photo.shape[0]

    def detect(self, photo):
        return [face.box for face in self.detector.detect(photo)]

    def detect_many(self, photos):
        return [[face.box for face in faces] for faces in self.detector.detect_many(photos)]

    def crops(self, n):
        size = self.embedder.spec.size
        return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), np.uint8)

    def embed(self, crops):
        return self.embedder.embed(crops)

    def represent(self, photo):
        return [(tuple(map(float, face.box)), face) for face in self.analyzer(photo)]

    def verdict(self, a, b):
        verdict = self.analyzer.verify(a, b)
        return verdict.similarity, verdict.same

    def enroll(self, people):
        self.gallery = facespace.Gallery(Path(self.folder.name, "people.gallery"), self.embedder, create=True)
        for name, path in people.items():
            self.analyzer.enroll(self.gallery, name, path, largest=True, any_quality=True)
        return len(self.gallery)

    def identify(self, paths):
        results = []
        for photo in facespace.process(paths, self.detector, self.embedder, keep_pixels=True):
            matches = self.gallery.identify(photo.embeddings, one_photo=True) if photo.faces else []
            named = [(face.box, match.name) for face, match in zip(photo.faces, matches, strict=True)]
            results.append((named, self.size(photo.pixels)))
        return results

    def train_step(self, n):
        """The network, losses and optimiser of the recipe facenet-casia-2017, softmax with center loss and RMSProp."""
        import torch

        from facespace.backbones import create
        from facespace.training import optimizers, setup
        from facespace.training.losses.loss import create as create_loss
        from facespace.training.step import losses_of

        if self.training is None:
            setup.keep_freed_memory()
            torch.manual_seed(0)
            network = create("inception-resnet-v1", dimension=512).train().to(memory_format=torch.channels_last)
            terms = {name: create_loss(name, dimension=512, n_classes=130) for name in ("softmax", "center")}
            parameters = [*network.parameters(), *(p for term in terms.values() for p in term.parameters())]
            optimizer = optimizers.create("rmsprop", [{"params": parameters, "weight_decay": 5e-5, "lr": 0.05}])
            images = torch.randn(n, 3, 160, 160).contiguous(memory_format=torch.channels_last)
            self.training = network, terms, optimizer, images, torch.arange(n) % 130
        network, terms, optimizer, images, labels = self.training
        optimizer.zero_grad(set_to_none=True)
        loss, _ = losses_of(network, terms, {"softmax": 1.0, "center": 1e-2}, images, labels, torch.float32)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    def index(self, path):
        from facespace.identification.people_index import PeopleIndex, Rows

        vectors = np.load(path, mmap_mode="r")

        def batches():
            for start in range(0, len(vectors), 4096):
                part = np.asarray(vectors[start : start + 4096])
                ids = np.arange(start, start + len(part))
                yield Rows(ids, part, np.ones(len(part), np.int32), np.full(len(part), 0.5, np.float32))

        self.people = PeopleIndex.build(vectors.shape[1], batches())

    def search(self, path):
        return self.people.nearest(np.load(path), 1).people[:, 0]
