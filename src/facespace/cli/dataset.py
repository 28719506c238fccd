"""facespace dataset: what is wrong with the class folders of a training set, and putting it right."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from facespace.cli.options import Model
from facespace.cli.output import Report, progress, write_line
from facespace.text import plain_text

app = typer.Typer(help="Check a dataset of faces, and clean it.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _dataset() -> None:
    """Check a dataset of faces, and clean it."""


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
    model: Model = "casia-webface",
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

    from facespace.dataset_apply import inside
    from facespace.dataset_check import check as check_dataset
    from facespace.dataset_report import counts, write_report
    from facespace.embedder import Embedder

    output = output or beside.with_name(f"{beside.name}-check")
    if inside(str(output), str(folder)):
        raise typer.BadParameter("must not lie inside DIR, where it would be a class", param_hint="--output")
    findings = check_dataset(
        folder, Embedder.load(model), against=against, against_crops=against_crops, threshold=threshold,
        min_images=min_images, progress=progress,
    )  # fmt: skip
    proposals = write_report(findings, output)
    for name, n in counts(findings, proposals).items():
        if against is not None or not name.endswith("evaluation set"):
            write_line(f"{n:7d}  {name}")
    write_line(f"report: {plain_text(str(output / 'report.html'))}")
    write_line(f"to edit, then --apply: {plain_text(str(output / 'keep_drop.csv'))}")


def _apply(folder: Path, listed: Path, moved_to: Path) -> None:
    from facespace.dataset_apply import apply_list, read_list

    applied = apply_list(read_list(listed), folder, moved_to, progress=progress)
    report = Report()
    for file in applied.unknown:
        report.fail(file, "listed, but neither in the dataset nor among what was moved")
    for file, reason in applied.failed:
        report.fail(file, reason)
    before = f", {applied.n_moved_before} moved before" if applied.n_moved_before else ""
    write_line(f"{applied.n_moved} files moved to {plain_text(str(moved_to))}{before}; {applied.n_kept} kept")
    report.finish()
