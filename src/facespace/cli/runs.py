"""facespace runs: compare training runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from facespace.cli.shared.options import Json
from facespace.cli.shared.output import Report, write_json, write_line
from facespace.io.text import plain_text


def runs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of runs, or one run.")] = Path("runs"),
    json: Json = False,
) -> None:
    """Compare training runs: network, losses, state, steps, speed, and accuracy on pairs."""
    from facespace.errors import RecipeError
    from facespace.formats.torch_files import require_torch

    require_torch("the record of a training run")
    from facespace.training.run_folder import runs_below, summary

    rows, report = [], Report()
    for run in runs_below(folder):
        try:
            rows.append(summary(run))
        except RecipeError as error:
            report.fail(str(run), str(error).removeprefix(f"{plain_text(str(run))}/"))
    if not rows and not report.n_failed:
        raise RecipeError(f"{folder}: contains no training runs; start one with facespace train --output {folder}/NAME")
    if json:
        for row in rows:
            write_json(row)
    elif rows:
        for line in _table(rows):
            write_line(line)
    report.finish()


def _table(rows: list[dict[str, Any]]) -> list[str]:
    sets = sorted({name for row in rows for name in row["accuracy"]})
    head = ["run", "network", "losses", "state", "steps", "loss", "images/s", *sets]
    table = [head]
    for row in rows:
        loss = "-" if row["loss"] is None else f"{row['loss']:.4f}"
        speed = "-" if row["images_per_second"] is None else f"{row['images_per_second']:.0f}"
        figures = [f"{row['accuracy'][name]:.4f}" if name in row["accuracy"] else "-" for name in sets]
        words = [plain_text(row[key]) for key in ("run", "network", "losses", "state")]
        table.append([*words, str(row["step"]), loss, speed, *figures])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
