"""Tests batches over several images: each image gets its own faces, crops and embeddings, and batches are bounded."""

from __future__ import annotations

import numpy as np
import pytest

from facespace.faces.alignment import align
from facespace.faces.face import Face
from facespace.faces.input_spec import InputSpec
from facespace.pipeline import face_batches
from facespace.pipeline.face_batches import find_faces, in_chunks


def face(k: int, size: int = 10) -> Face:
    x = 3.0 * k
    points = tuple((x + dx, 4.0 + dy) for dx, dy in ((2, 2), (6, 2), (4, 4), (2, 6), (6, 6)))
    return Face((x, 2.0, x + size, 2.0 + size), 0.9, points)


class Detector:
    """Finds as many faces as the first pixel says."""

    def detect_many(self, images):
        return [[face(k, 5 + k % 7) for k in range(int(image[0, 0, 0]))] for image in images]


class Embedder:
    """Embeds a crop as its mean colour, and records batch sizes."""

    spec = InputSpec(16, "box")
    dimension = 3

    def __init__(self):
        self.batches = []

    def represent(self, crops):
        self.batches.append(len(crops))
        return crops.mean(axis=(1, 2)).astype(np.float32)


def image(n_faces: int, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 400, 3), dtype=np.uint8)
    pixels[0, 0] = n_faces
    return pixels


@pytest.mark.parametrize("counts", [[], [0], [3], [2, 0, 5], [0, 0, 1], [90, 0, 71]])
def test_each_image_gets_its_own_faces(counts):
    images, embedder = [image(n, seed) for seed, n in enumerate(counts)], Embedder()
    found = find_faces(images, Detector(), embedder, keep_crops=True)
    assert [len(one.faces) for one in found] == counts
    for one, pixels in zip(found, images, strict=True):
        expected = [align(pixels, each, embedder.spec) for each in one.faces]
        assert one.crops.shape == (len(expected), 16, 16, 3) and one.embeddings.shape == (len(expected), 3)
        for crop, vector, alone in zip(one.crops, one.embeddings, expected, strict=True):
            np.testing.assert_array_equal(crop, alone)
            np.testing.assert_allclose(vector, alone.mean(axis=(0, 1)), rtol=1e-5)
    assert sum(embedder.batches) == sum(counts) and max(embedder.batches, default=0) <= face_batches._MAX_FACES


def test_the_largest_face_alone():
    (one, none) = find_faces([image(9), image(0)], Detector(), Embedder(), largest=True)
    assert [each.width for each in one.faces] == [11] and none.faces == []
    assert one.embeddings.shape == (1, 3) and none.embeddings.shape == (0, 3)


def test_results_not_requested_are_empty():
    (one,) = find_faces([image(2)], Detector(), Embedder())
    assert one.crops.shape[0] == 0 and one.embeddings.shape == (2, 3)
    (one,) = find_faces([image(2)], Detector(), None)
    assert len(one.faces) == 2 and one.crops.shape[0] == one.embeddings.shape[0] == 0


def test_chunks_are_bounded_in_number_and_pixels():
    assert [len(chunk) for chunk in in_chunks(range(40), lambda _: 1)] == [16, 16, 8]
    assert [len(chunk) for chunk in in_chunks(range(3), lambda _: 1, 1)] == [1, 1, 1]
    large = [1, 30_000_000, 1, 1]
    assert list(in_chunks(large, lambda n: n)) == [[1, 30_000_000], [1, 1]]
    assert list(in_chunks([], lambda n: n)) == []


def test_a_part_of_a_long_list_has_the_chunks_of_the_whole(monkeypatch):
    monkeypatch.setattr(face_batches, "IMAGES_IN_PART", 20)
    pixels = [1, 13_000_000, 13_000_000, 1] * 15
    whole = list(in_chunks(pixels, lambda n: n))
    parts = [chunk for start in range(0, 60, 20) for chunk in in_chunks(pixels[start : start + 20], lambda n: n)]
    assert whole == parts
    assert max(map(len, in_chunks(range(60), lambda _: 1))) == 16


def test_a_chunk_is_yielded_before_more_is_read():
    taken = iter(range(10))
    chunks = in_chunks(taken, lambda _: 1, 2)
    assert next(chunks) == [0, 1]
    assert next(taken) == 2, "nothing was read ahead"
