"""What became of photos that were sent, remembered in a file: a run that was stopped goes on where it was.

The file holds no names, paths or pictures: a line is a SHA-256 and what became of the photo behind it, such as

    3a7bd3e2360a3d29eea436fcfb7e44c735d117c42d1c1835420b6b9942dd4f1b added
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
import threading
from pathlib import Path
from types import TracebackType

from facespace.errors import FacespaceError
from facespace.io.files import named_in_errors
from facespace.io.text import one_line

MAX_JOURNAL = 2**30  # bytes; 14 million photos
_FIRST_LINE = b"facespace enroll journal 1\n"
_LINE = re.compile(rb"([0-9a-f]{64}) ([a-z_]{1,40})\n")
ENROLLED = ("added", "already_known")


class Journal:
    """The file at `path`, which is made where it is missing; lines are added at once, and never changed.

    A line that was cut off by a crash is passed over. Threads may share a journal. `FacespaceError` for a file that is
    no journal; nothing is written to it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._enrolled: set[bytes] = set()
        self._n_refused: dict[bytes, int] = {}
        self._lock = threading.Lock()
        if self.path.exists() and not stat.S_ISREG(self.path.stat().st_mode):
            raise FacespaceError(f"{one_line(str(path))}: not a regular file; a journal is one")
        with named_in_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            self._read()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._file)

    def is_enrolled(self, photo: str) -> bool:
        """Whether a photo, known by its SHA-256 in hex, was enrolled."""
        return bytes.fromhex(photo) in self._enrolled

    def n_refused(self, photo: str) -> int:
        """How often a photo was refused."""
        return self._n_refused.get(bytes.fromhex(photo), 0)

    def note(self, photo: str, code: str) -> None:
        """Add what became of a photo: `added`, `already_known`, or why it was refused."""
        line = f"{photo} {code}\n".encode()
        if not _LINE.fullmatch(line):
            line = f"{photo} refused\n".encode()  # a code that no service of this version gives
        with self._lock, named_in_errors(self.path):
            self._take(bytes.fromhex(photo), line.split()[1].decode())
            if os.write(self._file, line) != len(line):
                raise OSError(28, "No space left on device")

    def _take(self, photo: bytes, code: str) -> None:
        if code in ENROLLED:
            self._enrolled.add(photo)
        else:
            self._n_refused[photo] = self._n_refused.get(photo, 0) + 1

    def _read(self) -> None:
        size = os.fstat(self._file).st_size
        if size > MAX_JOURNAL:
            raise FacespaceError(f"{one_line(str(self.path))}: {size:,} bytes; a journal has at most {MAX_JOURNAL:,}")
        if size == 0:
            os.write(self._file, _FIRST_LINE)
            return
        with os.fdopen(os.dup(self._file), "rb") as file:
            file.seek(0)
            if (first := file.readline(len(_FIRST_LINE))) != _FIRST_LINE:
                if _FIRST_LINE.startswith(first):  # its making was cut off
                    os.ftruncate(self._file, 0)
                    os.write(self._file, _FIRST_LINE)
                    return
                raise FacespaceError(f"{one_line(str(self.path))}: not a journal of enroll; give another file")
            whole = True
            while line := file.readline(200):
                if found := _LINE.fullmatch(line):
                    self._take(bytes.fromhex(found[1].decode()), found[2].decode())
                whole = line.endswith(b"\n")
            if not whole:
                os.write(self._file, b"\n")  # so that the next line is not joined to a cut one


def default_journal(url: str, collection: str) -> Path:
    """Where the journal of one collection of one service is by default: in the user's folder for the state of programs."""
    user = os.path.expanduser("~")
    if sys.platform == "win32":
        folder = os.environ.get("LOCALAPPDATA") or os.path.join(user, "AppData", "Local")
    elif sys.platform == "darwin":
        folder = os.path.join(user, "Library", "Application Support")
    else:
        folder = os.environ.get("XDG_STATE_HOME", "")
        if not os.path.isabs(folder):  # a relative one is to be ignored, says the XDG specification
            folder = os.path.join(user, ".local", "state")
    if not os.path.isabs(folder):
        raise FacespaceError("no home folder to keep a journal in; give a file with --journal")
    name = hashlib.sha256(f"{url}\n{collection}".encode()).hexdigest()[:32]
    return Path(folder, "facespace", f"enroll-{name}.journal")
