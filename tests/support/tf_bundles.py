"""TensorFlow checkpoint files, written byte by byte."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest

from facespace.errors import ModelError

CODES = {
    "float32": 1,
    "float64": 2,
    "int32": 3,
    "uint8": 4,
    "int16": 5,
    "int8": 6,
    "complex64": 8,
    "int64": 9,
    "bool": 10,
    "uint16": 17,
    "complex128": 18,
    "float16": 19,
    "uint32": 22,
    "uint64": 23,
}


def varint(number: int) -> bytes:
    out = bytearray()
    number %= 2**64
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out) + bytes([number])


def field(number: int, value: int | bytes) -> bytes:
    """A protobuf field: a number, or bytes (a message)."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32).to_bytes(4, "little")


def shape_message(shape: Iterable[int]) -> bytes:
    return b"".join(field(2, field(1, size)) for size in shape)


def entry(code: int, shape: Iterable[int], shard: int, offset: int, data: bytes, size: int | None = None) -> bytes:
    message = field(1, code) + field(2, shape_message(shape)) + field(3, shard) + field(4, offset)
    return message + field(5, len(data) if size is None else size) + b"\x35" + masked(data)


def header(n_shards: int = 1, endianness: int = 0, min_consumer: int = 0) -> bytes:
    return field(1, n_shards) + field(2, endianness) + field(3, field(1, 1) + field(2, min_consumer))


def block(pairs: Iterable[tuple[bytes, bytes]], restart: int = 16) -> bytes:
    out, restarts, last = bytearray(), [0], b""
    for k, (key, value) in enumerate(pairs):
        alike = [a == b for a, b in zip(last, key, strict=False)]
        shared = [*alike, False].index(False) if k % restart else 0
        if k and not k % restart:
            restarts.append(len(out))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    for place in [*restarts, len(restarts)]:
        out += place.to_bytes(4, "little")
    return bytes(out)


def table(pairs: list[tuple[bytes, bytes]], *, per_block: int = 1000, restart: int = 16, kind: int = 0) -> bytes:
    """Return the bytes of an index file: sorted pairs, so many per block; `kind` is written as each block's
    compression.
    """
    out, handles = bytearray(), []

    def add(data: bytes) -> bytes:
        handle = varint(len(out)) + varint(len(data))
        data += bytes([kind])
        out.extend(data + masked(data))
        return handle

    for start in range(0, len(pairs), per_block):
        part = pairs[start : start + per_block]
        handles.append((part[-1][0] + b"~", add(block(part, restart))))
    footer = add(block([])) + add(block(handles, 1))
    return bytes(out) + footer.ljust(40, b"\0") + 0xDB4775248B80FB57.to_bytes(8, "little")


def write_bundle(prefix: Path, tensors: dict[str, Any], *, n_shards: int = 1, **options: int) -> dict[bytes, bytes]:
    """Write a checkpoint and return its entries; tensors are spread over the data files in turn."""
    shards = [bytearray(b"padding"[:k]) for k in range(n_shards)]
    entries = {b"": header(n_shards)}
    for k, (name, array) in enumerate(sorted(tensors.items())):
        data = np.ascontiguousarray(array).tobytes()
        shard = shards[k % n_shards]
        code = CODES[array.dtype.name]
        entries[name.encode()] = entry(code, array.shape, k % n_shards, len(shard), data)
        shard += data
    for k, shard in enumerate(shards):
        Path(f"{prefix}.data-{k:05d}-of-{n_shards:05d}").write_bytes(shard)
    write_index(prefix, entries, **options)
    return entries


def write_index(prefix: Path, entries: dict[bytes, bytes], **options: int) -> None:
    Path(f"{prefix}.index").write_bytes(table(sorted(entries.items()), **options))


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ModelError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def extents(*places: tuple[int, int]) -> bytes:
    """Return a TensorSliceProto of (start, length) along each axis."""
    return b"".join(field(1, (field(1, start) if start else b"") + field(2, length)) for start, length in places)


# The keys as TensorFlow 1.7 wrote them for partitioned variables of these shapes.
PARTITIONED = {
    "part/10x4_3": ((10, 4), {(0, 4): b"\x80\x84\x80\x84", (4, 3): b"\x84\x83\x80\x84", (7, 3): b"\x87\x83\x80\x84"}),
    "300x3": ((300, 3), {(0, 36): b"\x80\xa4\x80\x83", (36, 264): b"\xa4\xc1\x08\x80\x83"}),
}


def write_partitioned(prefix: Path, name: str = "part/10x4_3", **changes: Any) -> np.ndarray:
    shape, parts = PARTITIONED[name]
    whole = np.random.default_rng(2).normal(size=shape).astype("f4")
    slices = changes.get("slices") or [((start, length), (0, shape[1])) for start, length in parts]
    entries = {b"": header(2)}
    entries[name.encode()] = (
        field(1, 1) + field(2, shape_message(shape)) + b"".join(field(7, extents(*s)) for s in slices)
    )
    shards = [bytearray(), bytearray(b"..")]
    for k, ((start, length), place) in enumerate(parts.items()):
        data = whole[start : start + length].tobytes()
        key = b"\0" + name.encode() + b"\0\1\1\2" + place
        part_shape = changes.get("part_shape") or (length, shape[1])
        entries[key] = entry(1, part_shape, k % 2, 0 if changes.get("one_place") else len(shards[k % 2]), data)
        shards[k % 2] += data
    for k, shard in enumerate(shards):
        Path(f"{prefix}.data-{k:05d}-of-00002").write_bytes(shard)
    entries.pop(changes.get("without", b"nothing"), None)
    write_index(prefix, entries)
    return whole


class limited:
    """Fails if more than so much memory is allocated inside."""

    def __init__(self, n_bytes: int = 2**25) -> None:
        self.n_bytes = n_bytes

    def __enter__(self) -> None:
        tracemalloc.start()

    def __exit__(self, *_: object) -> None:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < self.n_bytes
