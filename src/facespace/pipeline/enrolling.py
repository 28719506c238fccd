"""Enrols photos of a person in a gallery: chooses the face, rejects unsuitable photos and reports doubts.

The command `enroll` and the service both use it, so that they treat a photo alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from facespace.faces.face import Face, clear_face
from facespace.faces.quality import weakness
from facespace.identification import enrolment
from facespace.identification.enrolment import NoClearFace
from facespace.identification.gallery import Gallery, crop_digest
from facespace.identification.stores.protocol import StoredPerson
from facespace.io.text import clean_name
from facespace.pipeline.photos import Photo

GOOD_QUALITY = 0.5  # faces below it are enrolled with a remark

LeftOutCode = Literal["unreadable_image", "no_face", "several_faces", "poor_quality", "other_person"]
RemarkCode = Literal["of_several", "low_quality", "same_photo", "resembles_other", "unlike_others"]


class LeftOut(Exception):
    """Raised for a photo that is not enrolled; has a stable `code` and the reason as `text`."""

    def __init__(self, code: LeftOutCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Remark(NamedTuple):
    """Something a user should know about an enrolled photo: a stable `code`, and a line of `text`."""

    code: RemarkCode
    text: str


@dataclass(frozen=True, slots=True)
class Enrolled:
    """An enrolled photo: the `face` that was taken, and the SHA-256 of its crop as `digest`.

    `new` is False if the person already has this crop. `of_several` is True if the photo shows several faces of about
    the same size and the face was chosen by its similarity to the person's other photos.
    """

    face: Face
    digest: str
    new: bool
    of_several: bool
    remarks: tuple[Remark, ...]


class Enroller:
    """Adds the faces of photos to a gallery that is open with its model.

    `any_quality` also enrols faces that are too small or too blurred to be recognised. `refuse_others` rejects a photo
    that is already enrolled for another person, or that resembles another person. `keep_crops` stores the crop of each
    face.
    """

    def __init__(
        self, gallery: Gallery, *, any_quality: bool = False, refuse_others: bool = False, keep_crops: bool = False
    ) -> None:
        self._gallery = gallery
        self._any_quality = any_quality
        self._refuse_others = refuse_others
        self._keep_crops = keep_crops
        self._can_compare = enrolment.can_compare(gallery)

    def add(
        self,
        name: str,
        photo: Photo,
        *,
        source: str | None = None,
        metadata: dict[str, Any] | None = None,
        person: int | None = None,
    ) -> Enrolled:
        """Enrol the one face of a photo under a name; it is on disk when this returns.

        The photo must have embeddings and crops. `source` says where it came from and defaults to the photo's path.
        With `person`, only the person with that number is enrolled (see `Gallery.add`). Raises `LeftOut` with the
        reason if the photo is not enrolled.
        """
        name = clean_name(name)
        if photo.error is not None:
            raise LeftOut("unreadable_image", photo.error)
        existing = self._gallery.store.find(name)
        row, of_several = self._row(name, existing, photo)
        face, vector, crop = photo.faces[row], photo.embeddings[row], photo.crops[row]
        if (reason := weakness(face)) and not self._any_quality:
            raise LeftOut("poor_quality", f"{reason} (quality {face.quality:.2f})")
        digest = crop_digest(crop)
        if enrolment.is_rejected(self._gallery, name, crop):
            raise LeftOut("other_person", f"somebody said that this photo does not show {name}")
        if existing is not None and existing.id in self._gallery.store.find_digest(digest):
            return Enrolled(face, digest, False, of_several, ())
        remarks = self._remarks(name, photo, row, of_several=of_several)
        new = self._gallery.add(
            name, vector, crop, source=photo.path if source is None else source, quality=face.quality,
            metadata=metadata, keep_crop=self._keep_crops, person=person,
        )  # fmt: skip
        return Enrolled(face, digest, new, of_several, remarks)

    def _row(self, name: str, existing: StoredPerson | None, photo: Photo) -> tuple[int, bool]:
        """Return the index of the person's face in a photo, and whether it was chosen from several."""
        face = clear_face(photo.faces)
        if face is not None:
            return photo.faces.index(face), False
        n = len(photo.faces)
        if not n:
            raise LeftOut("no_face", "no face found")
        if not self._can_compare or existing is None:
            raise LeftOut("several_faces", f"{n} faces, one expected")
        try:
            return enrolment.face_like_others(self._gallery, name, photo.embeddings), True
        except NoClearFace as reason:
            raise LeftOut("several_faces", str(reason)) from None

    def _remarks(self, name: str, photo: Photo, row: int, *, of_several: bool) -> tuple[Remark, ...]:
        """Return the remarks on a photo; raise `LeftOut` for another person's photo if those are refused."""
        face, vector, crop = photo.faces[row], photo.embeddings[row], photo.crops[row]
        remarks = []
        if of_several:
            text = f"{len(photo.faces)} faces; took the one most similar to {name}'s other photos"
            remarks.append(Remark("of_several", text))
        if face.quality is not None and face.quality < GOOD_QUALITY:
            text = f"poor quality ({face.quality:.2f}); {name} may not be recognised from it"
            remarks.append(Remark("low_quality", text))
        others = [one for one in enrolment.holders(self._gallery, crop) if one != name]
        if others:
            text = f"the same photo is enrolled as {', '.join(others)}"
            remarks.append(Remark("same_photo", self._question(text, name)))
        if not self._can_compare:
            return tuple(remarks)
        other = enrolment.resembles(self._gallery, name, vector)
        if other and other not in others:
            remarks.append(Remark("resembles_other", self._question(f"resembles {other}, who is enrolled", name)))
        like = enrolment.likeness(self._gallery, name, vector)
        if like is not None and like.similarities[0] < like.thresholds[0]:
            figures = f"similarity {like.similarities[0]:.3f}, threshold {like.thresholds[0]:.3f}"
            text = f"unlike the other photos of {name} ({figures}); is it the same person?"
            remarks.append(Remark("unlike_others", text))
        return tuple(remarks)

    def _question(self, text: str, name: str) -> str:
        """Ask whether the other person is the same; raise `LeftOut` instead if such photos are refused."""
        if self._refuse_others:
            raise LeftOut("other_person", text)
        return f"{text}; is {name} the same person?"
