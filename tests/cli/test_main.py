"""Every command: its output, exactly where programs read it, and its exit code."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

import facespace
from facespace.defaults import DEFAULT_MODEL
from facespace.faces import drawing
from facespace.faces.fonts import Fonts
from facespace.faces.lettering import Lettering
from facespace.models.zoo import MODELS
from support.commands import Outcome, run_facespace

Cli = Callable[..., Outcome]
COMMANDS = ["detect", "compare", "embed", "enroll", "identify", "gallery", "models", "doctor", "demo"]
GALLERY_COMMANDS = [
    "list", "show", "rename", "remove", "merge", "split", "reject", "set", "templates", "log", "undo", "erase", "retention",
    "check", "collections", "export", "import", "migrate", "copy",
]  # fmt: skip


@pytest.fixture(scope="module")
def people(
    tmp_path_factory: pytest.TempPathFactory, embedder: facespace.Embedder, detector: facespace.MTCNN,
    hopper_file: Path, collins_file: Path,
) -> Path:  # fmt: skip
    """A gallery of two people. Tests that change it use a copy."""
    path = tmp_path_factory.mktemp("gallery") / "people.gallery"
    with facespace.Gallery(path, embedder, create=True) as gallery:
        for name, file in (("Grace Hopper", hopper_file), ("王小明", collins_file)):
            (photo,) = facespace.process([str(file)], detector, embedder, largest=True, keep_crops=True)
            gallery.add(name, photo.embeddings[0], photo.crops[0])
    return path


@pytest.fixture
def own_people(people: Path, tmp_path: Path) -> Path:
    target = tmp_path / "own.gallery"
    target.write_bytes(people.read_bytes())
    return target


@pytest.fixture(scope="module")
def two_faces(tmp_path_factory: pytest.TempPathFactory, hopper_file: Path, collins_file: Path) -> Path:
    """Hopper on the left, smaller than Collins on the right."""
    target = tmp_path_factory.mktemp("two") / "two.png"
    picture = Image.new("RGB", (900, 512))
    with Image.open(hopper_file) as hopper, Image.open(collins_file) as collins:
        picture.paste(hopper.convert("RGB").resize((128, 150)), (0, 0))
        picture.paste(collins.convert("RGB").resize((512, 512)), (388, 0))
    picture.save(target)
    return target


def check_face(face: dict[str, object], *, matched: bool) -> None:
    expected = ["number", "box", "score", "landmarks", "quality", *(["name", "similarity"] if matched else [])]
    assert list(face) == expected
    x1, y1, x2, y2 = face["box"]  # type: ignore[misc]
    assert x1 < x2
    assert y1 < y2
    assert 0.5 < face["score"] <= 1  # type: ignore[operator]
    assert 0 <= face["quality"] <= 1  # type: ignore[operator]
    assert np.array(face["landmarks"]).shape == (5, 2)


# Commands in separate processes


def test_a_day_with_the_command(tmp_path: Path, hopper_file: Path, collins_file: Path, cat_file: Path) -> None:
    (tmp_path / "staff" / "Eileen Collins").mkdir(parents=True)
    (tmp_path / "staff" / "Eileen Collins" / "1.png").write_bytes(collins_file.read_bytes())
    (tmp_path / "staff" / "Grace Hopper").mkdir()
    for name in ("王.jpg", "staff/Grace Hopper/2.jpg"):
        (tmp_path / name).write_bytes(hopper_file.read_bytes())

    done = run_facespace("enroll", "--gallery", "a.gallery", "--folder", "staff", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert done.lines == [
        "Eileen Collins: staff/Eileen Collins/1.png enrolled",
        "Grace Hopper: staff/Grace Hopper/2.jpg enrolled",
        "2 photos added; 2 people in a.gallery",
    ]

    done = run_facespace(
        "identify", "--gallery", "a.gallery", "--json", "王.jpg", str(cat_file), "no.jpg", cwd=tmp_path
    )
    assert done.code == 1
    assert done.errors == ["facespace: no.jpg: no such file"]
    hopper, cat, missing = done.json
    assert hopper["image"] == "王.jpg"
    assert [face["name"] for face in hopper["faces"]] == ["Grace Hopper"]
    assert hopper["faces"][0]["similarity"] > 0.99
    assert cat == {"image": str(cat_file), "faces": []}
    assert missing == {"image": "no.jpg", "error": "no such file"}

    done = run_facespace("gallery", "rename", "--gallery", "a.gallery", "Eileen Collins", "Zoë", cwd=tmp_path)
    assert (done.code, done.out, done.err) == (0, "Eileen Collins is now Zoë\n", "")
    done = run_facespace("gallery", "remove", "--gallery", "a.gallery", "Grace Hopper", cwd=tmp_path)
    assert (done.code, done.out) == (0, "Grace Hopper: 1 photo removed\n")
    assert done.errors == [
        "facespace: removed photos are kept; gallery undo restores them, gallery erase deletes them permanently"
    ]
    done = run_facespace("gallery", "list", "--gallery", "a.gallery", "--json", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    (person,) = done.json
    assert (person["name"], person["photos"]) == ("Zoë", 1)


def test_detect_and_compare_and_embed(tmp_path: Path, hopper_file: Path, collins_file: Path) -> None:
    done = run_facespace("detect", "--json", hopper_file, "--draw", "drawn", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    check_face(done.json[0]["faces"][0], matched=False)
    assert os.listdir(tmp_path / "drawn") == ["grace_hopper.jpg"]
    done = run_facespace("compare", hopper_file, hopper_file, collins_file)
    assert (done.code, done.err) == (0, "")
    assert [line.split()[1] for line in done.lines[:-1]] == ["same", "different", "different"]
    assert done.lines[-1].startswith("threshold 0.")
    done = run_facespace("embed", hopper_file, "--output", "faces.npz", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert done.lines == ["1 faces of 1 photos -> faces.npz"]


def test_models() -> None:
    done = run_facespace("models", "--json")
    assert (done.code, done.err) == (0, "")
    assert [card["name"] for card in done.json] == list(MODELS)
    (card,) = [card for card in done.json if card["default"]]
    assert list(card) == [
        "name", "default", "network", "dimension", "input_spec", "licence", "origin", "training_data", "sha256", "file",
        "detector", "thresholds", "note", "url",
    ]  # fmt: skip
    assert card["dimension"] == 128
    assert facespace.InputSpec.from_dict(card["input_spec"]) == MODELS["sface"].spec
    assert Path(card["file"]).is_file()


def test_a_closed_pipe_ends_the_run_quietly() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "facespace", "models"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_interrupted(tmp_path: Path, hopper_file: Path) -> None:
    (tmp_path / "photos").mkdir()
    for k in range(300):
        (tmp_path / "photos" / f"{k}.jpg").symlink_to(hopper_file)
    # If a shell runs the tests in the background, they and their children ignore this signal by default.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code += "; from facespace.cli.main import main; main()"
    command = [sys.executable, "-c", code, "detect", tmp_path / "photos"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.send_signal(2)
        assert len(process.stdout.read().splitlines()) < 590
        assert process.wait() == 130
        assert b"Traceback" not in process.stderr.read()


# Help and usage


@pytest.mark.parametrize(
    "words", [[], *([name] for name in COMMANDS), *(["gallery", name] for name in GALLERY_COMMANDS)], ids=" ".join
)
def test_help(cli: Cli, words: list[str]) -> None:
    for flag in ("--help", "-h"):
        outcome = cli(*words, flag)
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.out.startswith(f"Usage: {' '.join(['facespace', *words])} ")
        assert "Traceback" not in outcome.out
    expected = {(): COMMANDS, ("gallery",): GALLERY_COMMANDS}.get(tuple(words), [])
    for name in expected:
        assert re.search(rf"^  {name}  +\S", outcome.out, re.MULTILINE), name


def test_max_pixels(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option is given before the command and applies to every command."""
    monkeypatch.setenv("FACESPACE_MAX_PIXELS", "1000")  # the option replaces it; monkeypatch restores it
    photo = tmp_path / "photo.png"
    Image.new("RGB", (40, 30)).save(photo)
    refused = cli("--max-pixels", "1199", "detect", str(photo))
    assert refused.code == 1 and "1,200 pixels (40 x 30); the limit is 1,199" in refused.err
    assert cli("--max-pixels", "1200", "detect", str(photo)).out == f"{photo}: no faces\n"


