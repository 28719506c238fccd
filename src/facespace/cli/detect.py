"""facespace detect: find the faces in photos."""

from __future__ import annotations

from typing import TYPE_CHECKING

from facespace.cli.shared.options import DEFAULT_MIN_SIZE, DetectorName, Draw, Images, Json, MinSize, TryRotations
from facespace.cli.shared.output import (
    Drawings,
    Report,
    progress,
    turned,
    turned_json,
    where,
    write_json,
    write_line,
)
from facespace.defaults import DEFAULT_DETECTOR
from facespace.io.text import plain_text

if TYPE_CHECKING:
    from facespace.faces.face import Face


def detect(
    images: Images,
    json: Json = False,
    draw: Draw = None,
    min_size: MinSize = DEFAULT_MIN_SIZE,
    detector: DetectorName = None,
    try_rotations: TryRotations = False,
) -> None:
    """Find the faces in photos, with the box, score and quality of each; --json adds the five landmarks."""
    from facespace.detection.factory import create_detector
    from facespace.faces.drawing import FOUND, numbered
    from facespace.pipeline.photos import find_images, process

    paths = list(find_images(images))
    drawings = Drawings(draw, paths) if draw else None
    report = Report()
    photos = process(
        paths,
        create_detector(detector or DEFAULT_DETECTOR, min_size=min_size),
        keep_pixels=drawings is not None,
        try_rotations=try_rotations,
    )
    for photo in progress(photos, len(paths), "detecting"):
        path = plain_text(photo.path)
        if photo.error is not None:
            report.fail(photo.path, photo.error, json=json)
            continue
        if drawings:
            drawings.write(photo, numbered([_low_quality(face) for face in photo.faces]), [FOUND] * len(photo.faces))
        if json:
            faces = [{"number": number, **face.as_dict()} for number, face in enumerate(photo.faces, 1)]
            write_json({"image": path, **turned_json(photo), "faces": faces})
            continue
        n = len(photo.faces)
        write_line(f"{path}: {n or 'no'} face{'' if n == 1 else 's'}{turned(photo)}")
        for line in numbered([_in_words(face) for face in photo.faces]):
            write_line(f"  {line}")
    report.finish()


def _in_words(face: Face) -> str:
    return f"score {face.score:.3f} quality {face.quality or 0:.2f} {where(face)}"


def _low_quality(face: Face) -> str:
    return f"quality {face.quality:.2f}" if face.quality is not None and face.quality < 0.5 else ""
