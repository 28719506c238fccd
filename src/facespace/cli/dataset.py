"""facespace dataset: check a training set, clean it, and convert it to another format."""

from __future__ import annotations

import contextlib
import os
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facespace.cli.shared.distributed import Ray, connected
from facespace.cli.shared.models import load_embedder, model_of_crops
from facespace.cli.shared.options import Device, EmbeddingDevice, Json, OptionalModel
from facespace.cli.shared.output import Report, progress, progress_bar, resumable, say, write_json, write_line
from facespace.defaults import TUTORIAL_MODEL
from facespace.io.text import plain_text

if TYPE_CHECKING:
    from facespace.datasets.convert import Write
    from facespace.distribution.parts import Work
    from facespace.distribution.plan import Plan
    from facespace.distribution.session import Session

app = typer.Typer(help="Check a dataset of faces, clean it, convert it.", no_args_is_help=True, rich_markup_mode=None)


class Format(str, Enum):
    """The format of a dataset."""

    folder = "folder"
    recordio = "recordio"
    tfrecord = "tfrecord"
    webdataset = "webdataset"
    parquet = "parquet"


@app.callback()
def _dataset() -> None:
    """Check a dataset of faces, clean it, convert it."""


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Aligned crops, one folder per person.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="REPORT_DIR", help="The folder to write the report to; by default DIR-check."),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            metavar="EVALDIR",
            help="Class folders of an evaluation set; people of DIR who are also in it are reported.",
        ),
    ] = None,
    against_crops: Annotated[
        bool,
        typer.Option("--against-crops", help="Treat EVALDIR as crops like those of DIR, even without an align.json."),
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            metavar="S",
            min=0,
            max=1,
            help="Similarity from which people of DIR and EVALDIR are the same.",
        ),
    ] = None,
    min_images: Annotated[
        int,
        typer.Option(
            "--min-images",
            metavar="N",
            min=1,
            help="Smallest number of images of an identity; those with fewer are dropped.",
        ),
    ] = 2,
    device: EmbeddingDevice = Device.auto,
    model: OptionalModel = None,
    apply: Annotated[
        Path | None,
        typer.Option(
            "--apply",
            metavar="LIST.csv",
            help="Do not check, but move the files that this list marks `drop` out of DIR.",
        ),
    ] = None,
    moved_to: Annotated[
        Path | None,
        typer.Option(
            "--moved-to", metavar="FOLDER", help="The folder that --apply moves files to; by default DIR-dropped."
        ),
    ] = None,
) -> None:
    """Find damaged files, copies, likely wrong labels, small identities, and people who are also in an evaluation set.

    Writes report.html, report.json and keep_drop.csv, which proposes to keep or drop each file. Edit that list if needed,
    and give it to --apply, which moves files but deletes none. Without --apply, DIR is not changed.
    """
    real_folder = Path(os.path.realpath(folder))
    if apply is not None:
        _apply(folder, apply, moved_to or real_folder.with_name(f"{real_folder.name}-dropped"))
        return
    if moved_to is not None:
        raise typer.BadParameter("can only be used with --apply", param_hint="--moved-to")
    if against is None and (threshold is not None or against_crops):
        option = "--threshold" if threshold is not None else "--against-crops"
        raise typer.BadParameter("can only be used with --against", param_hint=option)

    from facespace.curation.checker import check as check_dataset
    from facespace.curation.keep_drop import inside
    from facespace.curation.report import counts, write_report

    output = output or real_folder.with_name(f"{real_folder.name}-check")
    if inside(str(output), str(folder)):
        raise typer.BadParameter(
            "must not be inside DIR, where it would count as a class folder", param_hint="--output"
        )
    findings = check_dataset(
        folder, load_embedder(model, device.value, made_with=model_of_crops(folder) or TUTORIAL_MODEL), against=against, against_crops=against_crops, threshold=threshold,
        min_images=min_images, progress=progress,
    )  # fmt: skip
    proposals = write_report(findings, output)
    for name, n in counts(findings, proposals).items():
        if against is not None or not name.endswith("evaluation set"):
            write_line(f"{n:7d}  {name}")
    write_line(f"report: {plain_text(str(output / 'report.html'))}")
    write_line(f"to edit, then --apply: {plain_text(str(output / 'keep_drop.csv'))}")


