"""The commands of one old project, listed without loading any of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand


class Verbatim(TyperCommand):
    """Hands on every word behind the command's name as it was typed, `--help` too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read nothing."""
        ctx.args = list(args)
        return []


def family(name: str, summary: str, package: str, programs: dict[str, str]) -> typer.Typer:
    """The commands of one old project: each is the `main` of the module of its name in `package`."""
    app = typer.Typer(name=name, help=summary, no_args_is_help=True, rich_markup_mode=None)
    for program, line in programs.items():
        app.command(program, help=line, cls=Verbatim)(_runner(f"{package}.{program}"))
    return app


def _runner(module: str) -> Callable[[typer.Context], None]:
    def run(ctx: typer.Context) -> None:
        importlib.import_module(module).main(ctx.args)

    return run
