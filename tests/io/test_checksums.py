"""Checksums of files, against the standard library and a bit-by-bit CRC-32C."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from facespace.errors import ModelError
from facespace.io import checksums
from facespace.io.checksums import copy_file, masked_crc, sha256_of, sha256_or_error

CONTENT = bytes(range(256)) * 5


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a"
    path.write_bytes(CONTENT)
    return path


# The masked CRC-32C


def slow_crc(data: bytes) -> int:
    """Compute CRC-32C (Castagnoli) bit by bit with the reversed polynomial."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def slow_mask(crc: int) -> int:
    """Rotate the 32 bits right by 15 and add a constant, as in the documentation of TFRecord files."""
    bits = f"{crc:032b}"
    return (int(bits[-15:] + bits[:-15], 2) + 0xA282EAD8) & 0xFFFFFFFF


def test_known_values() -> None:
    assert slow_crc(b"123456789") == 0xE3069283  # the check value of the catalogue of CRCs
    assert slow_crc(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert masked_crc(b"") == 0xA282EAD8
    assert masked_crc(bytes(32)) == slow_mask(0x8A9136AA)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=100))
def test_it_equals_a_slow_loop(data: bytes) -> None:
    assert masked_crc(data) == slow_mask(slow_crc(data))


def test_arrays_are_accepted_and_not_changed() -> None:
    array = np.frombuffer(b"123456789", np.uint8).copy()
    assert masked_crc(array) == masked_crc(b"123456789")
    assert array.flags.writeable
    assert masked_crc(array[2:5]) == masked_crc(b"345")
    read_only = np.frombuffer(b"123456789", np.uint8)
    assert masked_crc(read_only) == masked_crc(b"123456789")


# SHA-256


@pytest.mark.parametrize("chunk", [1, 7, 1280, 2**18])
def test_the_hash_of_a_file(file: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(checksums, "_CHUNK", chunk)
    assert sha256_of(file) == sha256_of(str(file)) == hashlib.sha256(CONTENT).hexdigest()


def test_the_hash_of_several_files_is_that_of_their_contents_in_order(file: Path, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"more")
    (tmp_path / "empty").write_bytes(b"")
    paths = [file, tmp_path / "empty", tmp_path / "b"]
    assert sha256_of(*paths) == hashlib.sha256(CONTENT + b"more").hexdigest()
    assert sha256_of(*reversed(paths)) == hashlib.sha256(b"more" + CONTENT).hexdigest()
    assert sha256_of() == sha256_of(tmp_path / "empty") == hashlib.sha256(b"").hexdigest()


def test_the_error_of_an_unreadable_file_is_returned(file: Path, tmp_path: Path) -> None:
    assert sha256_or_error(file) == hashlib.sha256(CONTENT).hexdigest()
    error = sha256_or_error(tmp_path / "none")
    assert isinstance(error, FileNotFoundError)
    assert isinstance(sha256_or_error(tmp_path), IsADirectoryError)
    with pytest.raises(FileNotFoundError):
        sha256_of(file, tmp_path / "none")


# Copies


@pytest.mark.parametrize("chunk", [1, 7, 1280, 2**18])
def test_a_copy_and_its_hash(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(checksums, "_CHUNK", chunk)
    (tmp_path / "b").write_bytes(b"something longer that was here before" * 100)
    assert copy_file(file, tmp_path / "b") == hashlib.sha256(CONTENT).hexdigest()
    assert (tmp_path / "b").read_bytes() == file.read_bytes() == CONTENT


@pytest.mark.parametrize("chunk", [7, 2**18])
def test_the_size_of_a_copy_is_limited(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(checksums, "_CHUNK", chunk)
    assert copy_file(file, tmp_path / "b", max_bytes=len(CONTENT)) == hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(ModelError, match=f"more than {len(CONTENT) - 1} bytes"):
        copy_file(file, tmp_path / "c", max_bytes=len(CONTENT) - 1)
    assert (tmp_path / "c").stat().st_size < len(CONTENT)


def test_a_large_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    """Reading stops as soon as there are more bytes than allowed."""
    with (tmp_path / "large").open("wb") as stream:  # takes no space on the disk
        stream.truncate(2**25)
    with pytest.raises(ModelError, match="large: more than 1000000 bytes"):
        copy_file(tmp_path / "large", tmp_path / "b", max_bytes=10**6)
    assert os.path.getsize(tmp_path / "b") <= 10**6