def _apply(folder: Path, listed: Path, moved_to: Path) -> None:
    from facespace.curation.keep_drop import apply_list, read_list

    applied = apply_list(read_list(listed), folder, moved_to, progress=progress)
    report = Report()
    for file in applied.unknown:
        report.fail(file, "listed, but neither in the dataset nor among the moved files")
    for file, reason in applied.failed:
        report.fail(file, reason)
    before = f", {applied.n_moved_before} moved before" if applied.n_moved_before else ""
    write_line(f"{applied.n_moved} files moved to {plain_text(str(moved_to))}{before}; {applied.n_kept} kept")
    report.finish()


@app.command()
def convert(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="IN",
            help="Class folders, .rec, TFRecord, tar or Parquet files, or an MS-Celeb-1M .tsv. Several, or A:B, are joined.",
        ),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    to: Annotated[Format, typer.Option("--to", help="The format to write.")],
    shard_images: Annotated[
        int,
        typer.Option(
            "--shard-images", metavar="N", min=1, help="Largest number of images in a file of webdataset or parquet."
        ),
    ] = 10_000,
    shard_mb: Annotated[
        int, typer.Option("--shard-mb", metavar="MB", min=1, help="Size at which such a file is closed, in megabytes.")
    ] = 1000,
    json: Json = False,
    ray: Ray = None,
) -> None:
    """Convert a dataset to another format without changing the image files, and read it back to check it.

    Run an interrupted command again to resume it. OUT appears when it is complete and checked; OUT/convert.json describes
    it. --ray can write class folders, webdataset and parquet; see docs/scale.md.
    """
    from facespace.datasets.convert import RECORD_NAME, convert_dataset
    from facespace.datasets.writing import IN_PARTS

    if ray is not None and to.value not in IN_PARTS:
        raise typer.BadParameter(
            f"cannot write {to.value}, which is one file written by one process", param_hint="--ray"
        )
    sizes: dict[str, Any] = {"shard_images": shard_images, "shard_bytes": shard_mb * 10**6}
    try:
        with contextlib.ExitStack() as ends:
            if ray is None:
                how: dict[str, Any] = {"progress": ends.enter_context(progress_bar("converting"))}
            else:
                how = {"write": _writer_in_parts(sources, ends.enter_context(connected(ray)))}
            made = convert_dataset(sources, output, to=to.value, **sizes, **how)
    except (KeyboardInterrupt, OSError) as error:
        say(resumable(error, output))
        raise typer.Exit(130 if isinstance(error, KeyboardInterrupt) else 1) from None
    record = plain_text(str(output / RECORD_NAME))
    if made.renamed:
        print(f"facespace: {len(made.renamed)} names were changed; see `renamed` in {record}", file=sys.stderr)
    if made.n_unrecognised:
        print(
            f"facespace: files in no known image format, copied unchanged: {made.n_unrecognised}",
            file=sys.stderr,
        )
    rate = made.n_here / made.seconds
    if json:
        write_json({
            "output": plain_text(str(output)), "format": to.value, "n_images": made.n_images,
            "n_identities": made.n_identities, "n_renamed": len(made.renamed), "n_unrecognised": made.n_unrecognised,
            "n_here": made.n_here, "seconds": round(made.seconds, 3), "checksum": made.checksum,
        })  # fmt: skip
        return
    speed = f"{rate:.1f} images/s" if made.n_here else "already complete"
    write_line(
        f"{made.n_images} images of {made.n_identities} people, {speed} -> {plain_text(str(output))}; "
        f"checksum {made.checksum}"
    )


def _writer_in_parts(sources: list[str], session: Session | None) -> Write:
    """Return a function that writes a dataset in parts: on the workers of `session`, or in this process."""
    import functools

    from facespace.datasets.opening import paths_of
    from facespace.distribution.converting import write_in_parts
    from facespace.distribution.parts import compute_parts

    def compute(work: Work, plan: Plan, what: str) -> None:
        with progress_bar(what) as show:
            for n_done in compute_parts(work, plan, session):
                show(n_done, plan.n_photos)

    paths = tuple(map(os.path.abspath, paths_of(sources)))
    return functools.partial(write_in_parts, paths=paths, compute=compute)
