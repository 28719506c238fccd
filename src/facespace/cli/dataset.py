"""facespace dataset: what is wrong with a training set, putting it right, and its way from format to format."""

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
    """How a dataset is stored."""

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
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Aligned crops, one folder a person.")],
    output: Annotated[
        Path | None, typer.Option("--output", metavar="REPORT_DIR", help="Where to report; by default DIR-check.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="EVALDIR", help="An evaluation set to share nobody with: class folders."),
    ] = None,
    against_crops: Annotated[
        bool, typer.Option("--against-crops", help="EVALDIR holds crops like DIR's, though it has no align.json.")
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold", metavar="S", min=0, max=1, help="Similarity from which people of both are the same."
        ),
    ] = None,
    min_images: Annotated[
        int, typer.Option("--min-images", metavar="N", min=1, help="Identities with fewer images are dropped.")
    ] = 2,
    device: EmbeddingDevice = Device.auto,
    model: OptionalModel = None,
    apply: Annotated[
        Path | None,
        typer.Option("--apply", metavar="LIST.csv", help="Check nothing: move what this list marks `drop` out of DIR."),
    ] = None,
    moved_to: Annotated[
        Path | None,
        typer.Option("--moved-to", metavar="FOLDER", help="Where --apply moves to; by default DIR-dropped."),
    ] = None,
) -> None:
    """Find damaged files, copies, likely wrong labels, small identities and people of an evaluation set.

    Writes report.html, report.json and keep_drop.csv, one line a file with a proposal to keep or to drop it. Nothing
    is changed until that list, edited or not, is given to --apply, which moves files and deletes none.
    """
    beside = Path(os.path.realpath(folder))
    if apply is not None:
        _apply(folder, apply, moved_to or beside.with_name(f"{beside.name}-dropped"))
        return
    if moved_to is not None:
        raise typer.BadParameter("is for --apply", param_hint="--moved-to")
    if against is None and (threshold is not None or against_crops):
        option = "--threshold" if threshold is not None else "--against-crops"
        raise typer.BadParameter("is for --against", param_hint=option)

    from facespace.curation.checker import check as check_dataset
    from facespace.curation.keep_drop import inside
    from facespace.curation.report import counts, write_report

    output = output or beside.with_name(f"{beside.name}-check")
    if inside(str(output), str(folder)):
        raise typer.BadParameter("must not lie inside DIR, where it would be a class", param_hint="--output")
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
        report.fail(file, "listed, but neither in the dataset nor among what was moved")
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
            help="Class folders, .rec, TFRecord, tar or Parquet files, an MS-Celeb-1M .tsv; several, or A:B, become one.",
        ),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    to: Annotated[Format, typer.Option("--to", help="The format to write.")],
    shard_images: Annotated[
        int, typer.Option("--shard-images", metavar="N", min=1, help="Images in a file of webdataset or parquet.")
    ] = 10_000,
    shard_mb: Annotated[
        int, typer.Option("--shard-mb", metavar="MB", min=1, help="Size from which such a file is finished.")
    ] = 1000,
    json: Json = False,
    ray: Ray = None,
) -> None:
    """Write a dataset in another format, images unchanged to the byte, and read it back to be sure.

    Stopped, it goes on where it was when it is started again. OUT appears when all of it is right; what it holds is
    told by OUT/convert.json. --ray writes class folders, webdataset and parquet; docs/scale.md tells more.
    """
    from facespace.datasets.convert import RECORD_NAME, convert_dataset
    from facespace.datasets.writing import IN_PARTS

    if ray is not None and to.value not in IN_PARTS:
        raise typer.BadParameter(f"{to.value} is one file, which one process writes", param_hint="--ray")
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
            f"facespace: files of no known kind of image, copied as they are: {made.n_unrecognised}",
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
    speed = f"{rate:.1f} images/s" if made.n_here else "made before"
    write_line(
        f"{made.n_images} images of {made.n_identities} people, {speed} -> {plain_text(str(output))}; "
        f"checksum {made.checksum}"
    )


def _writer_in_parts(sources: list[str], session: Session | None) -> Write:
    """What writes the images of a dataset by the workers of a session."""
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
