"""facespace identify --server: have a service name the people in photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from facespace.cli.shared.name_photos import show_photo
from facespace.cli.shared.output import Drawings, Report, progress
from facespace.client.answers import NamedFaces
from facespace.client.client import Client
from facespace.client.uploads import OF_ONE_PHOTO, PARALLEL
from facespace.errors import ImageError, ServiceError
from facespace.io import image
from facespace.io.file_kinds import is_video
from facespace.io.prefetch import map_ahead
from facespace.pipeline.photos import Photo, find_images
from facespace.pipeline.rotations import turn


def identify_remote(
    server: str,
    inputs: Sequence[str],
    report: Report,
    *,
    key: str | None,
    collection: str,
    rate: float | None,
    try_rotations: bool,
    json: bool,
    draw: Path | None,
) -> None:
    """Name and print the people in each photo. Failures are counted in `report`."""
    paths = list(find_images(inputs))
    drawings = Drawings(draw, paths) if draw else None

    def ask(path: str) -> NamedFaces | str:
        """Return the faces of a photo, or why it failed."""
        if is_video(path):
            return "this is a video; a service accepts only photos"
        try:
            return client.identify(path, rate=rate, try_rotations=try_rotations)
        except ImageError as error:
            return error.reason
        except ServiceError as error:
            if error.status not in OF_ONE_PHOTO:
                raise
            return str(error).removeprefix(f"{client.url}: ")

    with Client(server, key, collection) as client:
        answers = map_ahead(ask, paths, threads=PARALLEL, ahead=2 * PARALLEL)
        for path, found in zip(paths, progress(answers, len(paths), "naming"), strict=True):
            if isinstance(found, str):
                report.fail(path, found, json=json)
                continue
            photo = Photo(path, faces=list(found), turned=found.turned)
            if drawings is not None:
                try:
                    photo.pixels = turn(image.read(path), found.turned)
                except ImageError as error:  # the file has changed, or only the service has a decoder for it
                    report.fail(path, f"not drawn: {error.reason}", json=json)
                    continue
            show_photo(photo, found.faces, json=json, drawings=drawings)
