"""facespace identify: name the people in photos and videos."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from typing import Annotated

import typer

from facespace.cli.shared.galleries import model_of_gallery, open_gallery
from facespace.cli.shared.models import load_embedder, say_if_people_are_alike
from facespace.cli.shared.options import (
    DEFAULT_MIN_SIZE,
    Camera,
    Collection,
    Device,
    Draw,
    EmbeddingDevice,
    Every,
    GalleryOrServer,
    Json,
    Key,
    MinSize,
    OptionalModel,
    PhotosAndVideos,
    Repeats,
    Server,
    Subtitles,
    TryRotations,
    check_gallery_or_server,
)
from facespace.cli.shared.output import Report
from facespace.defaults import DEFAULT_RATE

_FEW = 32  # up to this number of photos, plain ONNX Runtime is faster, because OpenVINO takes longer to load


def identify(
    context: typer.Context,
    gallery: GalleryOrServer = None,
    images: PhotosAndVideos = None,
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate",
            metavar="R",
            help=f"Target share of strangers who are given a name; by default that of `calibrate`, or {DEFAULT_RATE}.",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold", metavar="T", min=-1, max=1, help="Similarity from which a face is named, instead of a rate."
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            "--top", metavar="K", min=1, max=1000, help="Also print the K most similar people of each face in photos."
        ),
    ] = None,
    collection: Collection = "default",
    camera: Camera = None,
    json: Json = False,
    draw: Draw = None,
    every: Every = None,
    subtitles: Subtitles = None,
    repeats: Repeats = False,
    try_rotations: TryRotations = False,
    min_size: MinSize = DEFAULT_MIN_SIZE,
    device: EmbeddingDevice = Device.auto,
    model: OptionalModel = None,
    server: Server = None,
    key: Key = None,
) -> None:
    """Name the enrolled people in photos and videos; everybody else is unknown.

    A person is named at most once per picture, unless --repeats is given. With `--server URL`, photos are sent to a
    service, which names the people of its gallery.
    """
    check_gallery_or_server(
        context,
        gallery,
        server,
        "threshold",
        "top",
        "camera",
        "every",
        "subtitles",
        "repeats",
        "min_size",
        "device",
        "model",
    )
    if rate is not None and not 0 < rate < 1:
        raise typer.BadParameter(f"must be between 0 and 1, for instance 0.01, got {rate}", param_hint="--rate")

    from facespace.cli.shared.name_files import check_inputs, name_files
    from facespace.io.file_kinds import is_video

    inputs = check_inputs(images, camera, draw, subtitles)
    if top is not None and (camera is not None or any(is_video(path) for path in inputs)):
        raise typer.BadParameter("cannot be used with videos or cameras", param_hint="--top")
    report = Report()
    if server is not None:
        from facespace.cli.identify_remote import identify_remote

        identify_remote(
            server,
            inputs,
            report,
            key=key,
            collection=collection,
            rate=rate,
            try_rotations=try_rotations,
            json=json,
            draw=draw,
        )
        report.finish()
        return
    assert gallery is not None
    _import_runtime_in_background()
    few = camera is None and len(inputs) <= _FEW and not any(os.path.isdir(path) or is_video(path) for path in inputs)
    embedder = load_embedder(model, device.value, made_with=model_of_gallery(gallery, collection=collection), few=few)
    with open_gallery(gallery, embedder, collection=collection) as people:
        if threshold is None:
            people.check_thresholds(rate)  # so that a model without thresholds is reported before the work
        say_if_people_are_alike(embedder, people.templates(500))
        name_files(
            inputs, functools.partial(people.identify, rate=rate, threshold=threshold), embedder, camera=camera,
            json=json, draw=draw, every=every, subtitles=subtitles, min_size=min_size, report=report, repeats=repeats,
            try_rotations=try_rotations,
            ranker=None if top is None else functools.partial(people.identify, rate=rate, threshold=threshold, top=top),
        )  # fmt: skip
    report.finish()


def _import_runtime_in_background() -> None:
    """Import ONNX Runtime in a thread while the gallery is opened. If it fails, loading the model reports why."""

    def load() -> None:
        with contextlib.suppress(Exception):
            import onnxruntime  # noqa: F401

    threading.Thread(target=load, name="facespace-import").start()
