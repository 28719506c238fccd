"""facespace embed: write the embeddings of faces to files, for other programs."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facespace.cli.shared.distributed import Ray, check_places, compute_with_progress, name_for_workers
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
from facespace.defaults import DEFAULT_MODEL
from facespace.io.text import plain_text

if TYPE_CHECKING:
    from facespace.distribution.embedding import EmbeddingWork
    from facespace.distribution.plan import Plan


def embed(
    images: Images,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            metavar="FILE.npz|FOLDER",
            help="The NumPy archive to write; or a folder or URL, for many photos.",
        ),
    ],
    largest: Largest = False,
    try_rotations: TryRotations = False,
    min_size: MinSize = DEFAULT_MIN_SIZE,
    device: EmbeddingDevice = Device.auto,
    model: OptionalModel = None,
    ray: Ray = None,
) -> None:
    """Write one row per face: arrays `path`, `box` (N,4), `score` (N,), `turned` (N,) and `embedding` (N,D), of unit length.

    Boxes refer to the photo turned clockwise by `turned` degrees, which is 0 without --try-rotations. Embeddings are those
    that galleries compare: crop and mirror image added. The array `model` names the model.

    Photos and output may be URLs (s3://, gs://). In a folder, one archive is written per 64 photos; run an interrupted
    command again to resume it. docs/scale.md describes --ray and URLs.
    """
    from facespace.distribution.storage import is_url

    check_places([*images, output])
    folder = output.endswith("/") or os.path.isdir(output) or (is_url(output) and not output.endswith(".npz"))
    parent = Path(output.rstrip("/")).parent if folder else Path(output).parent
    if not is_url(output) and not parent.is_dir():
        raise typer.BadParameter(f"the folder {parent} does not exist", param_hint="--output")
    if folder or ray is not None or any(map(is_url, [*images, output])):
        _embed_in_parts(
            images, output, ray,
            folder=folder, largest=largest, try_rotations=try_rotations, min_size=min_size, device=device, model=model,
        )  # fmt: skip
        return

    import numpy as np

    from facespace.detection.factory import create_detector
    from facespace.distribution.embedding import FaceTable, model_array
    from facespace.io.files import atomic_path, is_stdout
    from facespace.pipeline.photos import find_images, process

    paths = list(find_images(images))
    embedder = load_embedder(model, device.value)
    report = Report()
    table = FaceTable(embedder.dimension)
    photos = process(
        paths, create_detector(embedder.detector, min_size=min_size), embedder,
        largest=largest, try_rotations=try_rotations,
    )  # fmt: skip
    for photo in progress(photos, len(paths), "embedding"):
        table.add(photo)
        if photo.error is not None:
            report.fail(photo.path, photo.error)
    with atomic_path(Path(output)) as path, path.open("wb") as file:
        arrays: dict[str, Any] = table.arrays()
        np.savez(file, **arrays, model=model_array(embedder))
    summary = f"{len(table)} faces of {len(paths) - report.n_failed} photos -> {plain_text(output)}"
    (say if is_stdout(Path(output)) else write_line)(summary)
    report.finish()


def _embed_in_parts(
    images: list[str], output: str, ray: str | None, *, folder: bool, device: Device, model: str | None, **options: Any
) -> None:
    """Embed the photos in parts of 64, and write one archive per part.

    With `folder`, `output` is the folder of the archives; otherwise they are joined to the file `output` at the end.
    """
    from facespace.distribution.embedding import PER_PART, EmbeddingWork
    from facespace.distribution.plan import make_plan
    from facespace.distribution.storage import Folder, find_photos, is_url, shown
    from facespace.models.opening import open_model

    opened = open_model(model or DEFAULT_MODEL)
    for remark in opened.remarks:
        say(remark)
    place = output.rstrip("/") if folder else f"{output}.parts"
    work = EmbeddingWork(
        folder=Folder(place if is_url(place) else os.path.abspath(place)),
        base="" if all(is_url(place) or os.path.isabs(place) for place in images) else os.getcwd(),
        model=name_for_workers(opened), fingerprint=opened.fingerprint, device=device.value, **options,
    )  # fmt: skip
    plan = make_plan(work.folder, find_photos(images), work.settings(), per_part=PER_PART)
    compute_with_progress(work, plan, ray, "embedding")
    report = Report()
    n_faces = _finish_folder(work, plan, report) if folder else _finish_file(work, plan, report, output)
    write_line(f"{n_faces} faces of {plan.n_photos - report.n_failed} photos -> {plain_text(shown(output))}")
    report.finish()


def _finish_folder(work: EmbeddingWork, plan: Plan, report: Report) -> int:
    """Report the failed photos, and list them in `failures.csv`; return the number of faces."""
    import csv

    from facespace.distribution.embedding import read_parts

    n_faces, table = 0, io.StringIO(newline="")
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("path", "reason"))
    for part in read_parts(work, plan):
        n_faces += len(part["path"])
        for path, reason in part["failed"].tolist():
            report.fail(path, reason)
            rows.writerow((path, reason))
    work.folder.write("failures.csv", table.getvalue().encode())
    return n_faces


def _finish_file(work: EmbeddingWork, plan: Plan, report: Report, output: str) -> int:
    """Report failed photos, and join the archives of all parts to one file; return the number of faces.

    The archives of the parts are then removed.
    """
    import numpy as np

    from facespace.distribution.embedding import join_parts, read_parts
    from facespace.distribution.parts import remove_parts
    from facespace.distribution.storage import Folder, is_url
    from facespace.io.files import atomic_path

    parts = list(read_parts(work, plan))
    for part in parts:
        for path, reason in part["failed"].tolist():
            report.fail(path, reason)
    arrays: dict[str, Any] = join_parts(parts)
    if is_url(output):
        archive = io.BytesIO()
        np.savez(archive, **arrays)
        parent, _, name = output.rpartition("/")
        Folder(parent).write(name, archive.getvalue())
    else:
        with atomic_path(Path(output)) as path, path.open("wb") as file:
            np.savez(file, **arrays)
    remove_parts(work, plan)
    return len(arrays["path"])
