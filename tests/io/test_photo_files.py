"""The photos among a folder's files, and the line about files left out."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from facespace.io.photo_files import LeftOutWarning, PhotoFiles


def test_one_line_for_files_left_out() -> None:
    files = PhotoFiles()
    assert [files.takes(name) for name in ("a.jpg", "b.NEF")] == [True, True]
    assert files.left_out() == ""
    assert not files.takes("Thumbs.db")
    assert files.left_out() == "left out 1 file that is not a photo (Thumbs.db)"
    for k in range(4000):
        files.takes(f"{k}.xmp")
        files.takes(f"{k}.mov")
    assert files.left_out() == (
        "left out 4,000 videos (0.mov, 1.mov, 2.mov, …; give videos to identify by path) and "
        "4,001 files that are not photos (Thumbs.db, 0.xmp, 1.xmp, …)"
    )


def test_names_are_shown_as_given(tmp_path: Path) -> None:
    files = PhotoFiles()
    files.takes(tmp_path / "notes.txt", "Ada/notes.txt")
    files.takes("a\n\u2028b\udce9.txt")
    assert files.left_out().endswith(r"(Ada/notes.txt, a\n\u2028b\xe9.txt)")


def test_the_warning_names_the_folder() -> None:
    files = PhotoFiles()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files.warn()
    files.takes("notes.txt")
    with pytest.warns(LeftOutWarning, match=r"^my photos: left out 1 file that is not a photo \(notes.txt\)$"):
        files.warn("my photos")
    with pytest.warns(LeftOutWarning, match=r"^left out"):
        files.warn()
