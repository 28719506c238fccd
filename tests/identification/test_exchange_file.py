"""The file of an export: written, read again, and damaged in many ways."""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import resource
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from facespace.errors import GalleryError
from facespace.identification import exchange_file
from facespace.identification.exchange_file import CROPS, HEADER, PEOPLE, VECTORS, PeopleFile, is_export, write_people
from facespace.identification.exchange_lines import Header
from support.gallery_people import MODEL, D, everybody, person, told

ENTRIES = (PEOPLE, VECTORS, CROPS, HEADER)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "people.facespace"
    write_people(target, Header(MODEL, "default", {"templates": "best"}), everybody())
    return target


def read(path: Path) -> list[Any]:
    with PeopleFile(path) as file:
        return told(list(file.people()))


def entries(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(path: Path, contents: dict[str, bytes], **options: Any) -> None:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)


def change(path: Path, name: str, edit: Callable[[bytes], bytes]) -> None:
    contents = entries(path)
    contents[name] = edit(contents[name])
    rewrite(path, contents)


def refused(path: Path, said: str) -> None:
    with pytest.raises(GalleryError, match=f"(?s)^{path}: .*{said}") as caught, PeopleFile(path) as file:
        file.check()
    assert "\n" not in str(caught.value)


def test_what_is_written_is_read_again(path: Path) -> None:
    assert read(path) == told(everybody())
    n_photos = sum(len(one.photos) for one in everybody())
    n_crops = sum(photo.entry.crop is not None for one in everybody() for photo in one.photos)
    with PeopleFile(path) as file:
        file.check()
        assert file.header == Header(MODEL, "default", {"templates": "best"}, len(everybody()), n_photos, n_crops)


def test_other_programs_read_it(path: Path) -> None:
    contents = entries(path)
    vectors = load(contents[VECTORS])["vectors"]
    photos = [photo.entry for one in everybody() for photo in one.photos]
    assert vectors.dtype == np.float16 and (vectors == np.stack([one.embedding for one in photos])).all()
    with tarfile.open(fileobj=io.BytesIO(contents[CROPS])) as archive:
        found = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    assert found == {f"{k:09d}.png": one.crop for k, one in enumerate(photos) if one.crop is not None}
    assert contents[PEOPLE].count(b"\n") == len(photos) + len(everybody())
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def test_an_export_without_people_or_crops(tmp_path: Path) -> None:
    target = tmp_path / "empty.facespace"
    write_people(target, Header(MODEL, "default"), [])
    assert read(target) == [] and CROPS not in entries(target)


def test_more_vectors_than_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_file, "_ROWS", 3)
    target = tmp_path / "people.facespace"
    people = [person("Ada", *range(7)), person("Bob", 8), person("Eve", 9, 10)]
    write_people(target, Header(MODEL, "default"), people)
    assert read(target) == told(people)


def test_the_same_people_give_the_same_file(path: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.facespace"
    write_people(again, Header(MODEL, "default", {"templates": "best"}), everybody())
    assert again.read_bytes() == path.read_bytes()


def test_it_is_written_whole_or_not_at_all(path: Path) -> None:
    def people() -> Any:
        yield person("Ada", 1, crop=True)
        raise GalleryError("the gallery is damaged")

    before = path.read_bytes()
    for target in (path, path.with_name("new.facespace")):
        with pytest.raises(GalleryError, match="is damaged"):
            write_people(target, Header(MODEL, "default"), people())
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """In a process with a file size limit there is either no file or a complete one, for every limit."""
    script = """
import os, resource, signal, sys
from pathlib import Path
from facespace.identification.exchange_file import write_people
from facespace.identification.exchange_lines import Header
from support.gallery_people import MODEL, everybody
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
people, target = everybody(), Path(sys.argv[1])
for most in range(0, int(sys.argv[2]), 1000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    try:
        write_people(target, Header(MODEL, "default"), people)
    except OSError as error:
        assert error.errno == 27, error
    else:
        sys.exit(f"written with {most}")
    assert not os.listdir(target.parent), most
"""
    whole = tmp_path / "whole.facespace"
    write_people(whole, Header(MODEL, "default"), everybody())
    folder = tmp_path / "limited"
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, folder / "a.facespace", str(whole.stat().st_size)],
        capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert errno.EFBIG == 27 and resource.RLIMIT_FSIZE >= 0


# Files of other kinds


