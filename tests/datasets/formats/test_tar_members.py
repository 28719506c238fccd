"""The members of a tar and their positions, compared with the standard library."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from facespace.datasets.formats.tar_members import Member, read_members
from facespace.errors import DatasetError


def members(data: bytes) -> list[Member]:
    return list(read_members(lambda offset, length: data[offset : offset + length], len(data)))


def packed(files: dict[str, bytes], kind: int = tarfile.USTAR_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def signed(header: bytes) -> bytes:
    """Return a header with the right checksum."""
    blank = header[:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(blank) + header[156:]


def header(name: str = "a", size: bytes = b"00000000001", kind: bytes = b"0") -> bytes:
    whole = tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT)
    return signed(whole[:124] + size.ljust(12, b"\0") + whole[136:156] + kind + whole[157:])


def extended(kind: bytes, content: bytes) -> bytes:
    return header("x", b"%011o" % len(content), kind) + content + bytes(-len(content) % 512)


END = bytes(1024)

names = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=120)
paths = st.lists(names.filter(lambda name: name not in (".", "..")), min_size=1, max_size=4).map("/".join)


@given(
    st.dictionaries(paths, st.binary(max_size=1200), max_size=5),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
@settings(max_examples=60, deadline=None)
def test_members_are_those_of_the_standard_library(files: dict[str, bytes], kind: int) -> None:
    data = packed(files, kind)
    found = members(data)
    assert {member.name: data[member.offset : member.offset + member.length] for member in found} == files
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(info.name, info.offset_data, info.size) for info in tar]
    assert [member[:3] for member in found] == expected
    assert all(member.start == files[member.name][:512] for member in found)


def test_names_too_long_for_a_header() -> None:
    long = "folder/" * 20 + "a.jpg"
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        assert [member.name for member in members(packed({long: b"x", "b": b"y"}, kind))] == [long, "b"]


def test_members_that_are_not_files_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    (tmp_path / "c").symlink_to("/etc/passwd")
    (tmp_path / "d").mkdir()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name in "dabc":
            tar.add(tmp_path / name, name)
        device = tarfile.TarInfo("e")
        device.type = tarfile.CHRTYPE
        tar.addfile(device)
    assert [(member.name, member.length) for member in members(stream.getvalue())] == [("a", 3)]


def test_a_link_has_no_data_even_if_its_size_is_not_0() -> None:
    for kind in (b"1", b"2", b"3", b"4", b"5", b"6"):
        data = header("link", b"%011o" % 512, kind) + header("a") + bytes(512) + END
        assert [(member.name, member.offset) for member in members(data)] == [("a", 1024)]


def test_a_size_only_pax_can_say() -> None:
    data = extended(b"x", b"12 size=600\n") + header("a", b"00000000000") + bytes(1024) + END
    (member,) = members(data)
    assert (member.name, member.offset, member.length) == ("a", 1536, 600)
    binary = header("a", b"\x80" + (5).to_bytes(11, "big")) + bytes(512) + END
    assert members(binary)[0].length == 5
    # It applies only to the next file.
    assert [member.length for member in members(data[:-1024] + header("b") + bytes(512) + END)] == [600, 1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cut short"),
        (header()[:300], "cut short"),
        (header() + bytes(512), "cut short: the zeros at the end of a tar are missing"),
        (header("a", b"77777777777") + END, "expected 8,589,934,591 bytes, got 1,024"),
        (header("a", b"\x80" + b"\xff" * 11), "a size of"),
        (header("a", b"\xff" * 12), "a number in a header is not octal"),
        (header("a", b"-1"), "a number in a header is not octal"),
        (header("a", b"1_0"), "a number in a header is not octal"),
        (b"A" + header()[1:] + END, "the checksum of a header does not match"),
        (gzip.compress(header() * 4, mtime=0), "single images cannot be read from a compressed file"),
        (header(kind=b"S") + END, "sparse"),
        (extended(b"x", b"22 GNU.sparse.major=1\n") + header() + bytes(512) + END, "sparse"),
        (extended(b"g", b"12 size=600\n") + header() + bytes(512) + END, "one name or size for all files"),
        (extended(b"x", b"12 size=-600\n") + header() + END, "an extended header is not `length key=value`"),
        (extended(b"x", b"13 size=-600\n") + header() + END, "the size in an extended header is not a valid number"),
        (extended(b"x", b"999 size=600\n") + header() + END, "an extended header is not `length key=value`"),
        (extended(b"x", b"0 a=b\n") + header() + END, "an extended header is not `length key=value`"),
        (extended(b"x", b"no records") + header() + END, "an extended header is not `length key=value`"),
        (header("a", b"%011o" % 2**21, b"L") + bytes(2**21) + END, "extended header of 2,097,152 bytes"),
        (packed({"a": b"1"}) + packed({"b": b"2"}), "data follows the end of the tar"),
    ],
)  # fmt: skip
def test_damaged_tars(data: bytes, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        members(data)


def test_no_chain_of_extended_headers_is_too_long() -> None:
    assert members(extended(b"L", b"long\0") * 5000 + header() + bytes(512) + END)[0].name == "long"


def test_damaged_sizes_allocate_no_memory() -> None:
    tracemalloc.start()
    for size in (b"77777777777", b"\x80" + b"\0" * 3 + b"\x01" * 8):
        for kind in (b"0", b"x", b"L", b"g"):
            with pytest.raises(DatasetError):
                members(header("a", size, kind) + END)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_random_bytes_are_read_or_refused(data: st.DataObject) -> None:
    tar = bytearray(packed({"a.jpg": b"1" * 600, "b/" * 60 + "c": b"2"}, data.draw(st.sampled_from([0, 1, 2]))))
    for _ in range(data.draw(st.integers(0, 3))):
        block = 512 * data.draw(st.integers(0, len(tar) // 512 - 1))
        at = block + data.draw(st.integers(0, 511))
        tar[at : at + 2] = data.draw(st.binary(min_size=2, max_size=2))
        if data.draw(st.booleans()):
            tar[block : block + 512] = signed(bytes(tar[block : block + 512]))
    whole = bytes(tar[: data.draw(st.integers(0, len(tar)))]) if data.draw(st.booleans()) else bytes(tar)
    try:
        found = members(whole)
    except DatasetError as error:
        assert "\n" not in str(error)
    else:
        assert all(0 < member.offset <= member.offset + member.length <= len(whole) for member in found)
