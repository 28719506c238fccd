"""facespace train: train a network with a recipe, or resume a run."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facespace.cli.shared.output import say, write_line

if TYPE_CHECKING:
    from facespace.training.recipe import Recipe


def train(
    recipe: Annotated[
        str,
        typer.Argument(metavar="RECIPE", help="The name or TOML file of a recipe, or the folder of a run to resume."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Values that replace those of the recipe, such as data=DIR or center.weight=0.02."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="The folder of the run; by default runs/NAME-DATE-TIME."),
    ] = None,
    show_recipe: Annotated[bool, typer.Option("--show", help="Print the recipe with all values, and exit.")] = False,
) -> None:
    """Train a network. To see a recipe: `facespace train --show NAME`.

    To resume an interrupted run from its last checkpoint, use the same command with the same --output, or
    `facespace train RUN`; the result is the same as without the interruption. Ctrl+C and SIGTERM save a checkpoint after the
    current step and exit. On several GPUs: torchrun --nproc-per-node N -m facespace train ...
    """
    from facespace.formats.torch_files import require_torch

    require_torch("training")
    from facespace.models.folder import RECIPE, is_run
    from facespace.training.recipe import as_toml, load

    run = Path(recipe)
    if is_run(run):
        if output is not None and output != run:
            raise typer.BadParameter(
                "must be omitted when a run is resumed, or be its own folder", param_hint="--output"
            )
        chosen = load(run / RECIPE, overrides or ())
    else:
        if output is None and "TORCHELASTIC_RUN_ID" in os.environ:
            raise typer.BadParameter(
                "must be given with torchrun, so that all processes use the same folder", param_hint="--output"
            )
        chosen = load(recipe, overrides or ())
        run = output if output is not None else Path("runs") / f"{_name(recipe)}-{time.strftime('%Y%m%d-%H%M%S')}"
    if show_recipe:
        write_line(as_toml(chosen).rstrip())
        return
    train_and_show(chosen, run)


def train_and_show(recipe: Recipe, run: Path) -> Path:
    """Train in the folder `run` and print progress; return the folder of the trained model."""
    from facespace.models.folder import is_run
    from facespace.training import distributed
    from facespace.training.interrupts import Interrupted
    from facespace.training.loop import train as run_training
    from facespace.training.run_folder import resume_hint

    shown = _Lines()
    try:
        trained = run_training(recipe, run, show=shown.show)
    except KeyboardInterrupt as error:
        shown.end()
        saved = isinstance(error, Interrupted)
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        if shown.is_main:
            how = "stopped after saving a checkpoint" if saved else "stopped immediately"
            say(f"{how}; {resume_hint(run) if is_run(run) else 'run the same command again to start over'}")
        raise typer.Exit(128 + number) from None
    finally:
        shown.end()
        distributed.leave()
    if shown.is_main:
        write_line(f"{trained.steps} steps -> {trained.model}")
    return run / "model" if trained.model is None else trained.model


def _name(recipe: str) -> str:
    return re.sub(r"[^\w.-]", "-", Path(recipe).name.removesuffix(".toml"))


class _Lines:
    """Prints lines, of which some are passing, such as progress.

    On a terminal the next line replaces a passing line. Elsewhere, such as in a pipe, a passing line is printed only if
    the last minute had no other line.
    """

    def __init__(self) -> None:
        self.is_main = int(os.environ.get("RANK", "0")) == 0
        self._terminal = sys.stdout.isatty()
        self._open, self._last = False, 0.0

    def show(self, line: str, passing: bool) -> None:
        """Print a line. A `passing` line may be replaced or left out."""
        if not self.is_main:
            return
        if self._terminal:
            print(f"\r\x1b[K{line}", end="" if passing else "\n", flush=True)
            self._open = passing
        elif not passing or time.monotonic() > self._last + 60:
            self._last = time.monotonic()
            write_line(line)

    def end(self) -> None:
        """End a passing line, so that the next output starts on a new line."""
        if self._open:
            print(flush=True)
        self._open = False
