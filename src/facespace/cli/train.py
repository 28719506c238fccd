"""facespace train: a network by a recipe; started again, it goes on where it was."""

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
        typer.Argument(metavar="RECIPE", help="A recipe's name or TOML file, or the folder of a run to go on with."),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Put over the recipe: data=DIR, center.weight=0.02.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="The run's folder; by default runs/NAME-DATE-TIME.")
    ] = None,
    show_recipe: Annotated[bool, typer.Option("--show", help="Print the recipe as resolved, and do nothing.")] = False,
) -> None:
    """Train a network. Recipes: see `facespace train --show NAME`.

    Killed or stopped, the same command with the same --output, or `facespace train RUN`, goes on from the last
    checkpoint as if nothing had happened. Ctrl-C and SIGTERM end it after the step, which is saved. For several GPUs: torchrun --nproc-per-node N -m facespace train ...
    """
    from facespace.formats.torch_files import require_torch

    require_torch("training")
    from facespace.models.folder import RECIPE, is_run
    from facespace.training.recipe import as_toml, load

    run = Path(recipe)
    if is_run(run):
        if output is not None and output != run:
            raise typer.BadParameter("a run goes on in its own folder", param_hint="--output")
        chosen = load(run / RECIPE, overrides or ())
    else:
        if output is None and "TORCHELASTIC_RUN_ID" in os.environ:
            raise typer.BadParameter(
                "torchrun starts several processes, at several times: name the run's folder", param_hint="--output"
            )
        chosen = load(recipe, overrides or ())
        run = output if output is not None else Path("runs") / f"{_name(recipe)}-{time.strftime('%Y%m%d-%H%M%S')}"
    if show_recipe:
        write_line(as_toml(chosen).rstrip())
        return
    train_and_show(chosen, run)


def train_and_show(recipe: Recipe, run: Path) -> Path:
    """Train into the folder `run`, with lines as they come; the folder of the model that was made."""
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
        if shown.speaks:
            said = "stopped after a step that is saved" if saved else "stopped at once"
            say(f"{said}; {resume_hint(run) if is_run(run) else 'the same command begins again'}")
        raise typer.Exit(128 + number) from None
    finally:
        shown.end()
        distributed.leave()
    if shown.speaks:
        write_line(f"{trained.steps} steps -> {trained.model}")
    return run / "model" if trained.model is None else trained.model


def _name(recipe: str) -> str:
    return re.sub(r"[^\w.-]", "-", Path(recipe).name.removesuffix(".toml"))


class _Lines:
    """Lines as they come; on a terminal those that pass take each other's place, in a pipe they come every minute."""

    def __init__(self) -> None:
        self.speaks = int(os.environ.get("RANK", "0")) == 0
        self._terminal = sys.stdout.isatty()
        self._open, self._last = False, 0.0

    def show(self, line: str, passing: bool) -> None:
        """Print a line; one that is `passing` may be left out."""
        if not self.speaks:
            return
        if self._terminal:
            print(f"\r\x1b[K{line}", end="" if passing else "\n", flush=True)
            self._open = passing
        elif not passing or time.monotonic() > self._last + 60:
            self._last = time.monotonic()
            write_line(line)

    def end(self) -> None:
        """Leave the line that others may have taken the place of."""
        if self._open:
            print(flush=True)
        self._open = False
