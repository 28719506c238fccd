"""Checks for enrolling another photo of a person: whether a face is similar enough, and which face of a photo to enroll.

A face is compared with the mean embedding of the person's other photos, and with other people as in `Gallery.identify`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from facespace.embedding.calibration import UNKNOWN_QUALITY
from facespace.embedding.compatibility import Vectors, qualities_of
from facespace.errors import GalleryError, ModelError
from facespace.identification.gallery import Gallery, crop_digest
from facespace.identification.open_set import templates
from facespace.io.text import clean_name

# A face of a group photo must be this much more similar to a person than every other face in it. Light and expression
# alone change the similarity by less, and look-alikes rarely reach it.
CLEARLY_MORE = 0.1


class NoClearFace(GalleryError):
    """No face of a photo is clearly the person's; the message says why."""


class Likeness(NamedTuple):
    """The similarities of F faces to an enrolled person.

    `similarities` (F,) compare each face with the mean embedding of the person's photos. A face that is claimed to
    be this person's must reach `thresholds` (F,). A face that could be anyone's in the gallery must reach
    `thresholds_among_all` (F,).
    """

    similarities: npt.NDArray[np.float32]
    thresholds: npt.NDArray[np.float64]
    thresholds_among_all: npt.NDArray[np.float64]


def can_compare(gallery: Gallery) -> bool:
    """Return whether the gallery's model has thresholds, from its calibration or from `calibrate`."""
    try:
        gallery.check_thresholds()
    except ModelError:
        return False
    return True


def likeness(gallery: Gallery, name: str, embeddings: Vectors) -> Likeness | None:
    """Return the likeness of the faces (F,D) to the person `name`, or None if no photos of that person are enrolled."""
    person = gallery.store.find(clean_name(name))
    photos = [] if person is None else gallery.store.photos(person.id)
    if not photos:
        return None
    vectors = gallery.store.embeddings([photo.id for photo in photos])
    (mean,) = templates(np.zeros(len(vectors), np.int64), vectors, 1)
    probes = np.asarray(embeddings, np.float32).reshape(-1, len(mean))
    known = [UNKNOWN_QUALITY if photo.quality is None else photo.quality for photo in photos]
    given = qualities_of(embeddings)
    qualities = np.full(len(probes), UNKNOWN_QUALITY) if given is None else np.asarray(given, np.float64).reshape(-1)
    of = (len(photos), float(np.mean(known)), qualities)
    return Likeness(probes @ mean, gallery.thresholds_for(*of, among=1), gallery.thresholds_for(*of))


def face_like_others(gallery: Gallery, name: str, embeddings: Vectors) -> int:
    """Return which of the faces (F,D) in one photo shows the person `name`, as an index.

    The faces are compared with the person's enrolled photos. The face must reach the person's threshold among all
    enrolled people, resemble no other enrolled person more, and be clearly more similar to the person than the other
    faces in the photo. Raise `NoClearFace` with the reason if no face meets these conditions.
    """
    found = likeness(gallery, name, embeddings)
    n = 0 if found is None else len(found.similarities)
    if found is None or n == 0:
        raise NoClearFace(f"{n} faces, one expected")
    best = int(found.similarities.argmax())
    reached = float(found.similarities[best])
    if reached < found.thresholds_among_all[best]:
        raise NoClearFace(
            f"{n} faces, none like {name}'s other photos (similarity {reached:.3f}, "
            f"threshold {found.thresholds_among_all[best]:.3f})"
        )
    others = np.delete(found.similarities, best)
    if len(others) and reached - float(others.max()) < CLEARLY_MORE:
        raise NoClearFace(
            f"{n} faces, two of them about equally like {name} (similarity {reached:.3f} and {others.max():.3f})"
        )
    (match,) = gallery.identify(_row(embeddings, best))
    if match.nearest != clean_name(name):
        raise NoClearFace(f"{n} faces, the one like {name} is more like {match.name or 'another person'}")
    return best


def holders(gallery: Gallery, crop: npt.NDArray[np.uint8]) -> list[str]:
    """Return the names of the people who have exactly this crop (S,S,3)."""
    return [person.state.name for person in gallery.store.get(gallery.store.find_digest(crop_digest(crop)))]


def is_rejected(gallery: Gallery, name: str, crop: npt.NDArray[np.uint8]) -> bool:
    """Return whether this crop (S,S,3) was rejected as not showing the person."""
    person = gallery.store.find(clean_name(name))
    return person is not None and crop_digest(crop) in person.state.rejected


def resembles(gallery: Gallery, name: str, embedding: npt.NDArray[np.float32]) -> str:
    """Return the person other than `name` whom the gallery recognises in this face (D,), or an empty string."""
    if not len(gallery) or not can_compare(gallery):
        return ""
    (matches,) = gallery.identify(embedding, top=2)
    return next((match.name for match in matches if match.name not in (None, clean_name(name))), None) or ""


def _row(embeddings: Vectors, row: int) -> npt.NDArray[np.float32]:
    one: npt.NDArray[np.float32] = embeddings[row]
    return one
