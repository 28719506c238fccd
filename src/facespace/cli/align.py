"""facespace align: class folders of photos to class folders of crops."""

from __future__ import annotations

import os
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facespace.cli.shared.distributed import Ray, check_places, compute_with_progress
from facespace.cli.shared.options import DEFAULT_MIN_SIZE, DetectorName, MinSize, Model
from facespace.cli.shared.output import progress_bar, resumable, say, write_line
from facespace.defaults import TUTORIAL_MODEL

if TYPE_CHECKING:
    from facespace.alignment.aligner import Summary
    from facespace.faces.crops import CropRecord


class Template(str, Enum):
    """How a crop is cut out: the box with a margin, or aligned by five landmarks."""

    box = "box"
    arcface = "arcface"


class Format(str, Enum):
    """How a crop is stored."""

    png = "png"
    jpeg = "jpeg"
    webp = "webp"


class Device(str, Enum):
    """Where the detector runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def align(
    raw: Annotated[str, typer.Argument(metavar="RAW", help="A folder of class folders, one per person, or its URL.")],
    out: Annotated[
        str, typer.Argument(metavar="OUT", help="The folder or URL to write the crops to, in the same class folders.")
    ],
    image_size: Annotated[
        int | None,
        typer.Option("--image-size", metavar="PX", help="Side of the crops, in pixels; by default that of --model."),
    ] = None,
    crop_margin: Annotated[
        int | None,
        typer.Option(
            "--crop-margin",
            metavar="PX",
            help="Total width added to the box, in pixels of the photo; by default that of --model.",
        ),
    ] = None,
    template: Annotated[
        Template | None,
        typer.Option(
            "--template", help="Cut out the box with its margin, or align five landmarks; by default that of --model."
        ),
    ] = None,
    all_faces: Annotated[
        bool, typer.Option("--all-faces", help="Save every face of a photo, as NAME_0, NAME_1, ...")
    ] = False,
    most_confident: Annotated[
        bool, typer.Option("--most-confident", help="Save the face with the highest score instead of the central one.")
    ] = False,
    format: Annotated[
        Format, typer.Option("--format", help="Image format of the crops; png and webp are lossless.")
    ] = Format.png,
    min_size: MinSize = DEFAULT_MIN_SIZE,
    device: Annotated[Device, typer.Option("--device", help="Where the detector runs; auto is the CPU.")] = Device.auto,
    parquet: Annotated[bool, typer.Option("--parquet", help="Write faces.parquet in addition to faces.csv.")] = False,
    bounding_boxes: Annotated[
        bool, typer.Option("--bounding-boxes", help="Write bounding_boxes.txt, as the 2018 aligner did.")
    ] = False,
    detector: DetectorName = None,
    model: Model = TUTORIAL_MODEL,
    ray: Ray = None,
) -> None:
    """Find one face per photo and save it as a crop; by default the large and central face, as the 2018 aligner did.

    Run an interrupted command again to resume it. Several runs at the same time share the work. OUT/faces.csv lists the
    result of every photo, OUT/align.json records how the crops were made. docs/scale.md describes --ray and URLs.
    """
    from facespace.alignment import face_table
    from facespace.alignment.aligner import align_dataset, write_more_tables
    from facespace.detection.factory import check_detector, create_detector
    from facespace.distribution.storage import is_url, shown
    from facespace.faces.crops import CropRecord
    from facespace.models.opening import open_model

    if all_faces and most_confident:
        raise typer.BadParameter("--all-faces and --most-confident exclude each other")
    opened = open_model(model)
    spec, remarks, name = opened.spec, opened.remarks, opened.name
    finder = check_detector(detector or opened.detector)
    del opened  # frees the weights, which aligning does not need
    for remark in remarks:
        say(remark)
    kind = template.value if template is not None else spec.template
    margin = spec.crop_margin if crop_margin is None and kind == spec.template else crop_margin or 0
    record = CropRecord(
        image_size=image_size if image_size is not None else spec.size,
        crop_margin=margin,
        template=kind,
        faces="all" if all_faces else "most-confident" if most_confident else "central",
        format=format.value,
        min_size=min_size,
        detector=finder,
        model=name,
    )
    if bounding_boxes and record.template != "box":
        raise typer.BadParameter(f"needs the template box, got {record.template}", param_hint="--bounding-boxes")
    if parquet:
        face_table.check_parquet()
    check_places([raw, out])
    if (parquet or bounding_boxes) and is_url(out):
        raise typer.BadParameter("--parquet and --bounding-boxes need a local folder as OUT")
    if ray is not None or is_url(raw) or is_url(out):
        summary = _align_in_parts(raw, out, record, device, ray)
    else:
        try:
            with progress_bar("aligning") as show:
                summary = align_dataset(
                    Path(raw),
                    Path(out),
                    record,
                    detector=lambda: create_detector(finder, min_size=min_size, device=device.value),
                    progress=show,
                )
        except (KeyboardInterrupt, OSError) as error:
            say(resumable(error, Path(out)))
            raise typer.Exit(130 if isinstance(error, KeyboardInterrupt) else 1) from None
    if parquet or bounding_boxes:
        write_more_tables(Path(out), record, parquet=parquet, bounding_boxes=bounding_boxes)
    rate = f"; {summary.n_here} now, {summary.n_here / summary.seconds:.1f} images/s" if summary.n_here else ""
    place = out if is_url(out) else str(Path(out))
    write_line(
        f"{summary.n_photos} photos: {summary.n_faces} faces, {summary.n_no_face} without a face, "
        f"{summary.n_unreadable} unreadable{rate} -> {shown(place)}"
    )
    if summary.n_unreadable:
        table = f"{shown(place)}/{face_table.CSV_NAME}"
        print(f"facespace: unreadable photos have the status `unreadable` in {table}", file=sys.stderr)
        raise typer.Exit(1)


def _align_in_parts(raw: str, out: str, record: CropRecord, device: Device, ray: str | None) -> Summary:
    """Align in numbered parts, as needed for Ray and for URLs."""
    import time

    from facespace.alignment.aligner import check_apart, summarize
    from facespace.distribution.aligning import AligningWork, begin, finish, read_table
    from facespace.distribution.storage import Folder, is_url

    if not is_url(raw) and not is_url(out):
        check_apart(Path(raw), Path(out))
    source, target = (Folder(place.rstrip("/") if is_url(place) else os.path.abspath(place)) for place in (raw, out))
    work = AligningWork(source, target, record, device.value)
    start = time.perf_counter()
    plan = begin(work)
    if plan is None:
        return summarize(read_table(work.out), n_here=0, seconds=0.0)
    n_here = compute_with_progress(work, plan, ray, "aligning")
    return summarize(finish(work, plan), n_here=n_here, seconds=time.perf_counter() - start)
