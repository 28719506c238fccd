"""Files that are there whole or not at all."""

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

TEMPORARY = ".facespace-"  # how names of unfinished files begin
_OLD = f"{TEMPORARY}old-"  # and those of folders that are moved aside
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of an `OSError`: there is no room for a file
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` that takes its place when the block ends well, and is removed when it does not.

    What was written is on the disk before it takes its place: after a crash the old file is there or the new one. A link
    stays, and the file it leads to is replaced; a file that is replaced hands its mode on. What is no file (a device, a
    pipe, `/dev/stdout`) is not replaced: everything is written to it when the block ends.

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
    # Not by `tempfile`, whose files are private: a result is as readable as any other file of its user.
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
    """Whether what is written to a path goes where this process prints: `/dev/stdout`, or a terminal or pipe by its name."""
    try:
        return os.path.samestat(target.stat(), os.fstat(1))
    except OSError:  # there is no such file, or no stdout
        return False


@contextlib.contextmanager
def named_in_errors(target: Path) -> Iterator[None]:
    """Name `target` in an `OSError` from inside that names no file, as writing to an open one does, or a hidden one.

    >>> with named_in_errors(Path("a.txt")):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
    OSError: [Errno 28] No space left on device: 'a.txt'
    """
    try:
        yield
    except OSError as error:
        named = [f"{os.sep}{name}" for name in (error.filename, error.filename2) if name]  # both, of a copy or a move
        if error.errno and (not named or any(f"{os.sep}{TEMPORARY}" in name for name in named)):
            error.filename = str(target)
            del error.filename2  # which is printed where it is None
        raise


def remedy(error: OSError) -> str:
    """What to do about a file that the system refuses, as the end of a message; empty where that is not known.

    >>> remedy(OSError(errno.ENOSPC, "No space left on device"))
    '; make room and start the same command again'
    """
    if error.errno == errno.EFBIG:
        return "; no file may be so large there: raise the limit (ulimit -f), or give another place"
    if error.errno in FULL:
        return "; make room and start the same command again"
    return "; get the right to use it, or give another place" if error.errno in _REFUSED else ""


def write_bytes(target: Path, data: bytes) -> None:
    """Write a whole file as `atomic_path` does."""
    with atomic_path(target) as path:
        path.write_bytes(data)


def write_together(files: Mapping[Path, bytes | str]) -> None:
    """Write files that belong together, text as UTF-8: none takes its place before all are written."""
    with contextlib.ExitStack() as stack:
        for target, data in files.items():
            path = stack.enter_context(atomic_path(target))
            path.write_bytes(data.encode() if isinstance(data, str) else data)


def take_folder_place(unfinished: Path, target: Path) -> None:
    """Rename a whole folder to `target`; one that has the name stays until then, and where that does not succeed.

    What is in it is on the disk before. The old folder is moved aside for a moment: a process that is killed right then
    leaves no `target`, and `restore_folder`, also at the next call of this, brings the old one back.
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
    """Bring back the folder that a killed `take_folder_place` moved aside, if it is the only one; else remove it."""
    old = _moved_aside(target)
    if target.exists():
        _remove_at_once(old)
    elif old.exists():
        old.rename(target)


def restore_folders(parent: Path) -> None:
    """`restore_folder` for every folder in `parent` that was moved aside."""
    for old in parent.glob(f"{_OLD}*"):
        restore_folder(parent / old.name.removeprefix(_OLD))


def place_from(folder: AnyPath, target: AnyPath) -> AnyPath:
    """The path that leads from a folder to a file, where both can be moved together; else the file's own. Both are absolute.

    They can where they have more in common than the root: `..` through the root of another machine leads nowhere.

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
    """Wait until a file is on the disk."""
    with path.open("rb+" if os.name == "nt" else "rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can tell."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows
        return
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    except OSError as error:  # some network file systems cannot
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(folder)


def _moved_aside(target: Path) -> Path:
    return target.with_name(f"{_OLD}{target.name}")


def _remove_at_once(folder: Path) -> None:
    """Remove a folder that nobody may find half removed."""
    gone = folder.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _is_special(target: Path) -> bool:
    """Whether there is something other than a file: a device, a pipe."""
    try:
        mode = target.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _descriptor(target: Path) -> int | None:
    """The open file of this process that a path like `/dev/stdout` or `/dev/fd/3` means, by its number; else None."""
    path = os.path.abspath(target)
    for _ in range(40):  # links in a row
        folder, name = os.path.split(path)
        if name.isdecimal() and os.path.realpath(folder) in (f"/proc/{os.getpid()}/fd", "/dev/fd"):
            return int(name)
        if not os.path.islink(path):
            break
        path = os.path.join(folder, os.readlink(path))
    return None


def _write_through(path: Path, target: Path, descriptor: int | None) -> None:
    for stream in (sys.stdout, sys.stderr):  # what was printed before comes before
        stream.flush()
    with path.open("rb") as source, open(target if descriptor is None else os.dup(descriptor), "wb") as out:
        shutil.copyfileobj(source, out)


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
