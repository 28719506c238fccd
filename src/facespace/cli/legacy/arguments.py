"""An old program's command line: read as its argparse read it, answered with today's command."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

import typer

from facespace.cli.shared.output import say
from facespace.io.text import plain_text


class _Unneeded(argparse.Action):
    """Takes a flag that decides nothing here, and notes that it was given, and `why` it is not needed."""

    def __init__(self, *words: Any, why: str, **options: Any) -> None:
        super().__init__(*words, **options)
        self.why = why

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:  # noqa: ARG002
        setattr(namespace, self.dest, values)
        namespace.unneeded = [*namespace.unneeded, (self.why, self.option_strings[0])]


class _Several(argparse.Action):
    """Takes a flag once for each of its values, a list; where it is not given, its default stays one."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:  # noqa: ARG002
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*before, values] if isinstance(before, list) else [values])


class Program(argparse.ArgumentParser):
    """The arguments of an old program, with its spelling, defaults and abbreviations; a mistake is one line."""

    def __init__(self, command: str, summary: str) -> None:
        super().__init__(
            prog=f"facespace {command}",
            description=summary,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        self.set_defaults(unneeded=[])

    def flag(self, name: str, help: str) -> None:
        """A flag without a value."""
        self.add_argument(name, action="store_true", help=help)

    def flags(self, *named: tuple[str, Any, str]) -> None:
        """Flags with a value each: name, default, help. The default's kind is the value's."""
        for name, default, text in named:
            self.add_argument(name, type=type(default), default=default, help=_escaped(text))

    def repeated(self, name: str, default: str, help: str) -> None:
        """A flag that may be given several times: a list then, its default where it is not given."""
        self.add_argument(name, action=_Several, default=default, help=_escaped(help))

    def preprocessing(self, *names: str, **defaults: int) -> None:
        """Flags that said what a network wants to see: it knows that itself. Those in `names` take no value."""
        self.unneeded("the model itself says what it was trained to see", *names, **defaults)

    def machine(self, **defaults: float) -> None:
        """Flags that told a program how to use its machine, and change no result."""
        self.unneeded("what suits the machine is found without being told", **defaults)

    def unneeded(self, why: str, *names: str, **defaults: Any) -> None:
        """Flags that are taken and change nothing, for the reason `why`. Those in `names` take no value."""
        text = f"changes nothing: {why}"
        for name in names:
            self.add_argument(f"--{name}", action=_Unneeded, nargs=0, default=False, why=why, help=text)
        for name, default in defaults.items():
            self.add_argument(f"--{name}", action=_Unneeded, type=type(default), default=default, why=why, help=text)

    def parse(self, argv: list[str]) -> argparse.Namespace:
        """The arguments; what was given and decides nothing is said at once, in a line for each reason."""
        arguments = self.parse_args(argv)
        for why in dict.fromkeys(why for why, _ in arguments.unneeded):
            names = ", ".join(dict.fromkeys(name for reason, name in arguments.unneeded if reason == why))
            say(f"{names}: taken, and changes nothing: {why}")
        return arguments

    def error(self, message: str) -> NoReturn:
        """Leave with exit code 2 and one line."""
        print(f"facespace: {plain_text(message)}; see: {self.prog} --help", file=sys.stderr)
        raise typer.Exit(2)


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def true_or_false(text: str) -> bool:
    """The value of a flag that old programs took for true whatever it said.

    >>> true_or_false("False"), true_or_false("1")
    (False, True)
    """
    lowered = text.lower()
    if lowered in ("true", "1", "yes"):
        return True
    if lowered in ("false", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(f"wants True or False; got {text!r}")


def say_all(lines: Iterable[str]) -> None:
    """Lines beside the results."""
    for line in lines:
        say(line)


def today(*words: object, note: str = "") -> None:
    """Say what the command is called today, so that it can be typed, and in `note` where it does something else."""
    say(f"today: {shlex.join(map(str, words))}{f' ({note})' if note else ''}")
