"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

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


def content_digest(path: str) -> str | OSError:
    """The SHA-256 of a file, as 64 digits; why it cannot be read is returned, so that a row of files goes on."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        return error
    return digest.hexdigest()
