"""Tests which face of a photo is enrolled and why photos are left out, with generated vectors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facespace.embedding.compatibility import model_of
from facespace.embedding.embedder import Embedder
from facespace.embedding.vectors import Embeddings
from facespace.faces.face import Face
from facespace.identification.gallery import Gallery
from facespace.pipeline.enrolling import Enroller, LeftOut
from facespace.pipeline.photos import Photo

POINTS = ((20, 40), (40, 40), (30, 50), (22, 60), (38, 60))


@pytest.fixture
def gallery(tmp_path: Path, embedder: Embedder) -> Iterator[Gallery]:
    with Gallery(tmp_path / "g", embedder, create=True) as opened:
        yield opened


def photo(gallery: Gallery, *seeds: int, quality: float = 0.9, **more: Any) -> Photo:
    """Return a photo with a face for each number, side by side."""
    vectors = np.stack([np.random.default_rng(seed).standard_normal(gallery.embedder.dimension) for seed in seeds])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    embeddings = Embeddings(
        vectors.astype(np.float32), made_by="represent", model=model_of(gallery.embedder),
        quality=np.full(len(seeds), quality, np.float32),
    )  # fmt: skip
    faces = [Face((200 * k, 0, 200 * k + 100, 120), 0.9, POINTS, quality=quality) for k in range(len(seeds))]
    size = gallery.embedder.spec.size
    crops = np.stack([np.full((size, size, 3), seed % 256, np.uint8) for seed in seeds])
    return Photo("a.jpg", faces=faces, embeddings=embeddings, crops=crops, **more)


def test_one_face_is_enrolled_once(gallery):
    enroller = Enroller(gallery, keep_crops=True)
    done = enroller.add("Ada", photo(gallery, 1), metadata={"k": 1})
    assert done.new and not done.of_several and done.remarks == ()
    again = enroller.add("Ada", photo(gallery, 1))
    assert not again.new and again.digest == done.digest
    (held,) = gallery.photos("Ada")
    assert (held.source, held.metadata, held.has_crop, held.digest) == ("a.jpg", {"k": 1}, True, done.digest)


@pytest.mark.parametrize(
    ("make", "code", "text"),
    [
        (lambda gallery: Photo("a.jpg", error="no image"), "unreadable_image", "no image"),
        (lambda gallery: Photo("a.jpg"), "no_face", "no face found"),
        (lambda gallery: photo(gallery, 1, 2), "several_faces", "2 faces, one expected"),
        (lambda gallery: photo(gallery, 1, quality=0.1), "poor_quality", "too blurred or dark (quality 0.10)"),
    ],
)
def test_what_is_left_out(gallery, make, code, text):
    with pytest.raises(LeftOut) as left:
        Enroller(gallery).add("Ada", make(gallery))
    assert (left.value.code, left.value.text) == (code, text) and len(gallery) == 0


def test_the_face_most_like_the_persons_others_is_enrolled(gallery):
    enroller = Enroller(gallery)
    enroller.add("Ada", photo(gallery, 1))
    group = photo(gallery, 5, 1)
    group.crops[1] += 1  # another photo of the same face
    done = enroller.add("Ada", group)
    assert done.new and done.of_several and done.face == group.faces[1]
    assert [remark.code for remark in done.remarks] == ["of_several"]
    with pytest.raises(LeftOut) as left:
        enroller.add("Ada", photo(gallery, 7, 8))
    assert left.value.code == "several_faces" and "none like Ada's other photos" in left.value.text


def test_another_persons_photo(gallery):
    Enroller(gallery).add("Ada", photo(gallery, 1))
    done = Enroller(gallery).add("Bob", photo(gallery, 1))
    assert [remark.code for remark in done.remarks] == ["same_photo"] and "enrolled as Ada" in done.remarks[0].text
    other = photo(gallery, 1)
    other.crops[0] += 1
    remarks = Enroller(gallery).add("Cy", other).remarks
    assert [remark.code for remark in remarks] == ["resembles_other"] and remarks[0].text.endswith(
        "is Cy the same person?"
    )
    before = len(gallery)
    for some in (photo(gallery, 1), other):
        with pytest.raises(LeftOut) as left:
            Enroller(gallery, refuse_others=True).add("Eve", some)
        assert left.value.code == "other_person"
    assert len(gallery) == before


def test_a_rejected_photo_is_left_out(gallery):
    enroller = Enroller(gallery)
    for seed in (1, 2):
        enroller.add("Ada", photo(gallery, seed))
    gallery.reject("Ada", [gallery.photos("Ada")[1].id])
    with pytest.raises(LeftOut, match="does not show Ada") as left:
        enroller.add("Ada", photo(gallery, 2))
    assert left.value.code == "other_person"


def test_poor_and_unlike(gallery):
    enroller = Enroller(gallery, any_quality=True)
    enroller.add("Ada", photo(gallery, 1))
    done = enroller.add("Ada", photo(gallery, 2, quality=0.1))
    assert [remark.code for remark in done.remarks] == ["low_quality", "unlike_others"]
