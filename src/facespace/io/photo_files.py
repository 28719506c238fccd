"""Finds the photos among the files of a folder, and describes the files left out in one line."""

from __future__ import annotations

import os
import warnings

from facespace.io.file_kinds import Kind, kind_in_folder
from facespace.io.text import one_line

_NAMED = 3  # files of each kind that are named in the line


class LeftOutWarning(UserWarning):
    """Files in a folder that are not photos were left out."""


class PhotoFiles:
    """Chooses the photos among files found in folders, by `kind_in_folder`, and counts all other files.

    Callers must skip hidden files, such as macOS's `._photo.jpg`, which are not counted.

    >>> files = PhotoFiles()
    >>> [name for name in ("a.jpg", "notes.txt", "film.mp4") if files.takes(name)], files.left_out()
    (['a.jpg'], 'left out 1 video (film.mp4; give videos to identify by path) and 1 file that is not a photo (notes.txt)')
    """

    def __init__(self) -> None:
        self._counts = {Kind.VIDEO: 0, Kind.OTHER: 0}
        self._names: dict[Kind, list[str]] = {Kind.VIDEO: [], Kind.OTHER: []}

    def takes(self, path: str | os.PathLike[str], name: str = "", *, kind: Kind | None = None) -> bool:
        """Return whether a file is a photo. If it is not, count it as left out.

        Messages show `name` instead of the path. `kind` is the file's kind, if the caller knows it already.
        """
        kind = kind_in_folder(path) if kind is None else kind
        if kind is Kind.PHOTO:
            return True
        self._counts[kind] += 1
        if len(self._names[kind]) < _NAMED:
            self._names[kind].append(one_line(name or os.fsdecode(path)))
        return False

    def left_out(self) -> str:
        """Return one line about the files left out so far; empty if no file was left out."""
        parts = []
        if n := self._counts[Kind.VIDEO]:
            names = f"{self._some(Kind.VIDEO)}; give videos to identify by path"
            parts.append(f"{n:,} video{'' if n == 1 else 's'} ({names})")
        if n := self._counts[Kind.OTHER]:
            parts.append(
                f"{n:,} file{' that is not a photo' if n == 1 else 's that are not photos'} ({self._some(Kind.OTHER)})"
            )
        return f"left out {' and '.join(parts)}" if parts else ""

    def warn(self, folder: str | os.PathLike[str] = "") -> None:
        """Issue a `LeftOutWarning` if files were left out."""
        if line := self.left_out():
            where = f"{one_line(os.fsdecode(folder))}: " if folder else ""
            warnings.warn(where + line, LeftOutWarning, stacklevel=3)

    def _some(self, kind: Kind) -> str:
        names = ", ".join(self._names[kind])
        return f"{names}, …" if self._counts[kind] > len(self._names[kind]) else names
