"""What commands print, and where: results on stdout, the rest on stderr, progress on a terminal only."""

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
_CONTROLS = re.compile("[\x7f-\x9f]")  # that JSON leaves as they are
_MAX_STEM = 240  # bytes; a file name has at most 255, and an ending and a number are to come


def say(line: str) -> None:
    """A line beside the results, on stderr."""
    _write(sys.stderr, f"facespace: {plain_text(line)}")


class Report:
    """Counts what failed, so that one bad file never stops a run and the exit code still tells."""

    def __init__(self) -> None:
        self.n_failed = 0

    def fail(self, path: str, reason: str, *, json: bool = False) -> None:
        """Say on stderr what is wrong with one file, and on stdout where results are JSON."""
        self.n_failed += 1
        say(f"{path}: {reason}")
        if json:
            write_json({"image": plain_text(path), "error": reason})

    def finish(self) -> None:
        """Leave the command: 0 when everything was read, 1 when something failed."""
        if self.n_failed:
            raise typer.Exit(1)


def progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """The items as they come, with a bar and the time left where stderr is a terminal."""
    if not sys.stderr.isatty() or total < 2:
        yield from items
        return
    from rich.console import Console
    from rich.progress import Progress

    # Left to itself, rich would send what we print to the bar's stream, and leave `> results.jsonl` empty.
    on_screen = sys.stdout.isatty()
    with Progress(console=Console(stderr=True), transient=True, redirect_stdout=on_screen) as bar:
        task = bar.add_task(what, total=total)
        for item in items:
            yield item
            bar.advance(task)


@contextlib.contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function to call with (done, total), which moves a bar with the time left where stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None  # noqa: ARG005
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def write_line(text: str) -> None:
    """One line of results, at once: what reads a pipe sees it as soon as it is true."""
    try:
        _write(sys.stdout, text)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # what a shell says of a program ended by SIGPIPE
    except OSError as error:
        error.filename = error.filename or "standard output"
        raise


def _write(stream: TextIO, line: str) -> None:
    """The line and its end in one piece: `print` writes two where Python does not buffer, and lines of processes that share
    a pipe get mixed up. Whatever name or path is in it, it is shown in its order."""
    stream.write(f"{escape_marks(line)}\n")
    stream.flush()


def write_json(value: dict[str, Any]) -> None:
    """One object on one line; letters beyond ASCII as they are where stdout takes them."""
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    text = json_format.dumps(value, ensure_ascii=encoding != "utf8")
    write_line(_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def resumable(error: KeyboardInterrupt | OSError, out: Path) -> str:
    """Why a command ended that goes on where it was, and what to do.

    >>> resumable(KeyboardInterrupt(), Path("out"))
    'stopped; what is done is kept, the same command goes on from there'
    """
    if isinstance(error, KeyboardInterrupt):
        return "stopped; what is done is kept, the same command goes on from there"
    return f"{out}: {error.strerror or error}{remedy(error)}; what is done is kept"


def similarity_and_wanted(similarity: float, wanted: float) -> str:
    """Both to three decimals, or to as many as show which is the larger.

    >>> similarity_and_wanted(0.5123, 0.4), similarity_and_wanted(0.99998, 0.99999)
    ('similarity 0.512 (wanted 0.400)', 'similarity 0.99998 (wanted 0.99999)')
    """
    digits = 3
    while digits < 7 and round(similarity, digits) == round(wanted, digits) and similarity < wanted:
        digits += 1
    return f"similarity {similarity:.{digits}f} (wanted {wanted:.{digits}f})"


def turned(photo: Photo) -> str:
    """How a photo was turned to find its faces, behind its name or figures; empty for an upright one."""
    return f" (turned by {photo.turned} degrees clockwise)" if photo.turned else ""


def turned_json(photo: Photo) -> dict[str, Any]:
    """The same as a field of JSON, which an upright photo lacks."""
    return {"turned": photo.turned} if photo.turned else {}


def where(face: Face) -> str:
    """Place and size of a face, for people."""
    x1, y1, _, _ = face.box
    return f"at {x1:.0f},{y1:.0f}, {face.width:.0f}x{face.height:.0f} px"


class Targets:
    """Names of files in one folder, each given once, after the photo or video they are made from."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._taken: set[str] = set()

    def path(self, source: str | os.PathLike[str], ending: str, *, instead_of: tuple[str, ...] | None = None) -> Path:
        """`source`'s name with another `ending`, and a number where that was given before.

        `instead_of`: the endings that the new one replaces; of others it comes behind. None: it replaces any.
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
    """Annotated copies of photos and videos in one folder, each under a name of its own."""

    def __init__(self, folder: Path, photos: Iterable[str]) -> None:
        here = os.path.realpath(folder)
        for photo in photos:
            if os.path.dirname(os.path.realpath(photo)) == here:  # a copy could take the place of a photo
                reason = (
                    f"wants a folder without any of the photos; {plain_text(photo)} is in {plain_text(str(folder))}"
                )
                raise typer.BadParameter(reason, param_hint="--draw")
        self._targets = Targets(folder)

    def video(self, path: str) -> Path:
        """The file for the annotated copy of one video."""
        return self._targets.path(path, ".mp4", instead_of=(".mp4", ".m4v"))

    def write(self, photo: Photo, labels: list[str], colors: list[tuple[int, int, int]]) -> Path:
        """Draw one photo, which keeps its name unless another one of that name was drawn before."""
        from facespace.faces.drawing import annotate
        from facespace.io import pictures

        assert photo.pixels is not None
        target = self._targets.path(photo.path, ".jpg", instead_of=(".jpg", ".jpeg"))
        pictures.save(annotate(photo.pixels, photo.faces, labels, colors), target, "JPEG", quality=92)
        return target
