"""The command line of an old program: its own flags, the flags that are ignored, and the equivalent facespace command."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

import typer

from facespace.cli.shared.output import say
from facespace.io.text import plain_text


class _Ignore(argparse.Action):
    """Accepts a flag that has no effect, and records that it was given and `why` it is ignored."""

    def __init__(self, *words: Any, why: str, **options: Any) -> None:
        super().__init__(*words, **options)
        self.why = why

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:  # noqa: ARG002
        setattr(namespace, self.dest, values)
        namespace.ignored = [*namespace.ignored, (self.why, self.option_strings[0])]


class _Append(argparse.Action):
    """Collects the values of a repeated flag in a list. Unlike argparse's `append`, the default is replaced, not extended."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:  # noqa: ARG002
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*before, values] if isinstance(before, list) else [values])


class Program(argparse.ArgumentParser):
    """Parses the arguments of an old program with its spelling, defaults and abbreviations. An error is one line."""

    def __init__(self, command: str, summary: str) -> None:
        super().__init__(
            prog=f"facespace {command}",
            description=summary,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        self.set_defaults(ignored=[])

    def flag(self, name: str, help: str) -> None:
        """Add a flag without a value."""
        self.add_argument(name, action="store_true", help=help)

    def flags(self, *named: tuple[str, Any, str]) -> None:
        """Add flags with a value, each as (name, default, help). The value has the type of the default."""
        for name, default, text in named:
            self.add_argument(name, type=type(default), default=default, help=_escaped(text))

    def repeated(self, name: str, default: str, help: str) -> None:
        """Add a flag that may be repeated. Its value is a list, or `default` if the flag is not given."""
        self.add_argument(name, action=_Append, default=default, help=_escaped(help))

    def ignore_preprocessing(self, *names: str, **defaults: int) -> None:
        """Accept and ignore flags about preprocessing, which the model defines.

        The flags in `names` take no value, those in `defaults` take one.
        """
        self.ignore("the model defines its own preprocessing", *names, **defaults)

    def ignore_batch_size(self, **defaults: int) -> None:
        """Accept and ignore flags about the number of images per call of the network."""
        self.ignore("the batch size is chosen automatically", **defaults)

    def ignore_gpu_memory_fraction(self) -> None:
        """Accept and ignore `--gpu_memory_fraction` in a program that does not train."""
        self.ignore("this program computes on the CPU; training respects the flag", gpu_memory_fraction=1.0)

    def ignore(self, why: str, *names: str, **defaults: Any) -> None:
        """Accept and ignore flags for the reason `why`. Those in `names` take no value, those in `defaults` one."""
        text = f"Accepted and ignored: {why}."
        for name in names:
            self.add_argument(f"--{name}", action=_Ignore, nargs=0, default=False, why=why, help=text)
        for name, default in defaults.items():
            self.add_argument(f"--{name}", action=_Ignore, type=type(default), default=default, why=why, help=text)

    def parse(self, argv: list[str]) -> argparse.Namespace:
        """Parse the arguments, and report the flags that are ignored in one line for each reason."""
        arguments = self.parse_args(argv)
        for why in dict.fromkeys(why for why, _ in arguments.ignored):
            names = ", ".join(dict.fromkeys(name for reason, name in arguments.ignored if reason == why))
            say(f"{names}: ignored because {why}")
        return arguments

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with code 2."""
        print(f"facespace: {plain_text(message)}; see: {self.prog} --help", file=sys.stderr)
        raise typer.Exit(2)


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def true_or_false(text: str) -> bool:
    """Parse the value of a boolean flag. The programs of 2018 treated any text as true, even "False".

    >>> true_or_false("False"), true_or_false("1")
    (False, True)
    """
    lowered = text.lower()
    if lowered in ("true", "1", "yes"):
        return True
    if lowered in ("false", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(f"must be True or False, got {text!r}")


def say_all(lines: Iterable[str]) -> None:
    """Print lines on stderr."""
    for line in lines:
        say(line)


def say_equivalent(*words: object, note: str = "") -> None:
    """Print the facespace command that replaces an old one, quoted for a shell. `note` says how the effect differs."""
    say(f"equivalent command: {shlex.join(map(str, words))}{f' ({note})' if note else ''}")
