"""Faces of whole photos named and printed, by whatever names them: a gallery or a classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from facespace.cli.shared.output import Drawings, Report, progress, where, write_json, write_line
from facespace.io.text import plain_text

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from facespace.detection.protocol import Detector
    from facespace.embedding.embedder import Embedder
    from facespace.faces.face import Face
    from facespace.identification.classifier import Prediction
    from facespace.identification.gallery import Match


def name_photos(
    paths: Sequence[str],
    namer: Callable[[npt.NDArray[np.float32]], Sequence[Match | Prediction]],
    detector: Detector,
    embedder: Embedder,
    *,
    json: bool,
    drawings: Drawings | None,
    report: Report,
) -> None:
    """Detect, name and print every face of each photo; what cannot be read is told and counted in `report`."""
    from facespace.faces.drawing import KNOWN, UNKNOWN
    from facespace.pipeline.photos import process

    photos = process(paths, detector, embedder, keep_pixels=drawings is not None)
    for photo in progress(photos, len(paths), "naming"):
        path = plain_text(photo.path)
        if photo.error is not None:
            report.fail(photo.path, photo.error, json=json)
            continue
        matches = namer(photo.embeddings)
        if drawings:
            labels = [match.name or "unknown" for match in matches]
            drawings.write(photo, labels, [KNOWN if match.name else UNKNOWN for match in matches])
        if json:
            faces = [named_face(face, match) for face, match in zip(photo.faces, matches, strict=True)]
            write_json({"image": path, "faces": faces})
            continue
        n = len(photo.faces)
        write_line(f"{path}: {n or 'no'} face{'' if n == 1 else 's'}")
        for face, match in zip(photo.faces, matches, strict=True):
            write_line(f"  {in_words(match)} {where(face)}")


def named_face(face: Face, match: Match | Prediction) -> dict[str, Any]:
    """One named face as JSON."""
    return {**face.as_dict(), **as_json(match)}


def as_json(match: Match | Prediction) -> dict[str, Any]:
    """A name, or null for unknown, with what it rests on."""
    entry: dict[str, Any] = {"name": match.name}
    entry["similarity"] = None if match.similarity is None else round(match.similarity, 4)
    if hasattr(match, "probability"):
        likely = match.probability
        entry["nearest"] = match.nearest
        entry["probability"] = None if likely is None else round(likely, 4)
    return entry


def in_words(match: Match | Prediction) -> str:
    """The same for people."""
    if match.similarity is None:
        return "unknown"
    likely = getattr(match, "probability", None)
    told = "" if likely is None else f"  probability {likely:.3f}"
    return f"{match.name or 'unknown'}{told}  similarity {match.similarity:.3f} (wanted {match.threshold:.3f})"
