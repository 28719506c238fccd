"""The journal of uploads: its contents, truncated journals, and other files."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import sys
import threading
from pathlib import Path

import pytest

from facespace.client.journal import Journal, default_journal
from facespace.errors import FacespaceError

ONE, TWO = (hashlib.sha256(text).hexdigest() for text in (b"1", b"2"))


def test_recorded_results_are_known_in_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "state" / "a.journal"
    with Journal(path) as journal:
        assert not journal.is_enrolled(ONE)
        journal.note(ONE, "added")
        journal.note(TWO, "no_face")
        journal.note(TWO, "no_face")
        assert journal.is_enrolled(ONE)
    with Journal(path) as journal:
        assert journal.is_enrolled(ONE)
        assert not journal.is_enrolled(TWO)
        assert (journal.n_refused(ONE), journal.n_refused(TWO)) == (0, 2)
        journal.note(TWO, "already_known")
        assert journal.is_enrolled(TWO)
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_file_cut_off_anywhere_is_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    with Journal(path) as journal:
        journal.note(ONE, "added")
        journal.note(TWO, "added")
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with Journal(path) as journal:
            known = journal.is_enrolled(ONE), journal.is_enrolled(TWO)
            assert known == (whole[:length].count(b"added\n") >= 1, False)
            journal.note(TWO, "added")
        with Journal(path) as journal:
            assert journal.is_enrolled(TWO), length


@pytest.mark.parametrize("data", [b"{}", b"\xff\xd8\xff" * 1000, b"facespace enroll journal 2\n", b"\n"])
def test_another_file_is_left_as_it_is(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    with pytest.raises(FacespaceError, match=r"photo.jpg: not a journal of enroll; give another file"):
        Journal(path)
    assert path.read_bytes() == data


def test_paths_that_are_not_files(tmp_path: Path) -> None:
    with pytest.raises(FacespaceError, match="must be a regular file"):
        Journal(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(FacespaceError, match="must be a regular file"):
            Journal(tmp_path / "pipe")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as caught:
        Journal(tmp_path / "file" / "a.journal")
    assert caught.value.filename


def test_a_journal_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facespace.client.journal.MAX_JOURNAL", 100)
    path = tmp_path / "a.journal"
    path.write_bytes(b"facespace enroll journal 1\n" + b"x" * 100)
    with pytest.raises(FacespaceError, match="a journal must have at most 100 bytes, got 127"):
        Journal(path)


def test_it_contains_no_names(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    with Journal(path) as journal:
        journal.note(ONE, "Ada's photo\nadded")
    assert path.read_text() == f"facespace enroll journal 1\n{ONE} refused\n"


def test_threads_write_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    keys = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(400)]
    with Journal(path) as journal:
        threads = [
            threading.Thread(target=lambda part: [journal.note(key, "added") for key in part], args=(keys[n::4],))
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with Journal(path) as journal:
        assert all(journal.is_enrolled(key) for key in keys)


def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.journal"

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Journal(path) as journal:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left on device") as caught:
            journal.note(ONE, "added")
        assert caught.value.filename == str(path)
        monkeypatch.undo()


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="folders of Linux")
def test_the_default_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    first = default_journal("http://a", "default")
    assert first.parent == tmp_path / ".local" / "state" / "facespace"
    assert first != default_journal("http://a", "guests") != default_journal("http://b", "guests")
    assert first == default_journal("http://a", "default")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert default_journal("http://a", "default") == first
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "own"))
    assert default_journal("http://a", "default").parent == tmp_path / "own" / "facespace"
