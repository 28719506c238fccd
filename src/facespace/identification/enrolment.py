"""What to tell when one more photo of a person is enrolled, and which face of a photo is the person's.

A photo is compared with the person's others by their mean embedding, and with everybody else as `Gallery.identify` does.
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

# How much more a face of a group must resemble a person than every other face there: two photos of one person differ less
# than that by light and expression alone, and look-alikes reach it seldom.
CLEARLY_MORE = 0.1


class NoClearFace(GalleryError):
    """No face of a photo is clearly the person's: its message says why."""


class Likeness(NamedTuple):
    """How much F faces resemble a person who is enrolled.

    `similarities` (F,) are to the mean of the person's photos. `thresholds` (F,) is what a face must reach that is said to be this
    person's, `thresholds_among_all` (F,) one that could be anybody's of the gallery.
    """

    similarities: npt.NDArray[np.float32]
    thresholds: npt.NDArray[np.float64]
    thresholds_among_all: npt.NDArray[np.float64]


def can_compare(gallery: Gallery) -> bool:
    """Whether the gallery's model has thresholds, from its calibration or from `calibrate`."""
    try:
        gallery.check_thresholds()
    except ModelError:
        return False
    return True


def likeness(gallery: Gallery, name: str, embeddings: Vectors) -> Likeness | None:
    """How much the faces (F,D) resemble the person of that name; None where nobody has it."""
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
    """Which of the faces (F,D) of one photo is the person's, who is enrolled from other photos.

    It reaches the person's threshold, resembles nobody else more, and no other face comes near it. `NoClearFace` says why
    there is no such face.
    """
    found = likeness(gallery, name, embeddings)
    n = 0 if found is None else len(found.similarities)
    if found is None or n == 0:
        raise NoClearFace(f"{n} faces, one expected")
    best = int(found.similarities.argmax())
    reached = float(found.similarities[best])
    if reached < found.thresholds_among_all[best]:
        raise NoClearFace(
            f"{n} faces, none like {name}'s other photos (similarity {reached:.3f}, {found.thresholds_among_all[best]:.3f} wanted)"
        )
    others = np.delete(found.similarities, best)
    if len(others) and reached - float(others.max()) < CLEARLY_MORE:
        raise NoClearFace(
            f"{n} faces, two of them about as much like {name} (similarity {reached:.3f} and {others.max():.3f})"
        )
    (match,) = gallery.identify(_row(embeddings, best))
    if match.nearest != clean_name(name):
        raise NoClearFace(f"{n} faces, the one like {name} is more like {match.name or 'somebody else'}")
    return best


def holders(gallery: Gallery, crop: npt.NDArray[np.uint8]) -> list[str]:
    """The names of the people who have this very crop (S,S,3)."""
    return [person.state.name for person in gallery.store.get(gallery.store.find_digest(crop_digest(crop)))]


def is_rejected(gallery: Gallery, name: str, crop: npt.NDArray[np.uint8]) -> bool:
    """Whether somebody said that this crop (S,S,3) does not show the person."""
    person = gallery.store.find(clean_name(name))
    return person is not None and crop_digest(crop) in person.state.rejected


def resembles(gallery: Gallery, name: str, embedding: npt.NDArray[np.float32]) -> str:
    """Another enrolled person by whose name this face (D,) would be called, or nothing."""
    if not len(gallery) or not can_compare(gallery):
        return ""
    (matches,) = gallery.identify(embedding, top=2)
    return next((match.name for match in matches if match.name not in (None, clean_name(name))), None) or ""


def _row(embeddings: Vectors, row: int) -> npt.NDArray[np.float32]:
    one: npt.NDArray[np.float32] = embeddings[row]
    return one
