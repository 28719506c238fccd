"""Unpacks a TensorFlow model from a zip: only the frozen graph, else only the checkpoint, after checking all sizes."""

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

MAX_BYTES = 2**31 - 1  # of all unpacked members together
_MAX_RATIO = 100  # of compression; weights hardly shrink, the graph of a checkpoint shrinks ten times
_SMALL = 2**20  # bytes; the ratio of smaller members is not checked
_MAX_READ = 2**20  # bytes at once; the directory of an archive with a few weights is shorter
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
    RuntimeError,  # a member needs a password or an unsupported compression
)


def is_archive(path: Path) -> bool:
    """Return whether the file begins like a zip."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def contains_graph(archive: Path) -> bool:
    """Return whether a zip contains a TensorFlow graph; the zip files that torch writes do not."""
    try:
        with _BoundedFile(io.FileIO(archive)) as file, zipfile.ZipFile(file) as opened:
            return any(name.endswith((".pb", ".meta")) for name in opened.namelist())
    except (ModelError, *_DAMAGED):
        return False  # the reader of the zip reports the error


def unpack_weights(archive: Path, folder: Path) -> Path:
    """Unpack the TensorFlow model in a zip into the new `folder`; return the path of its frozen graph.

    If the zip has no frozen graph (`.pb`), unpack a checkpoint's `.meta`, `.index` and `.data` files, and return
    `folder`. All files are written directly into `folder`, without the folders in the zip. Raises `ModelError` if the
    zip is damaged or has no model or several, or if a file to unpack has a name that leads out of the zip, is a link,
    needs a password, is too large, or is compressed more strongly than weights can be.
    """
    try:
        with _BoundedFile(io.FileIO(archive)) as file, zipfile.ZipFile(file) as opened:
            members = _chosen_members(opened.infolist(), str(archive))
            folder.mkdir()
            for name, member in members.items():
                _write(opened, member, folder / name)
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: seeking to an invalid offset
            raise
        reason = plain_text(str(error))[:200] or type(error).__name__
        raise ModelError(f"{archive}: a damaged zip ({reason}); download it again") from None
    if len(members) == 1:
        return folder / next(iter(members))
    return folder


class _BoundedFile(io.BufferedReader):
    """A file that refuses large reads, because `zipfile` trusts the sizes in the file and would allocate that much memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0 or size > _MAX_READ:
            here = self.tell()
            left = self.seek(0, io.SEEK_END) - here
            self.seek(here)
            size = left if size is None or size < 0 else min(size, left)
        if size > _MAX_READ:
            raise ModelError(f"{self.name}: the zip's directory must have at most {_MAX_READ} bytes, got {size}")
        return super().read(size)


def _chosen_members(members: Sequence[zipfile.ZipInfo], source: str) -> dict[str, zipfile.ZipInfo]:
    """Choose and check the members to unpack; return them by their new names."""
    graphs: list[zipfile.ZipInfo] = []
    checkpoint: list[zipfile.ZipInfo] = []
    for member in members:
        name = member.filename
        last = re.split(r"[/\\]", name)[-1]
        if name.startswith("__MACOSX/") or last.startswith("._"):  # added by macOS
            continue
        if last.endswith(".pb"):
            graphs.append(member)
        elif last.endswith((".meta", ".index")) or _DATA.search(last):
            checkpoint.append(member)
    chosen = graphs or checkpoint
    if len(graphs) > 1:
        raise ModelError(
            f"{source}: must contain one frozen graph (.pb), got {len(graphs)}; unpack it and give one of them"
        )
    if not graphs:
        kinds = [_DATA.sub(".data", member.filename).rpartition(".")[2] for member in checkpoint]
        if kinds.count("meta") != 1 or kinds.count("index") != 1 or "data" not in kinds:
            raise ModelError(
                f"{source}: must contain a frozen graph (.pb) or one checkpoint (.meta, .index, .data), got neither in "
                f"its {len(members)} entries"
            )
    if sum(member.file_size for member in chosen) > MAX_BYTES:
        raise ModelError(f"{source}: its weights must have at most {MAX_BYTES} bytes unpacked, got more")
    named: dict[str, zipfile.ZipInfo] = {}
    for member in chosen:
        _check(member, source)
        name = PurePosixPath(member.filename).name
        if name in named:
            raise ModelError(f"{source}: contains {name} twice")
        named[name] = member
    return named


def _check(member: zipfile.ZipInfo, source: str) -> None:
    where = f"{source}: {plain_text(member.filename)[:100]}"
    path = PurePosixPath(member.filename)
    if path.is_absolute() or ".." in path.parts or not re.fullmatch(r"[\w.+/ -]+", member.filename):
        raise ModelError(f"{where}: the name leads out of the zip or is invalid on some systems")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise ModelError(f"{where}: must be a file, got a link")
    if member.flag_bits & 1:
        raise ModelError(f"{where}: needs a password; unpack it and give the .pb")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ModelError(f"{where}: compressed by method {member.compress_type}; unpack it and give the .pb")
    if member.file_size > max(_SMALL, _MAX_RATIO * member.compress_size):
        raise ModelError(
            f"{where}: {member.compress_size} bytes would unpack to {member.file_size}, but weights hardly shrink"
        )


def _write(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    n_bytes = 0
    with opened.open(member) as reader, named_in_errors(target), target.open("xb") as writer:
        while piece := reader.read(_CHUNK):  # zipfile never returns more than the entry's size
            n_bytes += len(piece)
            writer.write(piece)
    if n_bytes != member.file_size:
        raise zipfile.BadZipFile(f"{member.filename} is shorter than its entry says")
