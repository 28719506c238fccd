"""The photos among the files of a folder, and one line for what was left out."""

from __future__ import annotations

import os
import warnings

from facespace.io.file_kinds import Kind, kind_in_folder
from facespace.io.text import one_line

_NAMED = 3  # files that the line names


class LeftOutWarning(UserWarning):
    """A folder has files that are no photos; they were left out."""


class PhotoFiles:
    """Chooses the photos among files found in folders by `kind_in_folder`, and counts the rest.

    Hidden files, those of macOS called `._photo.jpg` too, are for whoever lists a folder to leave out uncounted.

    >>> files = PhotoFiles()
    >>> [name for name in ("a.jpg", "notes.txt", "film.mp4") if files.takes(name)], files.left_out()
    (['a.jpg'], 'left out 1 video (film.mp4; identify takes videos that are given by name) and 1 file that is no photo (notes.txt)')
    """

    def __init__(self) -> None:
        self._counts = {Kind.VIDEO: 0, Kind.OTHER: 0}
        self._names: dict[Kind, list[str]] = {Kind.VIDEO: [], Kind.OTHER: []}

    def takes(self, path: str | os.PathLike[str], name: str = "", *, kind: Kind | None = None) -> bool:
        """Whether a file is a photo; others are counted, by `name` where it is given. `kind`: what it is, if known."""
        kind = kind_in_folder(path) if kind is None else kind
        if kind is Kind.PHOTO:
            return True
        self._counts[kind] += 1
        if len(self._names[kind]) < _NAMED:
            self._names[kind].append(one_line(name or os.fsdecode(path)))
        return False

    def left_out(self) -> str:
        """What was left out so far, on one line; empty for nothing."""
        parts = []
        if n := self._counts[Kind.VIDEO]:
            names = f"{self._some(Kind.VIDEO)}; identify takes videos that are given by name"
            parts.append(f"{n:,} video{'' if n == 1 else 's'} ({names})")
        if n := self._counts[Kind.OTHER]:
            parts.append(
                f"{n:,} file{' that is no photo' if n == 1 else 's that are no photos'} ({self._some(Kind.OTHER)})"
            )
        return f"left out {' and '.join(parts)}" if parts else ""

    def warn(self, folder: str | os.PathLike[str] = "") -> None:
        """A `LeftOutWarning` that says so, if anything was left out."""
        if line := self.left_out():
            where = f"{one_line(os.fsdecode(folder))}: " if folder else ""
            warnings.warn(where + line, LeftOutWarning, stacklevel=3)

    def _some(self, kind: Kind) -> str:
        names = ", ".join(self._names[kind])
        return f"{names}, …" if self._counts[kind] > len(self._names[kind]) else names
