"""facespace compare: whether photos show the same person."""

from __future__ import annotations

import itertools
from typing import Annotated

import typer

from facespace.cli.shared.models import load_embedder
from facespace.cli.shared.options import Device, EmbeddingDevice, Json, OptionalModel, TryRotations
from facespace.cli.shared.output import Report, progress, turned, write_json, write_line
from facespace.defaults import DEFAULT_FMR
from facespace.io.text import plain_text

_FEW = 100  # up to this number of photos, plain ONNX Runtime is faster, because OpenVINO takes longer to load


def compare(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE IMAGE", help="Two or more photos, or folders of photos.")
    ],
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate",
            metavar="R",
            help=f"Target share of pairs of different people that are called the same; by default {DEFAULT_FMR}.",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            metavar="T",
            min=-1,
            max=1,
            help="Similarity from which faces are the same person, instead of a rate.",
        ),
    ] = None,
    json: Json = False,
    try_rotations: TryRotations = False,
    device: EmbeddingDevice = Device.auto,
    model: OptionalModel = None,
) -> None:
    """Compare the largest face of every photo with the largest face of every other photo."""
    if rate is not None and not 0 < rate <= 0.5:
        raise typer.BadParameter(f"must be above 0 and at most 0.5, got {rate}", param_hint="--rate")

    from facespace.detection.factory import create_detector
    from facespace.embedding import calibration
    from facespace.pipeline.photos import find_images, process

    paths = list(find_images(images))
    if len(paths) < 2:
        raise typer.BadParameter(f"must be two or more photos, got {len(paths)}", param_hint="IMAGE")
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
    thresholds = []
    for (a, photo_a, vector_a, quality_a), (b, photo_b, vector_b, quality_b) in itertools.combinations(found, 2):
        similarity, quality = float(vector_a @ vector_b), (quality_a + quality_b) / 2
        required = embedder.threshold(rate, quality) if threshold is None else threshold
        thresholds.append(required)
        same = similarity >= required
        if json:
            entry = {"a": a, "b": b, "similarity": round(similarity, 4), "same": same, "threshold": round(required, 4)}
            for key, photo in (("turned_a", photo_a), ("turned_b", photo_b)):
                entry |= {key: photo.turned} if photo.turned else {}
            write_json({**entry, "rate": rate if threshold is None else None, "quality": round(quality, 3)})
        else:
            verdict = "same person" if same else "different people"
            write_line(
                f"{similarity:7.4f}  {verdict} (threshold {required:.4f})  {a}{turned(photo_a)}  {b}{turned(photo_b)}"
            )
    if not json and thresholds:
        low, high = min(thresholds), max(thresholds)
        span = f"{low:.4f}" if high - low < 5e-5 else f"{low:.4f} to {high:.4f}, depending on the quality of the faces"
        meaning = ""
        if threshold is None and embedder.calibration is not None:
            meaning = f": {rate:g} of pairs of different people reach it; measured on {embedder.calibration.conditions}"
        write_line(f"threshold {span}{meaning}")
    report.finish()
