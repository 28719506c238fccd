"""Writes files and folders atomically: after a crash either the old version or the new one is complete."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import TypeVar

from facespace.errors import DatasetError
from facespace.io.text import one_line

AnyPath = TypeVar("AnyPath", bound=PurePath)

TEMPORARY = ".facespace-"  # prefix of unfinished files
_OLD = f"{TEMPORARY}old-"  # prefix of folders that are moved aside
FULL = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
)  # error numbers of an `OSError`: disk full, quota or file size limit exceeded
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path next to `target`, which replaces `target` if the block succeeds and is removed if it fails.

    The content is flushed to the disk before the replacement, so after a crash either the old or the new file exists. If
    `target` is a link, the file it leads to is replaced. The mode of a replaced file is kept. A device or a pipe, such as
    `/dev/stdout`, is not replaced: the content is written to it when the block ends.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_path(Path(folder, "a.txt")) as path:
    ...         _ = path.write_text("whole")
    ...     sorted(file.name for file in Path(folder).iterdir())
    ['a.txt']
    """
    descriptor = _descriptor(target)
    if descriptor is not None or _is_special(target):
        with tempfile.TemporaryDirectory(prefix=TEMPORARY) as folder:
            path = Path(folder, f"written{target.suffix}")
            path.touch()
            yield path
            _write_through(path, target, descriptor)
        return
    given, target = target, Path(os.path.realpath(target))
    mode = stat.S_IMODE(target.stat().st_mode) if target.is_file() else None
    path = target.parent / f"{TEMPORARY}{secrets.token_hex(8)}{target.suffix}"
    # Not `tempfile`, whose files only their owner can read: results get the user's default permissions.
    with named_in_errors(given):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if mode is None else mode | 0o200))
    try:
        with named_in_errors(given):
            yield path
            sync_file(path)
            if mode is not None:
                path.chmod(mode)
            os.replace(path, target)
            sync_folder(target.parent)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def is_stdout(target: Path) -> bool:
    """Return whether a path is this process's standard output: `/dev/stdout`, or the file or pipe to which it leads."""
    try:
        return os.path.samestat(target.stat(), os.fstat(1))
    except OSError:  # no such file, or no standard output
        return False


@contextlib.contextmanager
def named_in_errors(target: Path) -> Iterator[None]:
    """Set the file name of an `OSError` in the block to `target` if the error names no file or a temporary one.

    >>> with named_in_errors(Path("a.txt")):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
    OSError: [Errno 28] No space left on device: 'a.txt'
    """
    try:
        yield
    except OSError as error:
        named = [f"{os.sep}{name}" for name in (error.filename, error.filename2) if name]  # copies and moves have both
        if error.errno and (not named or any(f"{os.sep}{TEMPORARY}" in name for name in named)):
            error.filename = str(target)
            del error.filename2  # otherwise it is printed as None
        raise


def remedy(error: OSError) -> str:
    """Return advice for an error of the file system, to append to its message; empty if no advice applies.

    >>> remedy(OSError(errno.ENOSPC, "No space left on device"))
    '; make room and start the same command again'
    """
    if error.errno == errno.EFBIG:
        return "; the file is too large for that place: raise the limit (ulimit -f), or give another place"
    if error.errno in FULL:
        return "; make room and start the same command again"
    return "; change its permissions, or give another place" if error.errno in _REFUSED else ""


def write_bytes(target: Path, data: bytes) -> None:
    """Write a file atomically, as `atomic_path` does."""
    with atomic_path(target) as path:
        path.write_bytes(data)


def write_together(files: Mapping[Path, bytes | str]) -> None:
    """Write files that belong together, text as UTF-8; targets are replaced only after all files are written."""
    with contextlib.ExitStack() as stack:
        for target, data in files.items():
            path = stack.enter_context(atomic_path(target))
            path.write_bytes(data.encode() if isinstance(data, str) else data)


def take_folder_place(unfinished: Path, target: Path) -> None:
    """Rename a finished folder to `target`; an existing `target` is replaced, but kept if the renaming fails.

    The content is flushed to the disk first. The old folder is moved aside for a moment. If the process is killed at that
    moment, `target` is missing, and `restore_folder`, or the next call of this function, brings the old folder back.
    """
    restore_folder(target)
    for folder, _, names in os.walk(unfinished):
        for name in names:
            sync_file(Path(folder, name))
        sync_folder(Path(folder))
    old = _moved_aside(target)
    if target.exists():
        target.rename(old)
    try:
        unfinished.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    sync_folder(target.parent)
    _remove_at_once(old)


