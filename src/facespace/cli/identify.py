"""facespace identify: who is in the photos."""

from __future__ import annotations

from typing import Annotated

import typer

from facespace.cli.options import (
    DEFAULT_MIN_SIZE,
    Device,
    Draw,
    EmbeddingDevice,
    GalleryFile,
    Images,
    Json,
    MinSize,
    Model,
)
from facespace.cli.output import Drawings, Report, face_json, progress, where, write_json, write_line
from facespace.rates import DEFAULT_RATE
from facespace.text import plain_text


def identify(
    images: Images,
    gallery: GalleryFile,
    rate: Annotated[
        float,
        typer.Option("--rate", metavar="R", help="Share of strangers that may be given a name, whoever is enrolled."),
    ] = DEFAULT_RATE,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", metavar="T", min=-1, max=1, help="Similarity to reach, instead of a rate."),
    ] = None,
    json: Json = False,
    draw: Draw = None,
    min_size: MinSize = DEFAULT_MIN_SIZE,
    device: EmbeddingDevice = Device.auto,
    model: Model = "casia-webface",
) -> None:
    """Name the people in photos who are enrolled; everybody else is unknown."""
    if not 0 < rate < 1:
        raise typer.BadParameter(f"wants a share between 0 and 1, for instance 0.01; got {rate}", param_hint="--rate")

    from facespace.draw import KNOWN, UNKNOWN
    from facespace.embedder import Embedder
    from facespace.gallery import Gallery
    from facespace.mtcnn import MTCNN
    from facespace.pipeline import find_images, process

    paths = list(find_images(images))
    report = Report()
    embedder = Embedder.load(model, device=device.value)
    with Gallery(gallery, embedder) as people:
        if threshold is None:
            people.thresholds(rate)  # a model without any is told before the work, not after it
        drawings = Drawings(draw, paths) if draw else None
        photos = process(paths, MTCNN(min_size=min_size), embedder, keep_pixels=drawings is not None)
        for photo in progress(photos, len(paths), "identifying"):
            path = plain_text(photo.path)
            if photo.error is not None:
                report.fail(photo.path, photo.error, json=json)
                continue
            matches = people.identify(photo.embeddings, rate=rate, threshold=threshold)
            if drawings:
                labels = [match.name or "unknown" for match in matches]
                drawings.write(photo, labels, [KNOWN if match.name else UNKNOWN for match in matches])
            if json:
                faces = [face_json(face, match) for face, match in zip(photo.faces, matches, strict=True)]
                write_json({"image": path, "faces": faces})
                continue
            n = len(photo.faces)
            write_line(f"{path}: {n or 'no'} face{'' if n == 1 else 's'}")
            for face, match in zip(photo.faces, matches, strict=True):
                similarity = "" if match.similarity is None else f"  similarity {match.similarity:.3f}"
                wanted = "" if match.similarity is None else f" (wanted {match.threshold:.3f})"
                write_line(f"  {match.name or 'unknown'}{similarity}{wanted} {where(face)}")
    report.finish()
