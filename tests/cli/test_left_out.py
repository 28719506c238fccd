"""All commands use the same rule for which files of a folder are photos, and report the others in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from support.commands import Outcome

Cli = Callable[..., Outcome]
pytestmark = pytest.mark.filterwarnings("default::facespace.io.photo_files.LeftOutWarning")


@pytest.fixture
def mixed(tmp_path: Path, hopper_file: Path, collins_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two people with two photos each, one without an ending and one backup of an editor, among other files."""
    monkeypatch.chdir(tmp_path)
    for name, file in (("Eileen", collins_file), ("Grace", hopper_file)):
        (tmp_path / "people" / name).mkdir(parents=True)
        shutil.copy(file, tmp_path / "people" / name / "IMG_1")
        shutil.copy(file, tmp_path / "people" / name / "1.jpg~")
    ada = tmp_path / "people" / "Grace"
    (ada / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (ada / "desktop.ini").write_text("[.ShellClassInfo]")
    (ada / "film").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(99))
    (ada / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (ada / "._1.jpg").write_bytes(b"\0\5\x16\7")
    return tmp_path / "people"


FOLDERS = {
    "detect": ["detect", "people"],
    "embed": ["embed", "people", "--output", "e.npz"],
    "compare": ["compare", "people"],
    "cluster": ["cluster", "people", "--output", "out"],
    "enroll": ["enroll", "--gallery", "h", "--folder", "people"],
    "identify": ["identify", "--gallery", "g", "people"],
    "align": ["align", "people", "out"],
    "dataset check": ["dataset", "check", "people", "--output", "out"],
    "dataset convert": ["dataset", "convert", "people", "out", "--to", "webdataset"],
    "classify train": ["classify", "train", "people", "--output", "c", "--min-images", "1"],
    "calibrate": ["calibrate", "g", "people"],
    "facenet cluster": ["facenet", "cluster", "casia-webface", "people", "out"],
    "facenet align_dataset_mtcnn": ["facenet", "align_dataset_mtcnn", "people", "out"],
}


@pytest.mark.parametrize("command", FOLDERS)
def test_other_files_are_reported_in_one_line(cli: Cli, mixed: Path, hopper_file: Path, command: str) -> None:
    if "g" in FOLDERS[command]:
        assert cli("enroll", "--gallery", "g", "Grace Hopper", hopper_file).code == 0
    done = cli(*FOLDERS[command])
    lines = [line for line in done.errors if "left out 1 video" in line]
    assert len(lines) == 1, (done.out, done.err)
    assert "left out 1 video (" in lines[0] and "Grace/film; give videos to identify by path)" in lines[0]
    assert "and 2 files that are not photos (" in lines[0]
    assert "Grace/Thumbs.db, " in lines[0] and "Grace/desktop.ini)" in lines[0]
    assert not [line for line in done.errors if "not an image" in line]


def test_all_photos_are_taken(cli: Cli, mixed: Path) -> None:
    detected = cli("detect", "people", "--json")
    assert detected.code == 0
    assert [json.loads(line)["image"] for line in detected.lines] == [
        "people/Eileen/1.jpg~", "people/Eileen/IMG_1", "people/Grace/1.jpg~", "people/Grace/IMG_1",
    ]  # fmt: skip
    assert cli("align", "people", "out").lines[-1].startswith("4 photos: 4 faces")
    enrolled = cli("enroll", "--gallery", "g", "--folder", "people")
    assert (enrolled.code, enrolled.lines[-1]) == (0, "2 photos added; 2 people in g"), "the copies are known already"


def test_a_damaged_photo_is_an_error(cli: Cli, mixed: Path) -> None:
    (mixed / "Grace" / "2.jpg").write_text("no photo")
    for command in ("detect", "enroll", "cluster"):
        done = cli(*FOLDERS[command])
        assert done.code == 1
        assert [line for line in done.errors if line.startswith("facespace: people/Grace/2.jpg: not an image")]


def test_a_video_is_an_error_for_commands_that_take_photos(cli: Cli, mixed: Path) -> None:
    done = cli("detect", "people/Grace/film", "people/Grace/._1.jpg")
    assert done.code == 1
    assert done.errors == [
        "facespace: people/Grace/film: a video, not a photo; facespace identify and classify predict name people in videos",
        "facespace: people/Grace/._1.jpg: metadata of macOS (AppleDouble), not a photo; give the file without ._",
    ]  # fmt: skip


@pytest.mark.shared
def test_raw_video_streams_are_named(cli: Cli, tmp_path: Path, shared: Path, hopper_file: Path) -> None:
    pytest.importorskip("av")
    gallery = tmp_path / "g"
    assert cli("enroll", "--gallery", gallery, "Grace Hopper", hopper_file).code == 0
    for name in ("picamera.h264", "ipcam.mjpeg"):
        done = cli("identify", "--gallery", gallery, shared / "data" / "faults" / name)
        assert done.code == 0, done.err
        assert done.lines[0].endswith(f"{name}: 1 appearance in 4 frames processed")
