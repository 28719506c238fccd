"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from facespace.errors import DatasetError
from facespace.io.text import one_line

TEMPORARY = ".facespace-"  # how names of unfinished files begin


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` that takes its place when the block ends well, and is removed when it does not.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_path(Path(folder, "a.txt")) as path:
    ...         _ = path.write_text("whole")
    ...     sorted(file.name for file in Path(folder).iterdir())
    ['a.txt']
    """
    path = target.parent / f"{TEMPORARY}{secrets.token_hex(8)}{target.suffix}"
    # Not by `tempfile`, whose files are private: a result is as readable as any other file of its user.
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield path
        os.replace(path, target)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def take_folder_place(unfinished: Path, target: Path) -> None:
    """Rename a whole folder to `target`; one that has the name stays until then, and where that does not succeed."""
    old = target.with_name(f"{TEMPORARY}old-{target.name}")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    try:
        unfinished.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def read_whole(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """All bytes of a regular file; `DatasetError` where it cannot be read, is empty or longer than `max_bytes`."""
    file = one_line(os.fspath(path))
    try:
        status = os.stat(path)  # before opening: opening a fifo waits for its writer
        if not stat.S_ISREG(status.st_mode):
            raise DatasetError(f"{file}: not a regular file")
        if status.st_size > max_bytes:
            raise DatasetError(f"{file}: {status.st_size:,} bytes; no file of its kind is longer than {max_bytes:,}")
        with open(path, "rb") as stream:
            data = stream.read(status.st_size)  # which is taken at once: not `max_bytes`
    except (OSError, ValueError, MemoryError) as error:  # ValueError: a name no file can have
        missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise DatasetError(f"{file}: " + ("no such file" if missing else f"cannot be read ({said})")) from None
    if not data:
        raise DatasetError(f"{file}: the file is empty")
    return data
