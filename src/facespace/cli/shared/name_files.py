"""Naming the people in photos and videos with a gallery or a classifier."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from facespace.cli.shared.name_photos import PhotoNamer, Ranker, name_photos
from facespace.cli.shared.name_videos import name_camera, name_video, subtitle_files
from facespace.cli.shared.output import Drawings, Report

if TYPE_CHECKING:
    from facespace.embedding.embedder import Embedder


def check_inputs(
    images: Sequence[str] | None, camera: int | None, draw: Path | None, subtitles: Path | None
) -> list[str]:
    """Return the files to process; empty for a camera. Raises a usage error unless either files or a camera are given."""
    if camera is not None and (images or draw or subtitles):
        raise typer.BadParameter("cannot be combined with IMAGE, --draw or --subtitles", param_hint="--camera")
    if camera is None and not images:
        raise typer.BadParameter("is missing; give photos or videos, or --camera N", param_hint="IMAGE")
    return list(images or ())


def name_files(
    images: Sequence[str],
    namer: PhotoNamer,
    embedder: Embedder,
    *,
    camera: int | None,
    json: bool,
    draw: Path | None,
    every: int | None,
    subtitles: Path | None,
    min_size: float,
    report: Report,
    repeats: bool = False,
    try_rotations: bool = False,
    ranker: Ranker | None = None,
) -> None:
    """Name and print the people in each file, or in front of a camera. Failures are counted in `report`.

    `namer` takes the faces' embeddings (N,D) from `Embedder.represent` and names them. `draw` and `subtitles` are
    folders for annotated copies and for .srt files; `every` is passed to `name_video`. With `repeats`, a person may
    appear in a picture more than once. For photos only: `try_rotations` is passed to `process`, and `ranker` ranks the
    most similar people of each face.
    """
    from facespace.detection.factory import create_detector
    from facespace.io.file_kinds import is_video
    from facespace.pipeline.photos import find_images

    if camera is not None:
        name_camera(
            camera,
            detector=create_detector(embedder.detector, min_size=min_size),
            embedder=embedder,
            namer=namer,
            json=json,
            repeats=repeats,
        )
        return
    paths = list(find_images(images))
    videos = {path for path in images if is_video(path)}  # folders are searched only for photos
    drawings = Drawings(draw, paths) if draw else None
    subtitle_of = subtitle_files(subtitles, sorted(videos)) if subtitles else {}
    detector = create_detector(embedder.detector, min_size=min_size)
    for are_videos, group in itertools.groupby(paths, videos.__contains__):
        if not are_videos:
            name_photos(
                list(group), namer, detector, embedder, json=json, drawings=drawings, report=report, repeats=repeats,
                try_rotations=try_rotations, ranker=ranker,
            )  # fmt: skip
            continue
        for path in group:
            name_video(
                path, detector=detector, embedder=embedder, namer=namer, report=report, every=every, json=json, repeats=repeats,
                subtitles=subtitle_of.get(path), draw=drawings.video(path) if drawings else None,
            )  # fmt: skip
