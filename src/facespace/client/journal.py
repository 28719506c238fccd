"""A file that records the results of photos sent to a service, so that an interrupted run can be resumed.

The file contains no names, paths or images. Each line is a SHA-256 that identifies a photo, and its result, such as

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
    """The journal file at `path`, which is created if missing. Each result is appended at once; no line is ever changed.

    A line that was cut off by a crash is ignored. Threads may share a journal. Raises `FacespaceError` if the file exists
    but is not a journal; the file is left unchanged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._enrolled: set[bytes] = set()
        self._n_refused: dict[bytes, int] = {}
        self._lock = threading.Lock()
        if self.path.exists() and not stat.S_ISREG(self.path.stat().st_mode):
            raise FacespaceError(f"{one_line(str(path))}: must be a regular file to be a journal")
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
        """Return whether a photo, identified by its SHA-256 in hex, was enrolled."""
        return bytes.fromhex(photo) in self._enrolled

    def n_refused(self, photo: str) -> int:
        """Return how often a photo was refused."""
        return self._n_refused.get(bytes.fromhex(photo), 0)

    def note(self, photo: str, code: str) -> None:
        """Record the result of a photo: `added`, `already_known`, or why it was refused."""
        line = f"{photo} {code}\n".encode()
        if not _LINE.fullmatch(line):
            line = f"{photo} refused\n".encode()  # a code that does not fit into a line
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
            raise FacespaceError(
                f"{one_line(str(self.path))}: a journal must have at most {MAX_JOURNAL:,} bytes, got {size:,}"
            )
        if size == 0:
            os.write(self._file, _FIRST_LINE)
            return
        with os.fdopen(os.dup(self._file), "rb") as file:
            file.seek(0)
            if (first := file.readline(len(_FIRST_LINE))) != _FIRST_LINE:
                if _FIRST_LINE.startswith(first):  # a crash interrupted its creation
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
                os.write(self._file, b"\n")  # so that the next line starts on its own line


def default_journal(url: str, collection: str) -> Path:
    """Return the default path of the journal for one collection at `url`, in the user's folder for program state."""
    user = os.path.expanduser("~")
    if sys.platform == "win32":
        folder = os.environ.get("LOCALAPPDATA") or os.path.join(user, "AppData", "Local")
    elif sys.platform == "darwin":
        folder = os.path.join(user, "Library", "Application Support")
    else:
        folder = os.environ.get("XDG_STATE_HOME", "")
        if not os.path.isabs(folder):  # the XDG specification says to ignore relative paths
            folder = os.path.join(user, ".local", "state")
    if not os.path.isabs(folder):
        raise FacespaceError("no home folder to keep a journal in; give a file with --journal")
    name = hashlib.sha256(f"{url}\n{collection}".encode()).hexdigest()[:32]
    return Path(folder, "facespace", f"enroll-{name}.journal")
