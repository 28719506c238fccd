"""The project's own files except models: arrays and a JSON record in one safetensors file, never a pickle."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load

from facespace.errors import FacespaceError
from facespace.io.files import atomic_path
from facespace.io.text import first_line, plain_text

_VERSION = "1"
_MAX_BYTES = 4 << 30  # two million rows of 512 numbers
_IN_HEADER = 1 << 20  # bytes of a record in the header (safetensors: 100 MB); a longer record becomes an array
_RECORD = "record"
_DTYPES = {
    "f2": "F16", "f4": "F32", "f8": "F64", "i1": "I8", "i2": "I16", "i4": "I32", "i8": "I64",
    "u1": "U8", "u2": "U16", "u4": "U32", "u8": "U64", "b1": "BOOL",
}  # fmt: skip
_PICKLES = (
    b"\x80\x02",
    b"\x80\x03",
    b"\x80\x04",
    b"\x80\x05",
    b"(dp",
    b"(lp",
    b"(i",
    b"ccopy_reg",
    b"cnumpy",
    b"csklearn",
)

Arrays = dict[str, npt.NDArray[Any]]


def write_tensor_file(path: Path, kind: str, arrays: Mapping[str, npt.NDArray[Any]], record: dict[str, Any]) -> None:
    """Write arrays and a record atomically; `kind` is the kind of file, for instance "classifier".

    Raises `FacespaceError`, and keeps an existing file, if the file would be too large for `read_tensor_file`. The file
    is written array by array, because safetensors' own writers copy the whole file in memory, or report a full disk without
    its error number.
    """
    metadata = {"format": f"facespace-{kind}", "version": _VERSION}
    held = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    text = json.dumps(record)
    if len(text) <= _IN_HEADER:
        metadata["record"] = text
    else:
        held[_RECORD] = np.frombuffer(text.encode(), np.uint8)
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, array in held.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": _DTYPES[array.dtype.str[1:]], "shape": array.shape, "data_offsets": (begin, end)}
    start = json.dumps(header).encode()
    start += b" " * (-len(start) % 8)
    if (size := 8 + len(start) + end) > _MAX_BYTES:
        raise FacespaceError(f"{plain_text(str(path))}: a {kind} must have at most {_MAX_BYTES} bytes, got {size}")
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        file.write(struct.pack("<Q", len(start)) + start)
        for array in held.values():
            file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).data)


def read_tensor_file(
    path: Path, kind: str, error: type[FacespaceError], *, remedy: str
) -> tuple[Arrays, dict[str, Any]]:
    """Read a file that `write_tensor_file` wrote; raises `error`, whose message says what is wrong and ends with `remedy`.

    A pickle is refused. Reading takes no more memory than the file's size.
    """
    name = plain_text(str(path))
    if not path.is_file():
        raise error(f"{name}: no {kind} there; {remedy}")
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise error(f"{name}: a {kind} must have at most {_MAX_BYTES} bytes, got {size}")
    with path.open("rb") as file:
        start = file.read(16)
        # A safetensors file begins with an eight-byte length, which may look like a pickle, and a brace.
        if start.startswith(_PICKLES) and start[8:9] != b"{":
            raise error(f"{name}: a pickle, which could run any code, is refused; {remedy}")
        header = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
        if not 2 <= header <= size - 8:
            raise error(f"{name}: not a facespace {kind}, or cut short; {remedy}")
        file.seek(0)
        data = file.read()
    try:
        metadata = json.loads(data[8 : 8 + header]).get("__metadata__", {})
        if metadata.get("format") != f"facespace-{kind}":
            raise error(f"{name}: not a facespace {kind}; {remedy}")
        if metadata.get("version") != _VERSION:
            raise error(f"{name}: the version must be {_VERSION} for this facespace, got {metadata.get('version')!r}")
        arrays: Arrays = dict(load(data))
        inside = metadata.get("record")
        record = json.loads(arrays.pop(_RECORD).tobytes() if inside is None else inside)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as wrong:
        raise damaged(path, kind, error, wrong, remedy=remedy) from None
    if not isinstance(record, dict):
        raise error(f"{name}: a damaged {kind} (its record is a {type(record).__name__}); {remedy}")
    return arrays, record


def damaged(path: Path, kind: str, error: type[FacespaceError], wrong: Exception, *, remedy: str) -> FacespaceError:
    """Return the error for a damaged file."""
    return error(f"{plain_text(str(path))}: a damaged {kind} ({plain_text(first_line(wrong))}); {remedy}")
