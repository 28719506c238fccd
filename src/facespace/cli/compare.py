"""facespace compare: the same person or not."""

from __future__ import annotations

import itertools
from typing import Annotated

import typer

from facespace.cli.shared.models import load_embedder
from facespace.cli.shared.options import Device, EmbeddingDevice, Json, OptionalModel, TryRotations
from facespace.cli.shared.output import Report, progress, turned, write_json, write_line
from facespace.defaults import DEFAULT_FMR
from facespace.io.text import plain_text

_FEW = 100  # photos that plain ONNX Runtime has compared before OpenVINO would be ready


def compare(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE IMAGE", help="Two photos or more, or folders of them.")],
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate",
            metavar="R",
            help=f"Share of pairs of different people that may be called the same; by default {DEFAULT_FMR}.",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", metavar="T", min=-1, max=1, help="Similarity to reach, instead of a rate."),
    ] = None,
    json: Json = False,
    try_rotations: TryRotations = False,
    device: EmbeddingDevice = Device.auto,
    model: OptionalModel = None,
) -> None:
    """Compare the largest face of every photo with that of every other."""
    if rate is not None and not 0 < rate <= 0.5:
        raise typer.BadParameter(f"wants a share above 0 and up to 0.5; got {rate}", param_hint="--rate")

    from facespace.detection.factory import create_detector
    from facespace.embedding import calibration
    from facespace.pipeline.photos import find_images, process

    paths = list(find_images(images))
    if len(paths) < 2:
        raise typer.BadParameter(f"wants two photos or more; got {len(paths)}", param_hint="IMAGE")
    embedder = load_embedder(model, device.value, few=len(paths) <= _FEW)
    if threshold is None:
        if embedder.calibration is None:
            raise calibration.missing(embedder.name)
        rate = embedder.calibration.default_rate if rate is None else rate
    report = Report()
    found = []
    detector = create_detector(embedder.detector)
    photos = process(paths, detector, embedder, largest=True, try_rotations=try_rotations)
    for photo in progress(photos, len(paths), "comparing"):
        path = plain_text(photo.path)
        reason = photo.error or ("no face found" if not photo.faces else None)
        if reason:
            report.fail(photo.path, reason, json=json)
        else:
            found.append((path, photo, photo.embeddings[0], photo.faces[0].quality or 0.0))
    wanted = []
    for (a, photo_a, vector_a, quality_a), (b, photo_b, vector_b, quality_b) in itertools.combinations(found, 2):
        similarity, quality = float(vector_a @ vector_b), (quality_a + quality_b) / 2
        reached = embedder.threshold(rate, quality) if threshold is None else threshold
        wanted.append(reached)
        same = similarity >= reached
        if json:
            entry = {"a": a, "b": b, "similarity": round(similarity, 4), "same": same, "threshold": round(reached, 4)}
            for key, photo in (("turned_a", photo_a), ("turned_b", photo_b)):
                entry |= {key: photo.turned} if photo.turned else {}
            write_json({**entry, "rate": rate if threshold is None else None, "quality": round(quality, 3)})
        else:
            verdict = "same person" if same else "different people"
            write_line(
                f"{similarity:7.4f}  {verdict} (same from {reached:.4f})  {a}{turned(photo_a)}  {b}{turned(photo_b)}"
            )
    if not json and wanted:
        low, high = min(wanted), max(wanted)
        span = f"{low:.4f}" if high - low < 5e-5 else f"{low:.4f} to {high:.4f}, by the quality of the faces"
        meaning = ""
        if threshold is None and embedder.calibration is not None:
            meaning = (
                f": {rate:g} of pairs of different people reach that; measured on {embedder.calibration.conditions}"
            )
        write_line(f"same from similarity {span}{meaning}")
    report.finish()
