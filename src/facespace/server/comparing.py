"""Compares two faces, or a face and an enrolled person, and gives the error rate of the threshold."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from facespace.defaults import DEFAULT_RATE
from facespace.embedding.calibration import UNKNOWN_QUALITY
from facespace.embedding.embedder import Embedder
from facespace.faces.face import Face
from facespace.identification.gallery import Gallery
from facespace.identification.open_set import templates
from facespace.identification.stores.protocol import StoredPerson
from facespace.server.engine import AnalyzedPhoto
from facespace.server.identifying import largest_first
from facespace.server.problems import Problem


class OneFace(NamedTuple):
    """The largest face of a photo and its embedding (D,)."""

    face: Face
    embedding: npt.NDArray[np.float32]


class Comparison(NamedTuple):
    """A similarity, the threshold, and the share of pairs of different people that reach the threshold."""

    similarity: float
    threshold: float
    rate: float

    @property
    def same(self) -> bool:
        """Whether the similarity reaches the threshold."""
        return self.similarity >= self.threshold

    def entry(self) -> dict[str, Any]:
        """Return the answer's entry. The similarity is rounded so that it still agrees with `same`."""
        similarity, threshold = round(self.similarity, 4), round(self.threshold, 4)
        if self.same != (similarity >= threshold):
            similarity = threshold if self.same else round(threshold - 0.0001, 4)
        return {"same": self.same, "similarity": similarity, "threshold": threshold}


def one_face(photo: AnalyzedPhoto, where: str) -> OneFace:
    """Return the largest face. Raise `Problem` 422 if the photo cannot be read or has no face."""
    if photo.error is not None:
        raise Problem(
            422, "unreadable_image", f"{where}: {photo.error}", errors=[{"where": where, "message": photo.error}]
        )
    if not photo.faces:
        raise Problem(422, "no_face", f"{where}: no face found", errors=[{"where": where, "message": "no face found"}])
    (k,) = largest_first(photo, 1)
    return OneFace(photo.faces[k], np.asarray(photo.embeddings[k]))


def face_of(one: OneFace) -> dict[str, Any]:
    """Return the answer's entry for a compared face."""
    quality = one.face.quality
    return {
        "box": [round(float(value), 2) for value in one.face.box],
        "quality": None if quality is None else round(quality, 3),
    }


def compare_faces(a: OneFace, b: OneFace, embedder: Embedder, rate: float | None) -> Comparison:
    """Compare two faces. `rate` is the share of pairs of different people that may be called the same."""
    table = embedder.calibration
    if table is None:
        raise Problem(422, "invalid", f"no thresholds were measured for the model {embedder.name}")
    rate = table.default_rate if rate is None else rate
    known = [one.face.quality for one in (a, b) if one.face.quality is not None]
    quality = sum(known) / 2 if len(known) == 2 else None
    return Comparison(float(a.embedding @ b.embedding), embedder.threshold(rate, quality), rate)


def person_with(gallery: Gallery, text: str) -> StoredPerson:
    """Return the person with this id, which is a number as text. Raise `Problem` 404 if the id does not exist."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
    found = gallery.store.get([number]) if number else []
    if not found:
        raise Problem(404, "no_such_person", "there is no person with this id")
    return found[0]


def compare_with_person(one: OneFace, person: StoredPerson, gallery: Gallery, rate: float | None) -> Comparison:
    """Compare a face with one person of a gallery. This call blocks. `rate` is the share of strangers that may be accepted."""
    photos = gallery.store.photos(person.id)
    if not photos:
        raise Problem(404, "no_such_person", "the person was removed in the meantime")
    vectors = gallery.store.embeddings([photo.id for photo in photos])
    qualities = np.array([UNKNOWN_QUALITY if photo.quality is None else photo.quality for photo in photos], np.float64)
    probe = UNKNOWN_QUALITY if one.face.quality is None else one.face.quality
    if (person.state.templates or gallery.store.setting("templates")) == "best":
        similarities = vectors @ one.embedding
        best = int(np.argmax(similarities))
        similarity, n_photos, quality, among = float(similarities[best]), 1, float(qualities[best]), len(photos)
    else:
        template = templates(np.zeros(len(photos), np.int64), vectors, 1)[0]
        similarity, n_photos, quality, among = float(template @ one.embedding), len(photos), float(qualities.mean()), 1
    (threshold,) = gallery.thresholds_for([n_photos], [quality], [probe], among=among, rate=rate)
    if rate is None:
        stored = gallery.calibration()
        rate = stored.rate if stored else DEFAULT_RATE
    return Comparison(similarity, float(threshold), rate)
