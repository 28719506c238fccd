"""facespace facenet align_dataset_mtcnn: class folders of photos to class folders of crops."""

from __future__ import annotations

from pathlib import Path

import typer

from facespace.cli.legacy.arguments import Program, say_equivalent, true_or_false
from facespace.cli.shared.output import progress_bar, resumable, say, write_line


def main(argv: list[str]) -> None:
    """Align as the 2018 program did. Several processes on one folder share the work."""
    parser = Program(
        "facenet align_dataset_mtcnn",
        "Find the faces in class folders of photos, and save them as crops in the same class folders.",
    )
    parser.add_argument("input_dir", help="A folder of class folders, one per person.")
    parser.add_argument("output_dir", help="The folder to write crops to, in the same class folders.")
    parser.flags(
        ("--image_size", 182, "Side of the square crops, in pixels."),
        ("--margin", 44, "Total width added to the box, in pixels of the photo; half on each side."),
    )
    parser.ignore("processes that work on one folder share its photos automatically", "random_order")
    parser.ignore_gpu_memory_fraction()
    parser.add_argument(
        "--detect_multiple_faces",
        type=true_or_false,
        nargs="?",
        const=True,
        default=False,
        help="Save every face of a photo, as NAME_0.png, NAME_1.png, ...",
    )
    arguments = parser.parse(argv)
    raw, out = Path(arguments.input_dir).expanduser(), Path(arguments.output_dir).expanduser()
    several = ["--all-faces"] if arguments.detect_multiple_faces else []
    size, margin = arguments.image_size, arguments.margin
    say_equivalent(
        "facespace", "align", raw, out, "--image-size", size, "--crop-margin", margin, *several, "--bounding-boxes"
    )

    from facespace.alignment.aligner import align_dataset, write_more_tables
    from facespace.detection.factory import create_detector
    from facespace.faces.crops import CropRecord

    write_line("Creating networks and loading parameters")
    record = CropRecord(size, margin, "box", faces="all" if several else "central")
    try:
        with progress_bar("aligning") as show:
            summary = align_dataset(raw, out, record, detector=create_detector, progress=show)
    except (KeyboardInterrupt, OSError) as error:
        say(resumable(error, out))
        raise typer.Exit(130 if isinstance(error, KeyboardInterrupt) else 1) from None
    for row in write_more_tables(out, record, bounding_boxes=True):
        if row.status == "no face":
            write_line(f'Unable to align "{row.input}"')
        elif row.status == "unreadable":
            say(f"{row.input}: {row.reason}")
    write_line(f"Total number of images: {summary.n_photos}")
    write_line(f"Number of successfully aligned images: {summary.n_faces}")
