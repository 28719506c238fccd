"""Weights out of a zip: the frozen graph, or else the checkpoint, and nothing else; all sizes are checked before."""

from __future__ import annotations

import errno
import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from facespace.errors import ModelError
from facespace.io.files import named_in_errors
from facespace.io.text import plain_text

MAX_BYTES = 2**31 - 1  # of all members taken together, unpacked
_MAX_RATIO = 100  # weights hardly shrink; the graph beside a checkpoint does by ten times
_SMALL = 2**20  # bytes; of less, no ratio is asked
_MAX_READ = 2**20  # bytes at once; a list of contents that is longer is not of an archive of a few weights
_CHUNK = 2**18
_DATA = re.compile(r"\.data-\d{5}-of-\d{5}$")
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    RuntimeError,  # a member wants a password, or a compression nobody has
)


def is_archive(path: Path) -> bool:
    """Whether the file begins like a zip."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def holds_graph(archive: Path) -> bool:
    """Whether a zip names a TensorFlow graph among its members: those of torch have none."""
    try:
        with _BoundedFile(io.FileIO(archive)) as file, zipfile.ZipFile(file) as opened:
            return any(name.endswith((".pb", ".meta")) for name in opened.namelist())
    except (ModelError, *_DAMAGED):
        return False  # who reads it says what is wrong


def unpack_weights(archive: Path, folder: Path) -> Path:
    """Write what a zip holds of a TensorFlow model into the new `folder`: returns the frozen graph's path.

    Where there is no frozen graph (`.pb`), it is `folder`, with a checkpoint's `.meta`, `.index` and `.data` files.
    Files get the last part of their names; what the zip says of folders is not followed. Raises `ModelError` for a
    damaged zip and for one with several models, with names that lead out of it, links, passwords, or members too
    large or too well compressed to be weights.
    """
    try:
        with _BoundedFile(io.FileIO(archive)) as file, zipfile.ZipFile(file) as opened:
            members = _wanted(opened.infolist(), str(archive))
            folder.mkdir()
            for name, member in members.items():
                _write(opened, member, folder / name)
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that one is for seeking to nonsense
            raise
        reason = plain_text(str(error))[:200] or type(error).__name__
        raise ModelError(f"{archive}: a damaged zip ({reason}); fetch it again") from None
    if len(members) == 1:
        return folder / next(iter(members))
    return folder


class _BoundedFile(io.BufferedReader):
    """A file that is read in small pieces, also by a library that believes the sizes it finds in it."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0 or size > _MAX_READ:
            here = self.tell()
            left = self.seek(0, io.SEEK_END) - here
            self.seek(here)
            size = left if size is None or size < 0 else min(size, left)
        if size > _MAX_READ:
            raise ModelError(f"{self.name}: a list of contents of {size} bytes; at most {_MAX_READ} were expected")
        return super().read(size)


def _wanted(members: Sequence[zipfile.ZipInfo], source: str) -> dict[str, zipfile.ZipInfo]:
    """The members to unpack, by the names they get, all of them checked."""
    graphs: list[zipfile.ZipInfo] = []
    checkpoint: list[zipfile.ZipInfo] = []
    for member in members:
        name = member.filename
        last = re.split(r"[/\\]", name)[-1]
        if name.startswith("__MACOSX/") or last.startswith("._"):  # what a Mac adds for itself
            continue
        if last.endswith(".pb"):
            graphs.append(member)
        elif last.endswith((".meta", ".index")) or _DATA.search(last):
            checkpoint.append(member)
    chosen = graphs or checkpoint
    if len(graphs) > 1:
        raise ModelError(f"{source}: holds {len(graphs)} frozen graphs (.pb), wanted one; unpack it and give the one")
    if not graphs:
        kinds = [_DATA.sub(".data", member.filename).rpartition(".")[2] for member in checkpoint]
        if kinds.count("meta") != 1 or kinds.count("index") != 1 or "data" not in kinds:
            raise ModelError(
                f"{source}: wanted a frozen graph (.pb) or one checkpoint (.meta, .index, .data); "
                f"there is neither among its {len(members)} entries"
            )
    if sum(member.file_size for member in chosen) > MAX_BYTES:
        raise ModelError(f"{source}: its weights would have more than {MAX_BYTES} bytes")
    named: dict[str, zipfile.ZipInfo] = {}
    for member in chosen:
        _check(member, source)
        name = PurePosixPath(member.filename).name
        if name in named:
            raise ModelError(f"{source}: holds {name} twice")
        named[name] = member
    return named


def _check(member: zipfile.ZipInfo, source: str) -> None:
    where = f"{source}: {plain_text(member.filename)[:100]}"
    path = PurePosixPath(member.filename)
    if path.is_absolute() or ".." in path.parts or not re.fullmatch(r"[\w.+/ -]+", member.filename):
        raise ModelError(f"{where}: a name that leads out of the zip, or that not every system takes")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise ModelError(f"{where}: a link, wanted a file")
    if member.flag_bits & 1:
        raise ModelError(f"{where}: wants a password; unpack it and give the .pb")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ModelError(f"{where}: compressed by method {member.compress_type}; unpack it and give the .pb")
    if member.file_size > max(_SMALL, _MAX_RATIO * member.compress_size):
        raise ModelError(
            f"{where}: {member.compress_size} bytes that would unpack to {member.file_size}; weights do not shrink so"
        )


def _write(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    n_bytes = 0
    with opened.open(member) as reader, named_in_errors(target), target.open("xb") as writer:
        while piece := reader.read(_CHUNK):  # never more than the entry says; the library sees to that
            n_bytes += len(piece)
            writer.write(piece)
    if n_bytes != member.file_size:
        raise zipfile.BadZipFile(f"{member.filename} is shorter than its entry says")
