"""facespace compare: the same person or not."""

from __future__ import annotations

import itertools
from typing import Annotated

import typer

from facespace.cli.shared.models import load_embedder
from facespace.cli.shared.options import Device, EmbeddingDevice, Json, Model
from facespace.cli.shared.output import Report, progress, write_json, write_line
from facespace.defaults import DEFAULT_FMR
from facespace.io.text import plain_text


def compare(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE IMAGE", help="Two photos or more, or folders of them.")],
    rate: Annotated[
        float,
        typer.Option("--rate", metavar="R", help="Share of pairs of different people that may be called the same."),
    ] = DEFAULT_FMR,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", metavar="T", min=-1, max=1, help="Similarity to reach, instead of a rate."),
    ] = None,
    json: Json = False,
    device: EmbeddingDevice = Device.auto,
    model: Model = "casia-webface",
) -> None:
    """Compare the largest face of every photo with that of every other."""
    if not 0 < rate <= 0.5:
        raise typer.BadParameter(f"wants a share above 0 and up to 0.5; got {rate}", param_hint="--rate")

    from facespace.detection.factory import create_detector
    from facespace.embedding import calibration
    from facespace.pipeline.photos import find_images, process

    paths = list(find_images(images))
    if len(paths) < 2:
        raise typer.BadParameter(f"wants two photos or more; got {len(paths)}", param_hint="IMAGE")
    embedder = load_embedder(model, device.value)
    meaning = ""
    if threshold is None:
        if embedder.calibration is None:
            raise calibration.missing(embedder.name)
        threshold = embedder.calibration.match_threshold(rate)
        meaning = f", reached by {rate:g} of pairs of different people"
    report = Report()
    found = []
    for photo in progress(process(paths, create_detector(), embedder, largest=True), len(paths), "comparing"):
        path = plain_text(photo.path)
        reason = photo.error or ("no face found" if not photo.faces else None)
        if reason:
            report.fail(photo.path, reason, json=json)
        else:
            found.append((path, photo.embeddings[0]))
    for (a, vector_a), (b, vector_b) in itertools.combinations(found, 2):
        similarity = float(vector_a @ vector_b)
        same = similarity >= threshold
        if json:
            write_json({"a": a, "b": b, "similarity": round(similarity, 4), "same": same})
        else:
            write_line(f"{similarity:7.4f}  {'same person' if same else 'different people'}  {a}  {b}")
    if not json and found:
        write_line(f"same from similarity {threshold:.4f}{meaning}")
    report.finish()
