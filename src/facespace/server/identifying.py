"""What an answer says of the faces of a photo, and who they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from facespace.defaults import DEFAULT_RATE
from facespace.faces.face import Face
from facespace.faces.quality import weakness
from facespace.identification.gallery import Gallery
from facespace.identification.matching import Match
from facespace.server.engine import AnalyzedPhoto
from facespace.server.service import Service

_REASONS = {"too small": "too_small", "too blurred or dark": "too_blurred"}


def largest_first(photo: AnalyzedPhoto, most: int) -> list[int]:
    """The numbers of the faces of a photo by the size of their boxes, the largest first; at most so many."""
    return sorted(range(len(photo.faces)), key=lambda k: -photo.faces[k].width * photo.faces[k].height)[:most]


def image_entry(photo: AnalyzedPhoto) -> dict[str, Any]:
    """The size of a photo, upright, and by how many degrees it was turned to be so."""
    return {"width": photo.width, "height": photo.height, "turned": photo.turned}


def face_entry(face: Face, embedding: Sequence[float] | None = None, *, landmarks: bool = False) -> dict[str, Any]:
    """One face as JSON: its box, score and quality, and what else was asked for."""
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
    """The embedding of one face as JSON numbers."""
    numbers: list[float] = np.asarray(photo.embeddings[k], np.float32).tolist()
    return numbers


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
    source: str = "",
) -> dict[str, Any]:
    """Who the faces of an analysed photo are; blocks while the store is asked.

    Nobody has a name whose similarity is below the threshold. A face without one has the reason.
    """
    chosen = largest_first(photo, max_faces)
    matches: Sequence[Match] = gallery.identify(photo.embeddings[chosen], rate=rate, one_photo=True) if chosen else []
    ignored = service.unknowns.ignored(
        collection, photo, [k for k, match in zip(chosen, matches, strict=True) if not match.name]
    )
    faces, strangers = [], []
    for k, match in zip(chosen, matches, strict=True):
        face = photo.faces[k]
        entry = face_entry(face, embedding_of(photo, k) if embeddings else None, landmarks=landmarks)
        reason = None if match.name is not None else _reason(match, face, k in ignored)
        if reason in ("stranger", "nobody_enrolled"):
            strangers.append(k)
        entry |= {
            "name": match.name,
            "person": None if match.name is None else _person(gallery, match.name),
            "similarity": None if match.similarity is None else round(match.similarity, 4),
            "threshold": round(match.threshold, 4),
            "unknown": None if reason is None else {"reason": reason},
        }
        faces.append(entry)
    kept: dict[int, str] = {}
    if strangers and keep_unknown and service.settings.unknowns_days:
        kept = service.unknowns.keep(collection, photo, strangers, source=source)
    for k, entry in zip(chosen, faces, strict=True):
        if k in kept:
            entry["unknown_id"] = kept[k]
    for entry in faces:
        kind = "unknown" if entry["name"] is None else "known"
        service.events.emit(kind, collection, {key: value for key, value in entry.items() if key != "embedding"})
    stored = None if rate is not None else gallery.calibration()
    return {
        "image": image_entry(photo),
        "collection": collection,
        "model": gallery.model_name,
        "n_people": len(gallery),
        "strangers_named": rate if rate is not None else stored.rate if stored else DEFAULT_RATE,
        "faces": faces,
    }


def _reason(match: Match, face: Face, is_ignored: bool) -> str:
    if is_ignored:
        return "ignored"
    if match.similarity is not None and match.similarity >= match.threshold:
        return "somebody_else_here"
    if weak := weakness(face):
        return _REASONS[weak]
    return "nobody_enrolled" if match.similarity is None else "stranger"


def _person(gallery: Gallery, name: str) -> dict[str, Any] | None:
    found = gallery.store.find(name)
    if found is None:
        return None
    return {"id": str(found.id), "name": name, "external_id": found.state.external_id}