def restore_folder(target: Path) -> None:
    """Bring back the old folder that a killed `take_folder_place` moved aside; if `target` exists, remove the old one."""
    old = _moved_aside(target)
    if target.exists():
        _remove_at_once(old)
    elif old.exists():
        old.rename(target)


def restore_folders(parent: Path) -> None:
    """Call `restore_folder` for every folder in `parent` that was moved aside."""
    for old in parent.glob(f"{_OLD}*"):
        restore_folder(parent / old.name.removeprefix(_OLD))


def place_from(folder: AnyPath, target: AnyPath) -> AnyPath:
    """Return the path of the file `target` relative to `folder` if they share more than the root, else `target` itself.

    Both paths must be absolute. A relative path stays valid when folder and file are moved together, unless it leads
    through the root.

    >>> from pathlib import PurePosixPath, PureWindowsPath
    >>> str(place_from(PurePosixPath("/home/ann/people"), PurePosixPath("/home/ann/photos/a.jpg")))
    '../photos/a.jpg'
    >>> str(place_from(PureWindowsPath("C:/people"), PureWindowsPath("D:/photos/a.jpg")))
    'D:\\\\photos\\\\a.jpg'
    """
    kind = type(target)
    pairs = zip(folder.parts, target.parts, strict=False)
    common = sum(1 for _ in itertools.takewhile(lambda pair: kind(pair[0]) == kind(pair[1]), pairs))
    return target if common < 2 else kind(*[".."] * (len(folder.parts) - common), *target.parts[common:])


def sync_file(path: Path) -> None:
    """Flush a file to the disk."""
    with path.open("rb+" if os.name == "nt" else "rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Flush the names in a folder to the disk, if the system supports it."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows
        return
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    except OSError as error:  # some network file systems do not support it
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(folder)


def _moved_aside(target: Path) -> Path:
    return target.with_name(f"{_OLD}{target.name}")


def _remove_at_once(folder: Path) -> None:
    """Remove a folder; rename it first, so that it is never seen partly removed."""
    gone = folder.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _is_special(target: Path) -> bool:
    """Return whether a path is neither a regular file nor a folder, but for example a device or a pipe."""
    try:
        mode = target.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _descriptor(target: Path) -> int | None:
    """Return the number of the open file behind a path like `/dev/stdout` or `/dev/fd/3`; None for other paths."""
    path = os.path.abspath(target)
    for _ in range(40):  # at most so many links
        folder, name = os.path.split(path)
        if name.isdecimal() and os.path.realpath(folder) in (f"/proc/{os.getpid()}/fd", "/dev/fd"):
            return int(name)
        if not os.path.islink(path):
            break
        path = os.path.join(folder, os.readlink(path))
    return None


def _write_through(path: Path, target: Path, descriptor: int | None) -> None:
    for stream in (sys.stdout, sys.stderr):  # so that earlier output comes first
        stream.flush()
    with path.open("rb") as source, open(target if descriptor is None else os.dup(descriptor), "wb") as out:
        shutil.copyfileobj(source, out)


def read_whole(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Read a regular file; raises `DatasetError` if it cannot be read, is empty or is longer than `max_bytes`."""
    file = one_line(os.fspath(path))
    try:
        status = os.stat(path)  # before opening: opening a fifo waits for its writer
        if not stat.S_ISREG(status.st_mode):
            raise DatasetError(f"{file}: not a regular file")
        if status.st_size > max_bytes:
            raise DatasetError(f"{file}: must have at most {max_bytes:,} bytes, got {status.st_size:,}")
        with open(path, "rb") as stream:
            data = stream.read(status.st_size)  # not `max_bytes`: `read` allocates as many bytes as requested
    except (OSError, ValueError, MemoryError) as error:  # ValueError: an impossible file name
        missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DatasetError(f"{file}: " + ("no such file" if missing else f"cannot be read ({reason})")) from None
    if not data:
        raise DatasetError(f"{file}: the file is empty")
    return data