def test_version(cli: Cli) -> None:
    assert cli("--version").out == f"facespace {facespace.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["detect"],
        ["detect", "a.jpg", "--nonsense"],
        ["detect", "a.jpg", "--min-size", "1"],
        ["detect", "a.jpg", "--min-size", "big"],
        ["compare", "one.jpg"],
        ["compare", "a.jpg", "b.jpg", "--rate", "0"],
        ["compare", "a.jpg", "b.jpg", "--rate", "0.6"],
        ["compare", "a.jpg", "b.jpg", "--threshold", "2"],
        ["embed", "a.jpg"],
        ["embed", "a.jpg", "--output", "/no/such/folder/a.npz"],
        ["identify", "a.jpg"],
        ["identify", "--gallery", "g"],
        ["identify", "--gallery", "g", "a.jpg", "--rate", "0"],
        ["identify", "--gallery", "g", "a.jpg", "--rate", "1"],
        ["identify", "--gallery", "g", "a.jpg", "--rate", "nan"],
        ["identify", "--gallery", "g", "a.jpg", "--threshold", "1.5"],
        ["enroll", "Anna", "a.jpg"],
        ["enroll", "--gallery", "g"],
        ["enroll", "--gallery", "g", "Anna"],
        ["enroll", "--gallery", "g", "Anna", "a.jpg", "--folder", "."],
        ["enroll", "--gallery", "g", "--folder", "/no/such/folder"],
        ["enroll", "--gallery", "g", "--folder", "."],
        ["gallery"],
        ["gallery", "list"],
        ["gallery", "remove", "--gallery", "g"],
        ["gallery", "rename", "--gallery", "g", "Anna"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = cli(*arguments)
    assert outcome.code == 2
    assert "Usage: facespace" in outcome.err + outcome.out
    assert "Traceback" not in outcome.err
    assert os.listdir(tmp_path) == []


# detect


def test_detect_json(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hopper_file: Path, two_faces: Path,
                     cat_file: Path, detector: facespace.MTCNN) -> None:  # fmt: skip
    monkeypatch.chdir(hopper_file.parent)
    outcome = cli("detect", "--json", "--detector", "mtcnn", f"./{hopper_file.name}", two_faces, cat_file)
    assert (outcome.code, outcome.err) == (0, "")
    hopper, two, cat = outcome.json
    assert [list(entry) for entry in outcome.json] == [["image", "faces"]] * 3
    assert [entry["image"] for entry in outcome.json] == [f"./{hopper_file.name}", str(two_faces), str(cat_file)]
    assert [len(entry["faces"]) for entry in outcome.json] == [1, 2, 0]
    for face in hopper["faces"] + two["faces"]:
        check_face(face, matched=False)
    (expected,) = detector.detect(facespace.read(hopper_file))
    assert hopper["faces"] == [{"number": 1, **expected.as_dict(), "quality": hopper["faces"][0]["quality"]}]
    assert cat["faces"] == []


def test_detect_text(cli: Cli, hopper_file: Path, two_faces: Path, cat_file: Path) -> None:
    outcome = cli("detect", hopper_file, two_faces, cat_file)
    assert (outcome.code, outcome.err) == (0, "")
    assert [line for line in outcome.lines if not line.startswith("  ")] == [
        f"{hopper_file}: 1 face", f"{two_faces}: 2 faces", f"{cat_file}: no faces",
    ]  # fmt: skip
    assert all(
        re.fullmatch(r"  [12]: score [01]\.\d{3} quality [01]\.\d\d at -?\d+,-?\d+, \d+x\d+ px", line)
        for line in outcome.lines
        if line.startswith("  ")
    )
    assert len(outcome.lines) == 6


def test_min_size_leaves_small_faces_out(cli: Cli, two_faces: Path) -> None:
    assert [len(entry["faces"]) for entry in cli("detect", "--json", two_faces).json] == [2]
    left_out = cli("detect", "--json", "--detector", "mtcnn", "--min-size", "110", two_faces)
    assert [len(entry["faces"]) for entry in left_out.json] == [1]
    left_out = cli("detect", "--json", "--min-size", "160", two_faces)
    assert [len(entry["faces"]) for entry in left_out.json] == [1]


@pytest.mark.filterwarnings("default::facespace.io.photo_files.LeftOutWarning")
def test_folders_are_searched(cli: Cli, tmp_path: Path, hopper_file: Path, cat_file: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.png").write_bytes(cat_file.read_bytes())
    (tmp_path / "a.jpg").write_bytes(hopper_file.read_bytes())
    (tmp_path / "notes.txt").write_text("none")
    outcome = cli("detect", "--json", tmp_path)
    assert [entry["image"] for entry in outcome.json] == [str(tmp_path / "a.jpg"), str(tmp_path / "sub" / "b.png")]


@pytest.mark.parametrize("words", [["detect"], ["identify", "--gallery", "g"], ["cluster", "--output", "out"]])
def test_a_folder_without_permission_is_reported(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hopper_file: Path, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("enroll", "--gallery", "g", "Grace", hopper_file).code == 0
    (tmp_path / "photos" / "closed").mkdir(parents=True)
    (tmp_path / "photos" / "a.jpg").write_bytes(hopper_file.read_bytes())
    scandir = os.scandir

    def refuses(folder: object = ".") -> object:
        if os.fspath(folder).endswith("closed"):  # type: ignore[call-overload]
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", refuses)
    done = cli(words[0], "photos", *words[1:])
    assert done.code == 1
    where = os.path.join("photos", "closed")
    assert f"facespace: {where}: this folder cannot be entered (Permission denied)" in done.errors
    assert "a.jpg" in done.out or "1 faces in" in done.out


def test_the_home_folder_is_found_in_every_path(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hopper_file: Path
) -> None:
    """A shell expands `--draw ~/x`, not `--draw=~/x`; a program that starts the command expands neither."""
    monkeypatch.setenv("HOME" if os.name == "posix" else "USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").write_bytes(hopper_file.read_bytes())
    assert cli("detect", "~/a.jpg", "--draw=~/x").code == 0
    assert cli("embed", "~/a.jpg", "--output", "~/e.npz").code == 0
    assert sorted(os.listdir(tmp_path)) == ["a.jpg", "e.npz", "x"]


def test_too_little_memory_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch, hopper_file: Path) -> None:
    def fails(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("facespace.pipeline.photos.process", fails)
    done = cli("detect", hopper_file)
    assert done.code == 1
    assert done.errors == ["facespace: out of memory; end other programs, or give fewer or smaller photos at once"]


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of a file's size")
@pytest.mark.parametrize(
    "words",
    [
        "embed photo.jpg --output e.npz",
        "cluster photo.jpg --output out",
        "detect photo.jpg --draw drawn",
        "classify train people --output c.classifier",
        "facenet export_embeddings --is_aligned False casia-webface people --embeddings_name e.npy",
    ],
)
def test_a_full_disk_is_one_line_with_the_file_and_what_to_do(
    tmp_path: Path, hopper_file: Path, collins_file: Path, words: str
) -> None:
    for name, file in (("photo.jpg", hopper_file), ("people/a/1.jpg", hopper_file), ("people/b/1.jpg", collins_file)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(file.read_bytes())
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))\n"
        "from facespace.cli.main import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, *words.split()]
    environment = {**os.environ, "FACESPACE_RUNTIME": "onnxruntime"}  # OpenVINO may write files of its own
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "make room" in line or "raise the limit" in line]
    assert line.startswith(f"facespace: {words.split()[-1]}")
    assert re.search(": (File too large; .* raise the limit|No space left on device; make room)", line)
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob(".facespace-*"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("words", [["models", "--json"], ["models"]])
def test_a_full_disk_under_standard_output(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "facespace", *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (
        1,
        "facespace: standard output: No space left on device; make room and start the same command again\n",
    )


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_path_without_write_permission(
    cli: Cli, tmp_path: Path, hopper_file: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path / "a.npz"))

    monkeypatch.setattr(np, "savez", refused)
    outcome = cli("embed", hopper_file, "--output", tmp_path / "a.npz")
    line = f"facespace: {tmp_path / 'a.npz'}: {os.strerror(number)}; change its permissions, or give another place"
    assert (outcome.code, outcome.errors) == (1, [line])
    assert os.listdir(tmp_path) == []


def test_lines_are_flushed_at_once_and_there_is_no_bar_in_a_pipe(hopper_file: Path) -> None:
    done = run_facespace(
        "detect", "--json", *[hopper_file] * 3, env={**os.environ, "FORCE_COLOR": "1", "TERM": "xterm"}
    )
    assert (done.code, done.err) == (0, "")
    assert "\x1b" not in done.out
    assert len(done.json) == 3


# --draw


def test_pictures_and_lists_say_the_same_numbers(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, people: Path, hopper: np.ndarray, hopper_file: Path
) -> None:
    small = np.asarray(Image.fromarray(hopper).resize((80, 94)).filter(ImageFilter.GaussianBlur(1.2)))
    photo = np.zeros((hopper.shape[0], hopper.shape[1] + 200, 3), np.uint8)
    photo[:, : hopper.shape[1]] = hopper
    photo[200:294, -100:-20] = small
    Image.fromarray(photo).save(tmp_path / "two.png")
    drawn: list[tuple[list[Any], list[str]]] = []

    def draws(image: np.ndarray, faces: list[Any], labels: list[str], colors: object) -> Image.Image:
        drawn.append((faces, labels))
        return Image.fromarray(image)

    monkeypatch.setattr(drawing, "annotate", draws)
    identify = ["identify", "--gallery", people]
    for command in (["detect"], identify):
        lines = cli(*command, tmp_path / "two.png", "--draw", tmp_path / "drawn").lines[1:]
        listed = cli(*command, tmp_path / "two.png", "--json").json[0]["faces"]
        faces, labels = drawn.pop()
        assert len(lines) == len(faces) == 2
        assert [entry["number"] for entry in listed] == [1, 2]
        assert [entry["box"] for entry in listed] == [face.as_dict()["box"] for face in faces]
        for number, (face, label, line) in enumerate(zip(faces, labels, lines, strict=True), 1):
            assert line.startswith(f"  {number}: ") and f" at {face.box[0]:.0f},{face.box[1]:.0f}, " in line
            assert label.partition(": ")[0] == str(number)
            poor = face.quality < 0.5
            if command == identify:
                assert ("Grace Hopper" in label) == ("Grace Hopper" in line) == (not poor)
            else:
                assert label == (f"{number}: quality {face.quality:.2f}" if poor else str(number))
        assert {face.quality < 0.5 for face in faces} == {True, False}


def test_draw_writes_one_picture_per_photo(
    cli: Cli, tmp_path: Path, hopper_file: Path, cat_file: Path, people: Path
) -> None:
    names = ["a/p.jpg", "b/p.jpg", "c/p.jpeg", "a/p.png", "a/p-2.jpg"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(hopper_file.read_bytes())
    (tmp_path / "bad.jpg").write_bytes(b"bad")
    files = [tmp_path / name for name in [*names, "bad.jpg"]]
    for k, command in enumerate((["detect"], ["identify", "--gallery", str(people)])):
        folder = tmp_path / "deep" / f"drawn{k}"
        for _ in range(2):  # a second run replaces the pictures of the first
            assert cli(*command, *files, cat_file, "--draw", folder).code == 1
            assert len(os.listdir(folder)) == 6
        assert {"p.jpg", "p-2.jpg", "p.png.jpg", "chelsea.png.jpg"} < set(os.listdir(folder))
        for name in os.listdir(folder):
            with (
                Image.open(folder / name) as picture,
                Image.open(cat_file if "cat" in name or "chelsea" in name else hopper_file) as original,
            ):
                assert picture.size == original.size
                assert picture.format == "JPEG"
                same = np.abs(np.asarray(picture).astype(int) - np.asarray(original.convert("RGB"))).max(axis=2) < 60
                assert same.all() == ("chelsea" in name)


@pytest.mark.filterwarnings("default")
def test_names_that_no_font_can_draw_are_reported_in_one_line(
    cli: Cli, tmp_path: Path, collins_file: Path, people: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lettering = Lettering(Fonts([]))
    monkeypatch.setattr("facespace.faces.drawing._lettering", lambda: lettering)
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(collins_file.read_bytes())
    outcome = cli("identify", "--gallery", people, collins_file, copy, "--draw", tmp_path / "drawn")
    assert outcome.code == 0
    assert outcome.out.count("王小明") == 2
    (line,) = [line for line in outcome.errors if "Latin" in line]
    assert line.startswith(
        "facespace: 王小明 and names like it are drawn in Latin letters: no installed font has its letters;"
    )


def test_a_drawing_never_overwrites_a_photo(cli: Cli, tmp_path: Path, hopper_file: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(hopper_file.read_bytes())
    (tmp_path / "link").symlink_to(tmp_path)
    for folder in (tmp_path, tmp_path / "link", f"{tmp_path}/./"):
        outcome = cli("detect", photo, "--draw", folder)
        assert outcome.code == 2
        assert "--draw: must be a folder without any of the photos" in outcome.err
    assert photo.read_bytes() == hopper_file.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["link", "photo.jpg"]


def test_draw_to_a_path_that_is_not_a_folder(cli: Cli, tmp_path: Path, hopper_file: Path) -> None:
    (tmp_path / "file").write_text("mine")
    outcome = cli("detect", hopper_file, "--draw", tmp_path / "file")
    assert outcome.code == 1
    assert outcome.errors == [f"facespace: {tmp_path / 'file'}: File exists"]
    assert (tmp_path / "file").read_text() == "mine"


# compare


def test_compare_json(cli: Cli, hopper_file: Path, collins_file: Path, two_faces: Path, cat_file: Path) -> None:
    outcome = cli("compare", "--json", hopper_file, cat_file, collins_file, "missing.jpg", two_faces)
    assert outcome.code == 1
    assert outcome.errors == [f"facespace: {cat_file}: no face found", "facespace: missing.jpg: no such file"]
    failed, pairs = outcome.json[:2], outcome.json[2:]
    assert failed == [
        {"image": str(cat_file), "error": "no face found"},
        {"image": "missing.jpg", "error": "no such file"},
    ]
    assert [list(pair) for pair in pairs] == [["a", "b", "similarity", "same", "threshold", "rate", "quality"]] * 3
    assert [(pair["a"], pair["b"], pair["same"]) for pair in pairs] == [
        (str(hopper_file), str(collins_file), False),
        (str(hopper_file), str(two_faces), False),
        (str(collins_file), str(two_faces), True),  # the largest face of the two
    ]
    assert pairs[2]["similarity"] > 0.9 > 0.5 > pairs[0]["similarity"]


def test_compare_rate_and_threshold(
    cli: Cli, hopper_file: Path, collins_file: Path, embedder: facespace.Embedder
) -> None:
    calibration = embedder.calibration
    assert calibration is not None
    facenet = ("--model", "casia-webface")
    last = cli("compare", hopper_file, collins_file, *facenet).lines[-1]
    expected = f"threshold {calibration.match_threshold(1e-3):.4f}: 0.001 of pairs of different people reach it"
    assert last == f"{expected}; measured on {calibration.conditions}"
    last = cli("compare", hopper_file, collins_file, "--rate", "0.1", *facenet).lines[-1]
    assert f"{calibration.match_threshold(0.1):.4f}" in last
    assert cli("compare", "--json", hopper_file, collins_file, "--threshold", "-1").json[0]["same"] is True
    assert cli("compare", "--json", hopper_file, hopper_file, "--threshold", "1").code == 0


def test_the_last_line_with_a_given_threshold(cli: Cli, hopper_file: Path, collins_file: Path) -> None:
    last = cli("compare", hopper_file, collins_file, "--threshold", "0.25").lines[-1]
    assert last == "threshold 0.2500"


# embed


def test_embed(cli: Cli, tmp_path: Path, two_faces: Path, hopper_file: Path, cat_file: Path, embedder: facespace.Embedder,
               detector: facespace.MTCNN) -> None:  # fmt: skip
    target = tmp_path / "faces.npz"
    target.write_text("old")
    facenet = ("--model", "casia-webface")
    outcome = cli("embed", two_faces, "missing.jpg", cat_file, hopper_file, "--output", target, *facenet)
    assert outcome.code == 1
    assert outcome.errors == ["facespace: missing.jpg: no such file"]
    assert outcome.lines == [f"3 faces of 3 photos -> {target}"]
    assert os.listdir(tmp_path) == ["faces.npz"]
    with np.load(target, allow_pickle=False) as archive:
        assert sorted(archive) == ["box", "embedding", "model", "path", "score", "turned"]
        assert archive["path"].tolist() == [str(two_faces)] * 2 + [str(hopper_file)]
        assert (archive["box"].shape, archive["box"].dtype) == ((3, 4), np.float32)
        assert (archive["score"].shape, archive["score"].dtype) == ((3,), np.float32)
        assert (archive["embedding"].shape, archive["embedding"].dtype) == ((3, 512), np.float32)
        assert np.linalg.norm(archive["embedding"], axis=1) == pytest.approx(1, abs=1e-5)
        assert str(archive["model"]) == f"casia-webface {embedder.fingerprint}"
        image = facespace.read(hopper_file)
        (face,) = detector.detect(image)
        assert archive["box"][2] == pytest.approx(face.box)
        expected = embedder.represent(facespace.align(image, face, embedder.spec)[None])[0]
        assert archive["embedding"][2] @ expected == pytest.approx(1, abs=1e-4)
    outcome = cli("embed", "--largest", two_faces, "--output", target)
    with np.load(target, allow_pickle=False) as archive:
        assert archive["path"].tolist() == [str(two_faces)]
        assert archive["box"][0, 0] > 388


def test_embed_without_a_face(cli: Cli, tmp_path: Path, cat_file: Path) -> None:
    outcome = cli("embed", cat_file, "--output", tmp_path / "a.npz")
    assert (outcome.code, outcome.lines) == (0, [f"0 faces of 1 photos -> {tmp_path / 'a.npz'}"])
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert [archive[name].shape for name in ("path", "box", "score", "embedding")] == [(0,), (0, 4), (0,), (0, 128)]


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="no /dev/stdout")
def test_embed_to_standard_output_writes_only_the_archive(tmp_path: Path, cat_file: Path) -> None:
    command = [sys.executable, "-m", "facespace", "embed", cat_file, "--output", "/dev/stdout"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stderr == b"facespace: 0 faces of 1 photos -> /dev/stdout\n"
    plain = [*command[:-1], tmp_path / "a.npz"]
    subprocess.run(plain, capture_output=True, check=True)
    assert len(done.stdout) == (tmp_path / "a.npz").stat().st_size
    with np.load(io.BytesIO(done.stdout), allow_pickle=False) as archive:
        assert archive["embedding"].shape == (0, 128)


def test_embed_that_fails_leaves_the_old_file(
    cli: Cli, tmp_path: Path, hopper_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: object, **arrays: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    (tmp_path / "a.npz").write_text("old")
    monkeypatch.setattr(np, "savez", full)
    outcome = cli("embed", hopper_file, "--output", tmp_path / "a.npz")
    error = f"facespace: {tmp_path / 'a.npz'}: No space left on device; make room and start the same command again"
    assert (outcome.code, outcome.errors) == (1, [error])
    assert (tmp_path / "a.npz").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.npz"]


# enroll


def test_enroll_accepts_a_gallery_that_a_killed_process_left_empty(cli: Cli, tmp_path: Path, hopper_file: Path) -> None:
    (tmp_path / "a.gallery").write_bytes(b"")
    outcome = cli("enroll", "--gallery", tmp_path / "a.gallery", "Grace", hopper_file)
    assert (outcome.code, outcome.lines[-1]) == (0, f"1 photos added; 1 people in {tmp_path / 'a.gallery'}")


def test_enroll_leaves_out_photos_without_exactly_one_face(
    cli: Cli, tmp_path: Path, hopper_file: Path, two_faces: Path, cat_file: Path
) -> None:
    gallery = tmp_path / "a.gallery"
    outcome = cli("enroll", "--gallery", gallery, " Grace\nHopper ", cat_file, hopper_file, "no.jpg", hopper_file)
    assert outcome.code == 1
    assert outcome.errors == [
        f"facespace: {cat_file}: no face found; left out",
        "facespace: no.jpg: no such file",
    ]
    assert outcome.lines == [
        rf"Grace\nHopper: {hopper_file} enrolled",
        rf"Grace\nHopper: {hopper_file} known already",
        f"1 photos added; 1 people in {gallery}",
    ]
    outcome = cli("enroll", "--gallery", gallery, "Eileen", two_faces)
    assert outcome.errors == [f"facespace: {two_faces}: 2 faces, one expected; left out (--largest takes the largest)"]
    outcome = cli("enroll", "--gallery", gallery, "Eileen", "--largest", two_faces)
    assert (outcome.code, outcome.err) == (0, "")
    assert [(p["name"], p["photos"]) for p in cli("gallery", "list", "--json", "--gallery", gallery).json] == [
        ("Eileen", 1), (r"Grace\nHopper", 1),
    ]  # fmt: skip


def test_enroll_a_folder_of_people(cli: Cli, tmp_path: Path, hopper_file: Path, collins_file: Path) -> None:
    for name, file in (
        ("Zoe\u0308/a.jpg", hopper_file),
        ("Zoe\u0308/more/b.jpg", collins_file),
        ("王/c.png", collins_file),
    ):
        (tmp_path / "staff" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "staff" / name).write_bytes(file.read_bytes())
    for ignored in (".cache", "nobody"):
        (tmp_path / "staff" / ignored).mkdir()
    (tmp_path / "staff" / "stray.jpg").write_bytes(hopper_file.read_bytes())
    outcome = cli("enroll", "--gallery", tmp_path / "g", "--folder", tmp_path / "staff")
    assert outcome.code == 1
    assert outcome.errors == [
        f"facespace: {tmp_path / 'staff' / 'nobody'}: no photos in this folder; its sub-folders are not searched",
    ]
    assert outcome.lines[-1] == f"2 photos added; 2 people in {tmp_path / 'g'}"
    listed = cli("gallery", "list", "--gallery", tmp_path / "g")
    assert listed.lines == ["    1  Zoë", "    1  王", "2 people"]


def test_folders_of_folders_are_not_people(cli: Cli, tmp_path: Path, hopper_file: Path) -> None:
    """`train/Ada/1.jpg` is not a photo of a person called train."""
    for part in ("train", "val"):
        (tmp_path / "data" / part / "Ada").mkdir(parents=True)
        (tmp_path / "data" / part / "Ada" / "1.jpg").write_bytes(hopper_file.read_bytes())
    outcome = cli("enroll", "--gallery", tmp_path / "g", "--folder", tmp_path / "data")
    assert outcome.code == 2
    assert (
        "data: no photos in its sub-folders; it must contain one folder per person, like NAME/photo.jpg" in outcome.err
    )
    there = [str(tmp_path / "data" / part) for part in ("train", "val")]
    assert outcome.errors[-1].endswith(f"; there are such folders in {', '.join(there)}")
    assert not (tmp_path / "g").exists()
    assert cli("enroll", "--gallery", tmp_path / "g", "--folder", tmp_path / "data" / "train").code == 0


def test_enroll_a_folder_with_an_invalid_name(cli: Cli, tmp_path: Path, hopper_file: Path) -> None:
    for name in ("Anna", "x" * 201):
        (tmp_path / "staff" / name).mkdir(parents=True)
        (tmp_path / "staff" / name / "a.jpg").write_bytes(hopper_file.read_bytes())
    outcome = cli("enroll", "--gallery", tmp_path / "g", "--folder", tmp_path / "staff")
    assert outcome.code == 1
    assert outcome.errors == [f"facespace: a name must have 1 to 200 characters, got '{'x' * 40}'"]
    assert not (tmp_path / "g").exists(), "reported before anything is done"


# identify


def test_identify_json(cli: Cli, people: Path, two_faces: Path, stranger_file: Path, cat_file: Path) -> None:
    outcome = cli("identify", "--gallery", people, "--json", two_faces, "missing.jpg", stranger_file, cat_file)
    assert outcome.code == 1
    assert outcome.errors == ["facespace: missing.jpg: no such file"]
    two, missing, stranger, cat = outcome.json
    assert missing == {"image": "missing.jpg", "error": "no such file"}
    assert cat == {"image": str(cat_file), "faces": []}
    for face in two["faces"] + stranger["faces"]:
        check_face(face, matched=True)
    assert [face["name"] for face in sorted(two["faces"], key=lambda face: face["box"])] == ["Grace Hopper", "王小明"]
    assert "王小明" in outcome.out, "readable, not escaped"
    (face,) = stranger["faces"]
    assert face["name"] is None
    assert -1 <= face["similarity"] < 0.4
    assert round(face["similarity"], 4) == face["similarity"]


def test_identify_text(cli: Cli, people: Path, two_faces: Path, stranger_file: Path, cat_file: Path) -> None:
    outcome = cli("identify", "--gallery", people, two_faces, stranger_file, cat_file)
    assert (outcome.code, outcome.err) == (0, "")
    assert f"{cat_file}: no faces" in outcome.lines
    assert re.search(
        r"^  [12]: Grace Hopper  similarity 0\.\d{3} \(threshold 0\.\d{3}\) at ", outcome.out, re.MULTILINE
    )
    assert re.search(r"^  1: unknown  similarity -?0\.\d{3} \(threshold 0\.\d{3}\) at ", outcome.out, re.MULTILINE)


def test_identify_in_an_empty_gallery(cli: Cli, own_people: Path, hopper_file: Path) -> None:
    outcome = cli("gallery", "remove", "--gallery", own_people, "Grace Hopper", "王小明")
    assert outcome.lines == ["Grace Hopper: 1 photo removed", "王小明: 1 photo removed"]
    outcome = cli("identify", "--gallery", own_people, "--json", hopper_file)
    assert (outcome.code, outcome.err) == (0, "")
    (face,) = outcome.json[0]["faces"]
    check_face(face, matched=True)
    assert (face["name"], face["similarity"]) == (None, None)
    outcome = cli("identify", "--gallery", own_people, hopper_file)
    assert outcome.lines[1].startswith("  1: unknown at ")


def test_identify_rate_and_threshold(cli: Cli, people: Path, stranger_file: Path, hopper_file: Path) -> None:
    def names(*options: str) -> list[str | None]:
        outcome = cli("identify", "--gallery", people, "--json", stranger_file, hopper_file, *options)
        return [face["name"] for entry in outcome.json for face in entry["faces"]]

    assert names() == [None, "Grace Hopper"]
    assert names("--threshold", "-1")[0] is not None
    assert names("--threshold", "1")[0] is None
    thresholds = [
        re.findall(r"threshold (0\.\d+)", cli("identify", "--gallery", people, hopper_file, "--rate", rate).out)[0]
        for rate in ("0.1", "0.01", "0.0001")
    ]
    assert thresholds == sorted(thresholds)
    assert len(set(thresholds)) == 3


# gallery


def test_gallery_list(cli: Cli, people: Path) -> None:
    assert cli("gallery", "list", "--gallery", people).lines == ["    1  Grace Hopper", "    1  王小明", "2 people"]
    listed = cli("gallery", "list", "--gallery", people, "--json").json
    assert [list(person) for person in listed] == [
        ["name", "photos", "added", "external_id", "metadata", "templates"]
    ] * 2
    assert all(time.strptime(person["added"], "%Y-%m-%dT%H:%M:%SZ") for person in listed)


def test_gallery_errors_are_one_line(cli: Cli, own_people: Path, tmp_path: Path) -> None:
    for arguments, reason in (
        (["remove", "Nobody"], f"{own_people}: no person is called 'Nobody'"),
        (["rename", "Nobody", "Anna"], f"{own_people}: no person is called 'Nobody'"),
        (
            ["rename", "Grace Hopper", "王小明"],
            f"{own_people}: the name '王小明' is already taken; use --merge to merge 'Grace Hopper' into it",
        ),
        (["rename", "Grace Hopper", " "], "a name must have 1 to 200 characters, got ''"),
    ):
        outcome = cli("gallery", arguments[0], "--gallery", own_people, *arguments[1:])
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.errors == [f"facespace: {reason}"]
    outcome = cli("gallery", "list", "--gallery", tmp_path / "missing")
    assert outcome.code == 1
    assert outcome.errors == [f"facespace: {tmp_path / 'missing'}: no such gallery; create one with facespace enroll"]
    assert not (tmp_path / "missing").exists()


def test_gallery_names_are_printed_as_stored(cli: Cli, own_people: Path) -> None:
    strange = os.fsdecode(b"\x1b[31mRen\xe9")
    outcome = cli("gallery", "rename", "--gallery", own_people, "Grace Hopper", strange)
    assert outcome.lines == [r"Grace Hopper is now \x1b[31mRen\xe9"]
    outcome = cli("gallery", "remove", "--gallery", own_people, strange)
    assert outcome.lines == [r"\x1b[31mRen\xe9: 1 photo removed"]


# models


def test_models_text(cli: Cli) -> None:
    outcome = cli("models")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.lines[0].removesuffix(" (default)") == next(iter(MODELS))
    assert f"{DEFAULT_MODEL} (default)" in outcome.lines
    assert "research" in outcome.lines[-1]
    for card in MODELS.values():
        for text in (card.licence, card.origin, card.sha256 or "no public source names it", card.training_data):
            assert text in outcome.out


def test_a_model_that_does_not_exist(cli: Cli, people: Path, tmp_path: Path, hopper_file: Path) -> None:
    for command in (
        ["embed", "--output", str(tmp_path / "a.npz")],
        ["identify", "--gallery", str(people)],
        ["compare", str(hopper_file)],
    ):
        outcome = cli(*command, hopper_file, "--model", "nonsense")
        assert (outcome.code, outcome.out) == (1, "")
        (line,) = outcome.errors
        assert line.startswith(f"facespace: nonsense: neither a model's name ({', '.join(MODELS)})")
        assert ") nor a file or model folder" in line


def test_json_is_one_object_per_line(cli: Cli, hopper_file: Path) -> None:
    outcome = cli("detect", "--json", hopper_file, hopper_file)
    assert len(outcome.lines) == 2
    assert json.loads(outcome.lines[0]) == json.loads(outcome.lines[1])


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_progress_on_a_terminal_leaves_results_in_the_pipe(hopper_file: Path) -> None:
    master, slave = os.openpty()
    command = [sys.executable, "-m", "facespace", "detect", "--json", str(hopper_file), str(hopper_file)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=slave, timeout=120, check=False)
    os.close(slave)
    shown = os.read(master, 100_000).decode()
    os.close(master)
    assert done.returncode == 0
    assert [json.loads(line)["image"] for line in done.stdout.splitlines()] == [str(hopper_file)] * 2
    assert "detecting" in shown