def test_files_that_are_not_exports(tmp_path: Path) -> None:
    path = tmp_path / "a.facespace"
    refused(path, "no such file")
    for data in (b"", b"PK\x03\x04", b"SQLite format 3\0" + bytes(200), b"\x80\x04." * 99, os.urandom(5000)):
        path.write_bytes(data)
        refused(path, "damaged, or not an export")
    refused(tmp_path, "no such file")


@pytest.mark.parametrize(
    "names",
    [
        [], [PEOPLE], [PEOPLE, VECTORS], [*ENTRIES, "more.txt"], [*ENTRIES, "../../etc/cron.d/x"], [*ENTRIES, "/etc/passwd"],
        [PEOPLE, VECTORS, "Gallery.json"], [f"./{name}" for name in ENTRIES],
    ],
)  # fmt: skip
def test_other_entries(path: Path, names: list[str]) -> None:
    contents = entries(path)
    rewrite(path, {name: contents.get(name, b"x") for name in names})
    refused(path, "damaged, or not an export of a gallery .a zip with")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_twice(path: Path, name: str) -> None:
    contents = entries(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, contents[name])
    refused(path, "a zip with")


def test_a_bomb(path: Path) -> None:
    """Compressed entries are refused before they are unpacked, even small ones."""
    contents = entries(path)
    contents[PEOPLE] += b" " * 100_000_000
    rewrite(path, contents, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**6
    refused(path, "is compressed")


@pytest.mark.parametrize("place", [8, 10], ids=["encrypted", "compressed"])
def test_entries_marked_as_compressed_or_encrypted(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + place] |= 1 if place == 8 else zipfile.ZIP_DEFLATED
    path.write_bytes(data)
    refused(path, "gallery.json is compressed or encrypted")


def test_a_central_directory_that_would_fill_the_memory(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for k in range(20_000):
            archive.writestr(f"{k:0100d}", b"")
    refused(path, "its central directory has .* bytes")


def test_entries_that_share_their_bytes(path: Path) -> None:
    """Two entries of the central directory point at the same data."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo(VECTORS).file_size
    place = data.rfind(b"PK\x01\x02", 0, data.rfind(HEADER.encode()))
    data[place + 20 : place + 28] = (len(data) - 100).to_bytes(4, "little") * 2
    path.write_bytes(data)
    assert size < len(data)
    refused(path, "overlap|bytes|has|damaged")


def test_sizes_are_compared_before_memory_is_taken(path: Path) -> None:
    def more(data: bytes) -> bytes:
        return data.replace(b'"photos": ', b'"photos": 9999999')

    change(path, HEADER, more)
    refused(path, r"must have float16 vectors of shape \[9999999")
    change(path, VECTORS, lambda data: exchange_file._tensor_header(10**9, D))
    change(
        path, HEADER, lambda data: data.split(b'"counts"')[0] + b'"counts":{"people":1,"photos":1000000000,"crops":1}}'
    )
    refused(path, f"{VECTORS} must have 16000000.* bytes, got")


@pytest.mark.parametrize(
    ("name", "edit", "said"),
    [
        (PEOPLE, lambda data: data[:-1], "truncated"),
        (PEOPLE, lambda data: data + b"{}\n", "line .* is missing"),
        (PEOPLE, lambda data: data[data.index(b"\n") + 1 :], "line 1 of people.jsonl: the field"),
        (PEOPLE, lambda data: b"\n".join(data.split(b"\n")[:-2]) + b"\n", "middle of a person"),
        (PEOPLE, lambda data: b"", "counts"),
        (PEOPLE, lambda data: data.replace(b'"crop": true', b'"crop": false'), "counts"),
        (PEOPLE, lambda data: data.replace(b'"photos": 1', b'"photos": 99'), "line"),
        (VECTORS, lambda data: data[:-1], "must have .* bytes, got"),
        (VECTORS, lambda data: data + b"\0", "must have .* bytes, got"),
        (VECTORS, lambda data: b"\xff" * 8 + data[8:], "not a safetensors"),
        (VECTORS, lambda data: data.replace(b"F16", b"F32"), "float16"),
        (VECTORS, lambda data: data.replace(b"vectors", b"Vectors"), "float16"),
        (VECTORS, lambda data: data[:-2] + b"\xff\x7f", "not of length 1"),
        (VECTORS, lambda data: data[:-16] + bytes(16), "not of length 1"),
        (CROPS, lambda data: data[:-1], "must end after the last crop"),
        (CROPS, lambda data: data + b"\0", "must end after the last crop"),
        (CROPS, lambda data: data[:1000], "PNG|header|truncated"),
        (CROPS, lambda data: data.replace(b"000000000.png", b"../../../.png"), "checksum|must have the file"),
        (CROPS, lambda data: data.replace(b"\x89PNG", b"\x89GIF"), "not a PNG"),
        (HEADER, lambda data: data[:-1], "not JSON"),
        (HEADER, lambda data: b"[]", "not facespace's"),
        (HEADER, lambda data: data + b" " * 2**21, "has .* bytes"),
        (HEADER, lambda data: data.replace(b'"version": 1', b'"version": 2'), "newer facespace"),
        (HEADER, lambda data: data.replace(b'"crops": ', b'"crops": 9'), "crops"),
    ],
)  # fmt: skip
def test_entries_that_are_damaged(path: Path, name: str, edit: Callable[[bytes], bytes], said: str) -> None:
    before = entries(path)[name]
    assert edit(before) != before, "the file must differ"
    change(path, name, edit)
    refused(path, said)


def test_a_photo_twice_and_one_that_was_rejected(path: Path) -> None:
    twice = person("Ada", 1, 1)
    rejected = person("Ada", 1, rejected=(twice.photos[0].entry.digest,))
    for one, said in ((twice, "'Ada' has a photo twice"), (rejected, "'Ada' has a photo that was rejected")):
        write_people(path, Header(MODEL, "default"), [one])
        refused(path, said)


def test_a_crop_that_is_too_large(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_file, "MAX_CROP", 100)
    refused(path, "of at most 100 bytes")


def test_a_flipped_bit_anywhere_is_noticed(path: Path) -> None:
    """A flipped bit in the data is detected by the checks or by the checksums of the zip."""
    rng = np.random.default_rng(0)
    data = path.read_bytes()
    before = read(path)
    n_refused = 0
    for place in rng.integers(0, len(data), 300).tolist():
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            with PeopleFile(path) as file:
                found = told(list(file.people()))
        except GalleryError as error:
            n_refused += 1
            assert str(error).startswith(str(path)) and "\n" not in str(error)
        else:  # a bit of the zip's creating system or time
            assert found == before
    assert n_refused > 250


@pytest.mark.parametrize("seed", range(4))
def test_damage_of_any_kind_raises_gallery_error(path: Path, seed: int) -> None:
    """Bytes are overwritten, removed, duplicated and cut off, in the file and within its entries."""
    rng = np.random.default_rng(seed)
    whole, contents = path.read_bytes(), entries(path)
    before = read(path)
    for _ in range(60):
        if rng.random() < 0.5:
            path.write_bytes(damaged(whole, rng))
        else:
            name = ENTRIES[int(rng.integers(4))]
            rewrite(path, contents | {name: damaged(contents[name], rng)})
        try:
            found = read(path)
        except GalleryError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
        else:  # the file is still valid: JSON allows blanks, and a name may have changed
            assert len(found) == len(before)


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    start = int(rng.integers(len(changed)))
    length = int(rng.integers(1, 40))
    kind = int(rng.integers(5))
    if kind == 0:
        changed[start : start + length] = rng.bytes(length)
    elif kind == 1:
        del changed[start : start + length]
    elif kind == 2:
        changed[start:start] = changed[start : start + length]
    elif kind == 3:
        del changed[start:]
    else:
        changed[start : start + length] = [b"0", b"9", b'"', b"\0", b"{", b"-"][int(rng.integers(6))] * length
    return bytes(changed)


def test_what_may_be_replaced(path: Path, tmp_path: Path) -> None:
    assert is_export(path)
    other = tmp_path / "other.zip"
    rewrite(other, {"photo.jpg": b"x"})
    assert not is_export(other) and not is_export(tmp_path / "missing")
    other.write_bytes(b"SQLite format 3\0")
    assert not is_export(other)


def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos are written and read in pieces; each would take kilobytes if all were kept in memory."""
    import tracemalloc

    monkeypatch.setattr(exchange_file, "_ROWS", 256)
    monkeypatch.setattr(exchange_file, "_BUFFER", 2**16)
    model = MODEL | {"dimension": 128}
    vector = np.eye(1, 128, dtype=np.float32)[0]
    one = person("x", 1)
    entry = dataclasses.replace(one.photos[0].entry, embedding=vector)

    def people(n: int) -> Any:
        for k in range(n):
            state = dataclasses.replace(one.state, name=f"{k:06d}")
            yield dataclasses.replace(one, state=state, photos=(one.photos[0]._replace(entry=entry),))

    peaks = []
    for n in (1_000, 4_000):
        target = tmp_path / f"{n}.facespace"
        tracemalloc.start()
        write_people(target, Header(model, "default"), people(n))
        with PeopleFile(target) as file:
            file.check()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.2 + 100_000, peaks
