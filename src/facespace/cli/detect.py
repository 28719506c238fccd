"""facespace detect: where the faces are."""

from __future__ import annotations

from facespace.cli.shared.options import DEFAULT_MIN_SIZE, Draw, Images, Json, MinSize
from facespace.cli.shared.output import Drawings, Report, progress, where, write_json, write_line
from facespace.io.text import plain_text


def detect(images: Images, json: Json = False, draw: Draw = None, min_size: MinSize = DEFAULT_MIN_SIZE) -> None:
    """Find the faces in photos: box, score and five landmarks of each."""
    from facespace.detection.factory import create_detector
    from facespace.faces.drawing import FOUND
    from facespace.pipeline.photos import find_images, process

    paths = list(find_images(images))
    drawings = Drawings(draw, paths) if draw else None
    report = Report()
    photos = process(paths, create_detector(min_size=min_size), keep_pixels=drawings is not None)
    for photo in progress(photos, len(paths), "detecting"):
        path = plain_text(photo.path)
        if photo.error is not None:
            report.fail(photo.path, photo.error, json=json)
            continue
        if drawings:
            drawings.write(photo, [f"{face.score:.2f}" for face in photo.faces], [FOUND] * len(photo.faces))
        if json:
            write_json({"image": path, "faces": [face.as_dict() for face in photo.faces]})
            continue
        n = len(photo.faces)
        write_line(f"{path}: {n or 'no'} face{'' if n == 1 else 's'}")
        for face in photo.faces:
            write_line(f"  score {face.score:.3f} {where(face)}")
    report.finish()
