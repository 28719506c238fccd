"""MS-Celeb-1M's tables: both published layouts, and errors for damaged tables."""

from __future__ import annotations

import base64
import pickle
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from facespace.datasets.formats import msceleb
from facespace.datasets.formats.msceleb import MSCelebImages
from facespace.errors import DatasetError, FacespaceError, ImageError


def picture(number: int) -> bytes:
    """Return a PPM, whose pixels are its bytes."""
    return b"P6 2 2 255\n" + bytes([number % 256]) * 12


def row(mid: str, image: bytes, columns: int = 6) -> bytes:
    fields = [mid, "a query", "3", "http://a/1.jpg", "http://a/", "FaceId-0"][: columns - 1]
    return "\t".join([*fields, base64.b64encode(image).decode()]).encode() + b"\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "MsCelebV1.tsv"


@pytest.mark.parametrize("columns", [6, 7])
def test_labels_are_those_of_sorted_class_folders(file: Path, columns: int) -> None:
    mids = ["m.0b", "m.01", "m.0a", "m.0b", "M.z", "m.01"]
    file.write_bytes(b"".join(row(mid, picture(k), columns) for k, mid in enumerate(mids)))
    images = MSCelebImages(file)
    assert list(images.names) == sorted(set(mids))
    assert [images.names[label] for label in images.labels] == mids
    assert [images.encoded(index) for index in range(6)] == [picture(k) for k in range(6)]
    assert images.read(5)[0, 0].tolist() == [5, 5, 5]
    again = pickle.loads(pickle.dumps(images))
    assert (again.encoded(2), again.labels.tolist()) == (picture(2), images.labels.tolist())


def test_line_ends_of_windows_and_empty_lines(file: Path) -> None:
    file.write_bytes(row("m.1", picture(0)).replace(b"\n", b"\r\n") + b"\n\r\n" + row("m.2", picture(1)))
    images = MSCelebImages(file)
    assert [images.encoded(index) for index in (0, 1)] == [picture(0), picture(1)]


def test_shards_are_one_dataset(tmp_path: Path) -> None:
    (tmp_path / "10.tsv").write_bytes(row("m.1", picture(2)))
    (tmp_path / "9.TSV").write_bytes(row("m.2", picture(0)) + row("m.1", b"none"))
    images = MSCelebImages(tmp_path)
    assert images.labels.tolist() == [1, 0, 0]
    assert images.encoded(2) == picture(2)
    with pytest.raises(ImageError, match=r"9\.TSV, line 2: not an image"):
        images.read(1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"m.1\tAAAA\n", "line 2: expected 6 or 7 columns separated by tabs, got 2"),
        (b"no table\n", "line 2: expected 6 or 7 columns separated by tabs, got 1"),
        (b"\t1\t2\t3\t4\tAAAA\n", "line 2: expected an MID first and an image last"),
        (b"m" * 1001 + b"\t1\t2\t3\t4\tAAAA\n", "line 2: expected an MID first and an image last"),
        (b"m.1\t1\t2\t3\t4\t\n", "line 2: expected an MID first and an image last"),
        (row("m.1", b"image")[:-1], "line 2: the last line has no line break: the file is cut short"),
    ],
)
def test_damaged_tables(file: Path, line: bytes, message: str) -> None:
    file.write_bytes(row("m.0", b"").replace(b"\n", b"AAAA\n") + line)
    with pytest.raises(DatasetError, match=rf"MsCelebV1\.tsv, {message}"):
        MSCelebImages(file)


def test_the_length_of_a_line_is_bounded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(msceleb, "_MAX_LINE", 1000)
    file.write_bytes(row("m.0", b"x") + row("m.1", bytes(2000)))
    with pytest.raises(DatasetError, match="line 2: a line must have at most 1,000 bytes"):
        MSCelebImages(file)


@pytest.mark.parametrize("text", [b"A", b"AAA", b"A*AA", b"AA=A", b"AAAA====", "é".encode() * 2, b"A A A A A A"])
def test_invalid_base64(file: Path, text: bytes) -> None:
    file.write_bytes(b"m.0\t1\t2\t3\t4\t" + text + b"\n")
    images = MSCelebImages(file)
    with pytest.raises(DatasetError, match="line 1: the last column is not an image in Base64"):
        images.encoded(0)


def test_a_name_that_is_not_utf8_is_escaped(file: Path) -> None:
    file.write_bytes(row("m.0", b"x").replace(b"m.0", b"caf\xe9"))
    assert list(MSCelebImages(file).names) == ["caf\\xe9"]


def test_invalid_files(tmp_path: Path, file: Path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        MSCelebImages(file)
    with pytest.raises(DatasetError, match=r"no tables of MS-Celeb-1M \(\.tsv\) in this folder"):
        MSCelebImages(tmp_path)
    file.write_bytes(b"")
    assert len(MSCelebImages(file)) == 0


@given(st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_are_read_or_refused(file: Path, data: st.DataObject) -> None:
    body = bytearray(row("m.1", picture(1)) + row("m.2", picture(2), 7))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(
            st.sampled_from([b"\t", b"\n", b"=", b"\xff", b"", b"A"])
        )
    file.write_bytes(bytes(body))
    try:
        images = MSCelebImages(file)
        for index in range(len(images)):
            images.encoded(index)
            images.read(index)
    except FacespaceError as error:
        assert "\n" not in str(error)
