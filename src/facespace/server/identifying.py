"""Builds the answers about the faces of a photo and the people they show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from facespace.defaults import DEFAULT_RATE
from facespace.faces.face import Face
from facespace.faces.quality import weakness
from facespace.identification.gallery import Gallery
from facespace.identification.matching import Match
from facespace.identification.stores.protocol import StoredPerson
from facespace.server.engine import AnalyzedPhoto
from facespace.server.problems import Problem
from facespace.server.service import Service

_REASONS = {"too small": "too_small", "too blurred or dark": "too_blurred"}


def largest_first(photo: AnalyzedPhoto, most: int) -> list[int]:
    """Return the indices of the faces of a photo, the largest box first; at most `most`."""
    return sorted(range(len(photo.faces)), key=lambda k: -photo.faces[k].width * photo.faces[k].height)[:most]


def image_entry(photo: AnalyzedPhoto) -> dict[str, Any]:
    """Return the upright size of a photo, and the degrees by which it was turned."""
    return {"width": photo.width, "height": photo.height, "turned": photo.turned}


def face_entry(face: Face, embedding: Sequence[float] | None = None, *, landmarks: bool = False) -> dict[str, Any]:
    """Return one face as JSON: its box, score and quality, and the landmarks and embedding if requested."""
    entry: dict[str, Any] = {
        "box": [round(float(value), 2) for value in face.box],
        "score": round(float(face.score), 4),
        "quality": None if face.quality is None else round(face.quality, 3),
    }
    if landmarks:
        entry["landmarks"] = [[round(float(x), 2), round(float(y), 2)] for x, y in face.landmarks]
    if embedding is not None:
        entry["embedding"] = embedding
    return entry


def embedding_of(photo: AnalyzedPhoto, k: int) -> list[float]:
    """Return the embedding of one face as JSON numbers."""
    numbers: list[float] = np.asarray(photo.embeddings[k], np.float32).tolist()
    return numbers


def check_rate(rate: float | None, gallery: Gallery, service: Service, *, may_loosen: bool) -> None:
    """Raise `Problem` 403 if a request asks for a larger rate than the collection's own, unless `may_loosen`.

    With a large rate, a key that may only identify could get a name for every face. Every key may ask for a smaller rate.
    """
    if rate is None or may_loosen:
        return
    stored = gallery.calibration()
    most = service.choices.of(gallery).rate or (stored.rate if stored else DEFAULT_RATE)
    if rate > most:
        raise Problem(
            403,
            "forbidden",
            f"rate must be at most {most:g}, the collection's own, got {rate:g}; an administrator may ask for more",
        )


def identified(
    service: Service,
    gallery: Gallery,
    collection: str,
    photo: AnalyzedPhoto,
    *,
    rate: float | None = None,
    max_faces: int,
    landmarks: bool = False,
    embeddings: bool = False,
    keep_unknown: bool = True,
    emit: bool = True,
    source: str = "",
) -> dict[str, Any]:
    """Name the faces of an analysed photo. Return the answer of /v1/identify except its field `image`. This call blocks.

    A face gets a name only if its similarity reaches the threshold; otherwise the answer has the reason. `keep_unknown`
    keeps the faces of strangers, if the collection keeps any. `emit` emits an event for each face.
    """
    choice = service.choices.of(gallery)
    rate = choice.rate if rate is None else rate
    chosen = largest_first(photo, max_faces)
    matches = gallery.identify(photo.embeddings[chosen], rate=rate, one_photo=True) if chosen else []
    people = {name: gallery.store.find(name) for name in {match.name for match in matches if match.name is not None}}
    unnamed = [k for k, match in zip(chosen, matches, strict=True) if match.name is None]
    ignored = service.unknowns.ignored(collection, photo, unnamed) if unnamed else set()
    faces, strangers = [], []
    for k, match in zip(chosen, matches, strict=True):
        face = photo.faces[k]
        reason = None if match.name is not None else _reason(match, face, k in ignored)
        if reason in ("stranger", "nobody_enrolled"):
            strangers.append(k)
        person = None if match.name is None else people[match.name]
        similarity, threshold = _rounded(match)
        faces.append(
            {
                **face_entry(face, embedding_of(photo, k) if embeddings else None, landmarks=landmarks),
                "name": match.name,
                "person": None if person is None else person_entry(person),
                "similarity": similarity,
                "threshold": threshold,
                "unknown": None if reason is None else {"reason": reason},
            }
        )
    if strangers and keep_unknown and choice.unknowns_days:
        for k, unknown_id in service.unknowns.keep(collection, photo, strangers, source=source).items():
            faces[chosen.index(k)]["unknown_id"] = unknown_id
    for entry in faces if emit else ():
        kind = "unknown" if entry["name"] is None else "known"
        service.events.emit(kind, collection, {key: value for key, value in entry.items() if key != "embedding"})
    stored = None if rate is not None else gallery.calibration()
    return {
        "collection": collection,
        "model": service.galleries.model(collection),
        "n_people": len(gallery),
        "strangers_named": rate if rate is not None else stored.rate if stored else DEFAULT_RATE,
        "faces": faces,
    }


def _rounded(match: Match) -> tuple[float | None, float]:
    """Return similarity and threshold, rounded so that a named face never shows a similarity below its threshold."""
    threshold = round(match.threshold, 4)
    if match.similarity is None:
        return None, threshold
    similarity = round(match.similarity, 4)
    reached = match.similarity >= match.threshold
    if reached != (similarity >= threshold):
        similarity = threshold if reached else round(threshold - 0.0001, 4)
    return similarity, threshold


def _reason(match: Match, face: Face, is_ignored: bool) -> str:
    if is_ignored:
        return "ignored"
    if match.similarity is not None and match.similarity >= match.threshold:
        return "somebody_else_here"
    if weak := weakness(face):
        return _REASONS[weak]
    return "nobody_enrolled" if match.similarity is None else "stranger"


def person_entry(person: StoredPerson) -> dict[str, Any]:
    """Return a person's id, name and external id as JSON."""
    return {"id": str(person.id), "name": person.state.name, "external_id": person.state.external_id}
