"""Naming and printing the faces of photos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from facespace.cli.shared.output import (
    Drawings,
    Report,
    progress,
    similarity_and_threshold,
    turned,
    turned_json,
    where,
    write_json,
    write_line,
)
from facespace.faces.quality import weakness
from facespace.io.text import plain_text

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from facespace.client.answers import NamedFace
    from facespace.detection.protocol import Detector
    from facespace.embedding.embedder import Embedder
    from facespace.faces.face import Face
    from facespace.identification.classifier import Prediction
    from facespace.identification.matching import Match
    from facespace.pipeline.photos import Photo


class PhotoNamer(Protocol):
    """Names faces: `Gallery.identify` or `Classifier.predict`."""

    def __call__(self, embeddings: npt.NDArray[np.float32], *, one_photo: bool = False) -> Sequence[Match | Prediction]:
        """Return the match of each face."""


class Ranker(Protocol):
    """Ranks people by similarity: `Gallery.identify` with `top`."""

    def __call__(self, embeddings: npt.NDArray[np.float32]) -> Sequence[Sequence[Match]]:
        """Return the most similar people of each face, best first."""


def name_photos(
    paths: Sequence[str],
    namer: PhotoNamer,
    detector: Detector,
    embedder: Embedder,
    *,
    json: bool,
    drawings: Drawings | None,
    report: Report,
    repeats: bool = False,
    try_rotations: bool = False,
    ranker: Ranker | None = None,
) -> None:
    """Detect, name and print every face of each photo. Photos that cannot be read are counted in `report`.

    With `repeats`, a person may appear in a photo more than once, as in collages. `try_rotations` is passed to `process`.
    With a `ranker`, the most similar people of each face are printed too.
    """
    from facespace.pipeline.photos import process

    photos = process(paths, detector, embedder, keep_pixels=drawings is not None, try_rotations=try_rotations)
    for photo in progress(photos, len(paths), "naming"):
        if photo.error is not None:
            report.fail(photo.path, photo.error, json=json)
            continue
        matches = namer(photo.embeddings, one_photo=not repeats)
        ranked = ranker(photo.embeddings) if ranker is not None and photo.faces else []
        show_photo(photo, matches, ranked, json=json, drawings=drawings)


def show_photo(
    photo: Photo,
    matches: Sequence[Match | Prediction | NamedFace],
    ranked: Sequence[Sequence[Match]] = (),
    *,
    json: bool,
    drawings: Drawings | None,
) -> None:
    """Print each face of one photo with its match, and draw the faces into `drawings`, if given.

    `ranked` lists the most similar people of each face, which are printed too.
    """
    from facespace.faces.drawing import KNOWN, UNKNOWN, numbered

    path = plain_text(photo.path)
    if drawings:
        labels = [match.name or unknown(face) for face, match in zip(photo.faces, matches, strict=True)]
        drawings.write(photo, numbered(labels), [KNOWN if match.name else UNKNOWN for match in matches])
    if json:
        named = (named_face(face, match) for face, match in zip(photo.faces, matches, strict=True))
        faces = [{"number": number, **entry} for number, entry in enumerate(named, 1)]
        for face, several in zip(faces, ranked, strict=bool(ranked)):
            face["most_similar"] = [_ranked_json(one) for one in several if one.nearest is not None]
        write_json({"image": path, **turned_json(photo), "faces": faces})
        return
    n = len(photo.faces)
    write_line(f"{path}: {n or 'no'} face{'' if n == 1 else 's'}{turned(photo)}")
    lines = [f"{in_words(match, face)} {where(face)}" for face, match in zip(photo.faces, matches, strict=True)]
    for k, line in enumerate(numbered(lines)):
        write_line(f"  {line}")
        for one in ranked[k] if ranked else ():
            if one.nearest is not None and one.similarity is not None and one.nearest != matches[k].name:
                write_line(
                    f"       {plain_text(one.nearest)}  {similarity_and_threshold(one.similarity, one.threshold)}"
                )


def _ranked_json(match: Match) -> dict[str, Any]:
    similarity = None if match.similarity is None else round(match.similarity, 4)
    return {"name": match.nearest, "similarity": similarity, "wanted": round(match.threshold, 4)}


def named_face(face: Face, match: Match | Prediction | NamedFace) -> dict[str, Any]:
    """Return a named face as JSON. For an unknown face of poor quality, `reason` says what is wrong with it."""
    entry = {**face.as_dict(), **as_json(match)}
    if match.name is None and (reason := weakness(face)):
        entry["reason"] = reason
    return entry


def unknown(face: Face | None) -> str:
    """Return `unknown`, with the reason if the face is of poor quality."""
    reason = weakness(face) if face is not None else ""
    return f"unknown ({reason})" if reason else "unknown"


def as_json(match: Match | Prediction | NamedFace) -> dict[str, Any]:
    """Return a match as JSON: `name` (null: unknown), `similarity`, and for some also `nearest` and `probability`."""
    entry: dict[str, Any] = {"name": match.name}
    entry["similarity"] = None if match.similarity is None else round(match.similarity, 4)
    if hasattr(match, "probability"):
        likely = match.probability
        entry["nearest"] = getattr(match, "nearest", None)
        entry["probability"] = None if likely is None else round(likely, 4)
    return entry


def in_words(match: Match | Prediction | NamedFace, face: Face | None = None) -> str:
    """Return a match in words."""
    if match.similarity is None:
        return unknown(face)
    likely = getattr(match, "probability", None)
    probability = "" if likely is None else f"  probability {likely:.3f}"
    return f"{match.name or unknown(face)}{probability}  {similarity_and_threshold(match.similarity, match.threshold)}"
