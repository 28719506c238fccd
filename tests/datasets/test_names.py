"""Names of identities: collected by a scan, in `names.txt`, and as folders."""

from __future__ import annotations

import os
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from facespace.datasets.names import MAX_LABEL, LabelScan, Names, folder_names, read_names, write_names
from facespace.errors import DatasetError


def test_names_are_a_sequence() -> None:
    names = Names(4, {1: "Ben", 3: "Dora"})
    assert list(names) == ["0", "Ben", "2", "Dora"]
    assert names[-1] == "Dora"
    assert names[1:3] == ["Ben", "2"]
    assert len(Names(2**24, {})) == 2**24
    with pytest.raises(IndexError):
        names[4]


def test_a_scan_keeps_labels_and_the_first_name_of_each(tmp_path: Path) -> None:
    write_names(tmp_path, ["Anna", "Ben", "Cleo"])
    scan = LabelScan()
    scan.add(4)
    scan.add(1, "Zoë")
    scan.add(1)
    scan.add(1, "Zoë")
    labels, names = scan.finish(tmp_path)
    assert labels.dtype == "int64"
    assert labels.tolist() == [4, 1, 1, 1]
    assert list(names) == ["Anna", "Zoë", "Cleo", "3", "4"]
    labels, names = LabelScan().finish(tmp_path / "nowhere")
    assert (len(labels), len(names)) == (0, 0)


@pytest.mark.parametrize("label", [-1, MAX_LABEL + 1, 2**63, 10**400])
def test_invalid_labels(label: int) -> None:
    with pytest.raises(DatasetError, match="the label must be a number from 0 to 16,777,215, got ") as caught:
        LabelScan().add(label)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("name", ["", "  ", "a" * 1001])
def test_invalid_names(name: str) -> None:
    with pytest.raises(DatasetError, match="a name must have 1 to 1000 characters"):
        LabelScan().add(0, name)


def test_one_label_has_one_name() -> None:
    scan = LabelScan()
    scan.add(0, "a\nb")
    scan.add(0, "a\nb")
    with pytest.raises(DatasetError, match=r"label 0 is named 'b' here and 'a\\\\nb' before"):
        scan.add(0, "b")


@given(st.lists(st.text(min_size=1, max_size=20).filter(str.strip), max_size=8))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_names_are_written_one_per_line(tmp_path: Path, names: list[str]) -> None:
    from facespace.io.text import plain_text

    write_names(tmp_path, names)
    assert list(read_names(tmp_path).values()) == list(map(plain_text, names))
    assert os.listdir(tmp_path) == ["names.txt"]


def test_a_list_with_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes("Anna\r\nZoë".encode())
    assert read_names(tmp_path) == {0: "Anna", 1: "Zoë"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"caf\xe9\n", "must be UTF-8 text with one name a line"),
        (b"Anna\n\nBen\n", "line 2: a name must have 1 to 1000 characters"),
        (b"a" * 1001, "line 1: a name must have"),
        (b"a\n" * (MAX_LABEL + 2), "16,777,217 names"),
    ],
)
def test_invalid_lists(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(DatasetError, match=rf"names\.txt.*{message}"):
        read_names(tmp_path)


# Folders


@given(st.lists(st.text(max_size=80) | st.sampled_from(["..", "../a", "a", "A", "Å", "Å", "CON", "a ", "a.", "a-2"])))
@settings(max_examples=200, deadline=None)
def test_every_name_becomes_one_safe_folder(names: list[str]) -> None:
    folders = folder_names(names)
    assert len(folders) == len(names)
    assert len({folder.casefold() for folder in folders}) == len(names)
    for folder in folders:
        assert os.path.basename(folder) == folder
        assert PureWindowsPath(folder).name == folder
        assert not folder.startswith((".", " "))
        assert not folder.endswith((".", " "))
        assert 0 < len(os.fsencode(folder)) <= 255
        assert folder.isprintable() or folder.encode("utf-8")
        assert not set(folder) & set('\0\n/\\:*?"<>|')
    assert folder_names(folders) == folders


def test_safe_names_are_not_changed() -> None:
    names = ["Anna", "王 小明", "person_00001", "O'Neil, J", "a-2", "m.0107_f", "J.R", "éé"]
    assert folder_names(names) == names


def test_names_that_lead_elsewhere_or_are_devices() -> None:
    assert folder_names(["../../etc", "/etc/passwd", "C:\\x", "..", ".ssh", "nul", "COM1.txt", "a\0b", "", " x. "]) == [
        "_._.._etc", "_etc_passwd", "C__x", "_", "_ssh", "_nul", "_COM1.txt", "a_x00b", "_-2", "x",
    ]  # fmt: skip


def test_equal_names_do_not_take_quadratic_time() -> None:
    folders = folder_names(["same"] * 50_000)
    assert folders[:3] == ["same", "same-2", "same-3"]
    assert len(set(folders)) == 50_000
    long = folder_names(["é" * 300] * 12)
    assert max(len(os.fsencode(folder)) for folder in long) <= 200
