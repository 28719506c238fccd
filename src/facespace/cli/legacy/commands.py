"""The command group of one old project. A program is imported only when it is run."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand


class Verbatim(TyperCommand):
    """A command that passes all its arguments, including `--help`, to the program unchanged."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the arguments without parsing them."""
        ctx.args = list(args)
        return []


def command_group(name: str, summary: str, package: str, programs: dict[str, str]) -> typer.Typer:
    """Return the command group `name` of one old project, with one command for each of its programs.

    A command calls the function `main` of the module in `package` that has the program's name. `programs` maps the name
    of each program to its line of help.
    """
    app = typer.Typer(name=name, help=summary, no_args_is_help=True, rich_markup_mode=None)
    for program, line in programs.items():
        app.command(program, help=line, cls=Verbatim)(_runner(f"{package}.{program}"))
    return app


def _runner(module: str) -> Callable[[typer.Context], None]:
    def run(ctx: typer.Context) -> None:
        importlib.import_module(module).main(ctx.args)

    return run
