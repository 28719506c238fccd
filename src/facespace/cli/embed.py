"""facespace embed: faces as vectors, for programs of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facespace.cli.shared.models import load_embedder
from facespace.cli.shared.options import (
    DEFAULT_MIN_SIZE,
    Device,
    EmbeddingDevice,
    Images,
    Largest,
    MinSize,
    OptionalModel,
    TryRotations,
)
from facespace.cli.shared.output import Report, progress, say, write_line
from facespace.io.text import plain_text


def embed(
    images: Images,
    output: Annotated[Path, typer.Option("--output", metavar="FILE.npz", help="The NumPy archive to write.")],
    largest: Largest = False,
    try_rotations: TryRotations = False,
    min_size: MinSize = DEFAULT_MIN_SIZE,
    device: EmbeddingDevice = Device.auto,
    model: OptionalModel = None,
) -> None:
    """Write one row a face: arrays `path`, `box` (N,4), `score` (N,), `turned` (N,) and `embedding` (N,D) of unit length.

    Boxes are those of the photo after it was turned clockwise by `turned` degrees, which is 0 without --try-rotations.
    Embeddings are what galleries compare: photo and mirror image together. The array `model` names the network.
    """
    import numpy as np

    from facespace.detection.factory import create_detector
    from facespace.io.files import atomic_path, is_stdout
    from facespace.pipeline.photos import find_images, process

    if not output.parent.is_dir():
        raise typer.BadParameter(f"the folder {output.parent} does not exist", param_hint="--output")
    paths = list(find_images(images))
    embedder = load_embedder(model, device.value)
    report = Report()
    names: list[str] = []
    boxes, scores, turned = [], [], []
    embeddings = [np.empty((0, embedder.dimension), np.float32)]
    photos = process(
        paths, create_detector(embedder.detector, min_size=min_size), embedder,
        largest=largest, try_rotations=try_rotations,
    )  # fmt: skip
    for photo in progress(photos, len(paths), "embedding"):
        if photo.error is not None:
            report.fail(photo.path, photo.error)
            continue
        names += [plain_text(photo.path)] * len(photo.faces)
        boxes += [face.box for face in photo.faces]
        turned += [photo.turned] * len(photo.faces)
        scores += [face.score for face in photo.faces]
        embeddings.append(photo.embeddings)
    with atomic_path(output) as path, path.open("wb") as file:
        np.savez(
            file,
            path=np.array(names, dtype=np.str_),
            box=np.array(boxes, np.float32).reshape(-1, 4),
            score=np.array(scores, np.float32),
            turned=np.array(turned, np.int64),
            embedding=np.concatenate(embeddings),
            model=np.array(f"{embedder.name} {embedder.fingerprint}"),
        )
    summary = f"{len(names)} faces of {len(paths) - report.n_failed} photos -> {plain_text(str(output))}"
    (say if is_stdout(output) else write_line)(summary)
    report.finish()
