"""The output of commands: results on stdout, everything else on stderr, progress bars only on a terminal."""

from __future__ import annotations

import contextlib
import json as json_format
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import typer

from facespace.io.files import remedy
from facespace.io.text import escape_marks, plain_text

if TYPE_CHECKING:
    from facespace.faces.face import Face
    from facespace.pipeline.photos import Photo

T = TypeVar("T")
_CONTROLS = re.compile("[\x7f-\x9f]")  # control characters that `json` does not escape
_MAX_STEM = 240  # bytes; a file name has at most 255, and an ending and a number are added


def say(line: str) -> None:
    """Print a line on stderr, after `facespace: `."""
    _write(sys.stderr, f"facespace: {plain_text(line)}")


class Report:
    """Counts failures, so that a bad file does not stop the run but changes the exit code."""

    def __init__(self) -> None:
        self.n_failed = 0

    def fail(self, path: str, reason: str, *, json: bool = False) -> None:
        """Report a failed file on stderr, and with `json` also on stdout."""
        self.n_failed += 1
        say(f"{path}: {reason}")
        if json:
            write_json({"image": plain_text(path), "error": reason})

    def finish(self) -> None:
        """Exit with code 1 if anything failed."""
        if self.n_failed:
            raise typer.Exit(1)


def progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield the items, with a progress bar if stderr is a terminal."""
    if not sys.stderr.isatty() or total < 2:
        yield from items
        return
    from rich.console import Console
    from rich.progress import Progress

    # By default rich redirects stdout to the bar's stream, and `> results.jsonl` would stay empty.
    on_screen = sys.stdout.isatty()
    with Progress(console=Console(stderr=True), transient=True, redirect_stdout=on_screen) as bar:
        task = bar.add_task(what, total=total)
        for item in items:
            yield item
            bar.advance(task)


@contextlib.contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function to call with (done, total), which updates a progress bar if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None  # noqa: ARG005
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def write_line(text: str) -> None:
    """Print one line of results and flush it, so that the reader of a pipe gets it at once."""
    try:
        _write(sys.stdout, text)
    except BrokenPipeError:  # the reader has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # the exit code of a program ended by SIGPIPE
    except OSError as error:
        error.filename = error.filename or "standard output"
        raise


def _write(stream: TextIO, line: str) -> None:
    """Write a line and its newline in one call, and escape marks that change the direction of text.

    `print` may write the newline in a second call; lines of processes that share a pipe would then be mixed up.
    """
    stream.write(f"{escape_marks(line)}\n")
    stream.flush()


def write_json(value: dict[str, Any]) -> None:
    """Print one JSON object on one line. Non-ASCII characters are escaped unless stdout is UTF-8."""
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    text = json_format.dumps(value, ensure_ascii=encoding != "utf8")
    write_line(_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def resumable(error: KeyboardInterrupt | OSError, out: Path) -> str:
    """Return a message for an interruption or error of a command that can be resumed.

    >>> resumable(KeyboardInterrupt(), Path("out"))
    'stopped; run the same command again to resume'
    """
    if isinstance(error, KeyboardInterrupt):
        return "stopped; run the same command again to resume"
    return f"{out}: {error.strerror or error}{remedy(error)}; finished work is kept"


def similarity_and_threshold(similarity: float, threshold: float) -> str:
    """Return both numbers in words, with three decimals.

    A similarity below the threshold gets more decimals, up to seven, if it would look equal to the threshold.

    >>> similarity_and_threshold(0.5123, 0.4), similarity_and_threshold(0.99998, 0.99999)
    ('similarity 0.512 (threshold 0.400)', 'similarity 0.99998 (threshold 0.99999)')
    """
    digits = 3
    while digits < 7 and round(similarity, digits) == round(threshold, digits) and similarity < threshold:
        digits += 1
    return f"similarity {similarity:.{digits}f} (threshold {threshold:.{digits}f})"


def turned(photo: Photo) -> str:
    """Return how a photo was turned to find its faces, in words; empty if it was not turned."""
    return f" (turned by {photo.turned} degrees clockwise)" if photo.turned else ""


def turned_json(photo: Photo) -> dict[str, Any]:
    """Return the field `turned` of a photo's JSON; empty if the photo was not turned."""
    return {"turned": photo.turned} if photo.turned else {}


def where(face: Face) -> str:
    """Return the position and size of a face in words."""
    x1, y1, _, _ = face.box
    return f"at {x1:.0f},{y1:.0f}, {face.width:.0f}x{face.height:.0f} px"


class Targets:
    """Unique file names in one folder, made from the names of the source files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._taken: set[str] = set()

    def path(self, source: str | os.PathLike[str], ending: str, *, instead_of: tuple[str, ...] | None = None) -> Path:
        """Return a path in the folder: the name of `source` with `ending`, and a number if that name is already taken.

        `ending` replaces the ending of `source` if that is in `instead_of`, or if `instead_of` is None; otherwise it is
        appended.
        """
        path = Path(source)
        stem = path.stem if instead_of is None or path.suffix.lower() in instead_of else path.name
        while len(os.fsencode(stem)) > _MAX_STEM:
            stem = stem[:-1]
        name, number = f"{stem}{ending}", 2
        while name in self._taken:
            name, number = f"{stem}-{number}{ending}", number + 1
        self._taken.add(name)
        return self._folder / name


class Drawings:
    """Annotated copies of photos and videos in one folder, under unique names."""

    def __init__(self, folder: Path, photos: Iterable[str]) -> None:
        here = os.path.realpath(folder)
        for photo in photos:
            if os.path.dirname(os.path.realpath(photo)) == here:  # a copy could overwrite a photo
                reason = f"must be a folder without any of the photos, but {plain_text(photo)} is in {plain_text(str(folder))}"
                raise typer.BadParameter(reason, param_hint="--draw")
        self._targets = Targets(folder)

    def video(self, path: str) -> Path:
        """Return the file for the annotated copy of a video."""
        return self._targets.path(path, ".mp4", instead_of=(".mp4", ".m4v"))

    def write(self, photo: Photo, labels: list[str], colors: list[tuple[int, int, int]]) -> Path:
        """Write the annotated copy of a photo; return its path."""
        from facespace.faces.drawing import annotate
        from facespace.io import pictures

        assert photo.pixels is not None
        target = self._targets.path(photo.path, ".jpg", instead_of=(".jpg", ".jpeg"))
        pictures.save(annotate(photo.pixels, photo.faces, labels, colors), target, "JPEG", quality=92)
        return target
