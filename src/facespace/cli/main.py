"""The command `facespace`: its subcommands, and the handling of errors and warnings."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable
from typing import Annotated

import typer

from facespace._version import __version__
from facespace.cli import (
    align,
    calibrate,
    classify,
    cluster,
    compare,
    convert,
    dataset,
    demo,
    detect,
    doctor,
    embed,
    enroll,
    export,
    gallery,
    identify,
    models,
    runs,
    serve,
    train,
    verify,
    watch,
)
from facespace.cli.legacy import facenet, tiny
from facespace.defaults import MAX_PIXELS, MAX_PIXELS_VARIABLE
from facespace.errors import FacespaceError
from facespace.io.files import remedy
from facespace.io.text import escape_marks, one_line
from facespace.runtime.cores import limit_library_threads

_HOME = re.compile(r"((?:-*[\w.-]+=)?)(~(?:/.*)?)", re.DOTALL)

app = typer.Typer(
    name="facespace",
    help="Find faces in photos, compare them, and name the people you have enrolled.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("detect")(detect.detect)
app.command("compare")(compare.compare)
app.command("embed")(embed.embed)
app.command("enroll")(enroll.enroll)
app.command("identify")(identify.identify)
app.command("watch")(watch.watch)
app.add_typer(gallery.app, name="gallery")
app.add_typer(serve.app, name="serve")
app.add_typer(classify.app, name="classify")
app.command("calibrate")(calibrate.calibrate)
app.command("cluster")(cluster.cluster)
app.command("align")(align.align)
app.add_typer(dataset.app, name="dataset")
app.add_typer(verify.app, name="verify")
app.command("train")(train.train)
app.command("runs")(runs.runs)
app.command("convert")(convert.convert)
app.command("export")(export.export)
app.add_typer(models.app, name="models")
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)
app.add_typer(facenet.app, name="facenet")
app.add_typer(tiny.app, name="tiny")


def _version(requested: bool) -> None:
    if requested:
        print(f"facespace {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    max_pixels: Annotated[
        int | None,
        typer.Option(
            "--max-pixels",
            metavar="N",
            min=1,
            help=f"Largest number of pixels of a photo; by default {MAX_PIXELS}, or the value of {MAX_PIXELS_VARIABLE}.",
            show_default=False,
        ),
    ] = None,
) -> None:
    del version  # `_version` has printed it
    if max_pixels is not None:
        os.environ[MAX_PIXELS_VARIABLE] = str(max_pixels)  # also for child processes


def _notes() -> Callable[..., None]:
    """Return a replacement for `warnings.showwarning`: it prints each message once, on one line, without source location."""
    shown: set[str] = set()

    def note(message: Warning | str, *_: object) -> None:
        line = f"facespace: {escape_marks(str(message))}"
        if line not in shown:
            print(line, file=sys.stderr)
        shown.add(line)

    return note


def main() -> None:
    """Run the command line. An expected error is printed as one line on stderr, with exit code 1."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # escape characters that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    limit_library_threads()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _notes()
            app(prog_name="facespace", args=[expand_home(argument) for argument in sys.argv[1:]])
    except (FacespaceError, ValueError) as error:
        print(f"facespace: {escape_marks(str(error))}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        where = f"{one_line(str(error.filename))}: " if error.filename else ""
        print(f"facespace: {where}{error.strerror or error}{remedy(error)}", file=sys.stderr)
        sys.exit(1)
    except MemoryError:
        print("facespace: out of memory; end other programs, or give fewer or smaller photos at once", file=sys.stderr)
        sys.exit(1)


def expand_home(argument: str) -> str:
    """Expand `~` at the start of a path. A shell does this in `--draw ~/x`, but not in `--draw=~/x`.

    >>> expand_home("--draw=~/x") == "--draw=" + os.path.expanduser("~/x")
    True
    >>> expand_home("~ada"), expand_home("a~/b")
    ('~ada', 'a~/b')
    """
    found = _HOME.fullmatch(argument)
    return found[1] + os.path.expanduser(found[2]) if found else argument
