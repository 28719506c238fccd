"""Bad input: each bad file gives one line on stderr and an exit code, and the run goes on."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import facespace
from facespace.errors import ImageError
from support.commands import Outcome, run_facespace

Cli = Callable[..., Outcome]
posix = pytest.mark.skipif(sys.platform == "win32", reason="names are bytes and modes are bits only on POSIX")


@pytest.fixture(scope="module")
def people(
    tmp_path_factory: pytest.TempPathFactory, embedder: facespace.Embedder, detector: facespace.MTCNN, hopper_file: Path
) -> Path:
    path = tmp_path_factory.mktemp("gallery") / "people.gallery"
    with facespace.Gallery(path, embedder, create=True) as gallery:
        (photo,) = facespace.process([str(hopper_file)], detector, embedder, keep_crops=True)
        gallery.add("Grace Hopper", photo.embeddings[0], photo.crops[0])
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The empty current folder of the command."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb() -> bytes:
    """60,000 x 60,000 gray pixels in a few kilobytes."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))
    squeezer = zlib.compressobj(9)
    rows = b"".join(squeezer.compress(bytes(60_001)) for _ in range(100)) + squeezer.flush()
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


def truncated(hopper_file: Path) -> bytes:
    data = hopper_file.read_bytes()
    return data[: len(data) // 3]


BAD_FILES: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "text.jpg": (lambda _: b"Dear all, this is no picture.\n" * 50, "not an image facespace reads"),
    "empty.jpg": (lambda _: b"", "the file is empty"),
    "cut.jpg": (truncated, "truncated, corrupt or unsupported JPEG file"),
    "bomb.png": (lambda _: bomb(), "3,600,000,000 pixels (60000 x 60000); the limit is"),
    "noise.png": (lambda _: b"\x89PNG\r\n\x1a\n" + random.Random(2).randbytes(3000), "truncated, corrupt"),
    "page.html": (lambda _: b"<!DOCTYPE html><html></html>", "not an image facespace reads"),
    "clip.mp4": (lambda _: b"\0\0\0\x18ftypisom" + bytes(100), "video"),
}


@pytest.mark.parametrize("command", ["detect", "identify"])
def test_bad_files_between_good_ones(cli: Cli, folder: Path, people: Path, hopper_file: Path, command: str) -> None:
    shutil.copy(hopper_file, folder / "good.jpg")
    work = ["good.jpg"]
    for name, (content, _) in BAD_FILES.items():
        (folder / name).write_bytes(content(hopper_file))
        work += [name, "good.jpg"]
    work += ["missing.jpg", "good.jpg", "good.jpg/inside.jpg", "good.jpg"]
    reasons = {name: reason for name, (_, reason) in BAD_FILES.items()}
    reasons |= {"missing.jpg": "no such file", "good.jpg/inside.jpg": "no such file"}
    options = ["--gallery", people] if command == "identify" else []
    outcome = cli(command, "--json", *options, *work)
    assert outcome.code == 1
    assert [entry["image"] for entry in outcome.json] == work
    for entry in outcome.json:
        if entry["image"] == "good.jpg":
            assert len(entry["faces"]) == 1
        else:
            assert list(entry) == ["image", "error"]
            assert reasons[entry["image"]] in entry["error"]
    bad = [entry for entry in outcome.json if entry["image"] != "good.jpg"]
    assert outcome.errors == [f"facespace: {entry['image']}: {entry['error']}" for entry in bad]
    text = cli(command, *options, *work)
    assert (text.code, text.err) == (1, outcome.err)
    assert text.lines.count("good.jpg: 1 face") == work.count("good.jpg")


def test_bad_files_in_a_process_of_its_own(folder: Path, hopper_file: Path) -> None:
    """No traceback, no warning of a library, and no memory for the bomb."""
    for name, (content, _) in BAD_FILES.items():
        (folder / name).write_bytes(content(hopper_file))
    shutil.copy(hopper_file, folder / "good.jpg")
    outcome = run_facespace("detect", "--json", *BAD_FILES, "good.jpg", cwd=folder)
    assert outcome.code == 1
    assert [line.split(": ")[:2] for line in outcome.errors] == [["facespace", name] for name in BAD_FILES]
    assert len(outcome.json[-1]["faces"]) == 1


@pytest.mark.parametrize("name", ["embed", "enroll", "compare"])
def test_the_other_commands_go_on_too(cli: Cli, folder: Path, hopper_file: Path, name: str) -> None:
    (folder / "text.jpg").write_text("none")
    options = {"embed": ["--output", "a.npz"], "enroll": ["--gallery", "g", "Grace"], "compare": []}[name]
    outcome = cli(name, *options, "text.jpg", hopper_file, hopper_file)
    assert outcome.code == 1
    (line,) = outcome.errors
    assert line.startswith("facespace: text.jpg: not an image facespace reads")
    assert {"embed": "2 faces of 2 photos", "enroll": "1 people in g", "compare": "same person"}[name] in outcome.out


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (11, 11)])
def test_images_too_small_for_a_face(cli: Cli, folder: Path, mode: str, size: tuple[int, int]) -> None:
    Image.new(mode, size).save("small.png")
    outcome = cli("detect", "--json", "small.png", "--draw", "drawn")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.json == [{"image": "small.png", "faces": []}]
    with Image.open("drawn/small.png.jpg") as drawn:
        assert drawn.size == size


def test_no_face(cli: Cli, people: Path, cat_file: Path) -> None:
    outcome = cli("identify", "--gallery", people, "--json", cat_file)
    assert (outcome.code, outcome.err, outcome.json) == (0, "", [{"image": str(cat_file), "faces": []}])


def test_a_face_cut_by_the_border(
    cli: Cli, folder: Path, people: Path, hopper: np.ndarray, detector: facespace.MTCNN
) -> None:
    (face,) = detector.detect(hopper)
    x1, y1, x2, y2 = (round(value) for value in face.box)
    cut_x, cut_y = x1 + (x2 - x1) // 5, y1 + (y2 - y1) // 6
    for name, part in {
        "left": hopper[:, cut_x:], "right": hopper[:, : x2 - (x2 - x1) // 5],
        "top": hopper[cut_y:], "bottom": hopper[: y2 - (y2 - y1) // 8],
        "close": hopper[y1:y2, x1:x2],
    }.items():  # fmt: skip
        Image.fromarray(part).save(f"{name}.png")
    files = sorted(os.listdir(folder))
    outcome = cli("identify", "--gallery", people, "--json", *files, "--draw", "drawn")
    assert (outcome.code, outcome.err) == (0, "")
    found = {entry["image"]: entry["faces"] for entry in outcome.json}
    assert sum(len(faces) for faces in found.values()) >= 3
    named = [face["name"] for faces in found.values() for face in faces]
    assert named.count("Grace Hopper") >= 2
    outside = [face for entry in outcome.json for face in entry["faces"] if min(face["box"]) < 0]
    assert outside, "a box may reach beyond the border"


def test_200_faces(cli: Cli, folder: Path, hopper_file: Path) -> None:
    with Image.open(hopper_file) as hopper:
        tile = hopper.convert("RGB").crop((80, 0, 432, 400)).resize((88, 100), Image.Resampling.LANCZOS)
    crowd = Image.new("RGB", (20 * 88, 10 * 100))
    for k in range(200):
        crowd.paste(tile, (k % 20 * 88, k // 20 * 100))
    crowd.save("crowd.png")
    outcome = cli("detect", "--json", "crowd.png", "--draw", "drawn")
    assert (outcome.code, outcome.err) == (0, "")
    (entry,) = outcome.json
    tiles = {
        (int((face["box"][0] + face["box"][2]) / 2 // 88), int((face["box"][1] + face["box"][3]) / 2 // 100))
        for face in entry["faces"]
    }
    assert len(tiles) >= 190
    assert len(entry["faces"]) <= 210


# Folders and permissions


@pytest.mark.filterwarnings("default::facespace.io.photo_files.LeftOutWarning")
@pytest.mark.parametrize("command", ["detect", "identify"])
def test_a_folder_without_images(cli: Cli, folder: Path, people: Path, hopper_file: Path, command: str) -> None:
    (folder / "empty.jpg").mkdir()  # named like a photo
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("none")
    options = ["--gallery", people] if command == "identify" else []
    outcome = cli(command, "--json", *options, "empty.jpg", "notes", hopper_file)
    assert outcome.code == 1
    assert outcome.errors == [
        "facespace: left out 1 file that is not a photo (notes/a.txt)",
        *(f"facespace: {name}: no images in this folder" for name in ("empty.jpg", "notes")),
    ]
    assert [list(entry) for entry in outcome.json] == [["image", "error"]] * 2 + [["image", "faces"]]


_UNPRIVILEGED = """
import contextlib, functools, io, os, sys
import facespace.detection.mtcnn.detector
from facespace.cli.main import main
facespace.detection.mtcnn.detector.MTCNN = functools.cache(facespace.detection.mtcnn.detector.MTCNN)
arguments = sys.argv
sys.argv = ["facespace", "detect", "--json", "good.jpg", "missing.jpg"]
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    with contextlib.redirect_stderr(io.StringIO()):
        main()
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
sys.argv = arguments
main()
"""


@posix
def test_a_file_that_may_not_be_read(hopper_file: Path) -> None:
    """Root can read every file, so the process changes to the user `nobody` after it has loaded everything."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        for file, mode in (("secret.jpg", 0o000), ("good.jpg", 0o644)):
            shutil.copy(hopper_file, os.path.join(name, file))
            os.chmod(os.path.join(name, file), mode)
        done = subprocess.run(
            [sys.executable, "-c", _UNPRIVILEGED, "detect", "--json", "secret.jpg", "good.jpg"],
            capture_output=True, text=True, cwd=name, timeout=100,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "facespace: secret.jpg: cannot be opened (Permission denied)\n"
    secret, good = map(json.loads, done.stdout.splitlines())
    assert secret == {"image": "secret.jpg", "error": "cannot be opened (Permission denied)"}
    assert len(good["faces"]) == 1


@posix
def test_files_that_are_not_regular(cli: Cli, folder: Path, hopper_file: Path) -> None:
    os.mkfifo("pipe.jpg")
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    outcome = cli("detect", "--json", "pipe.jpg", "dangling.jpg", hopper_file)
    assert outcome.code == 1
    assert outcome.errors == ["facespace: pipe.jpg: not a regular file", "facespace: dangling.jpg: no such file"]
    assert len(outcome.json[2]["faces"]) == 1


# Names


NAMES = [
    "合影 2024.jpg",
    "Zoë's.jpg",
    "👩‍🚀.jpg",
    "with space.jpg",
    "-dash.jpg",
    "per%cent.jpg",
    'quote".jpg',
    "x" * 240 + ".jpg",
]


@posix
def test_file_names_come_back_as_given(cli: Cli, folder: Path, people: Path, hopper_file: Path) -> None:
    for name in NAMES:
        shutil.copy(hopper_file, folder / name)
    given = [f"./{name}" for name in NAMES]
    outcome = cli("identify", "--gallery", people, "--json", *given, "--draw", "drawn")
    assert (outcome.code, outcome.err) == (0, "")
    assert [entry["image"] for entry in outcome.json] == given
    assert sorted(os.listdir("drawn")) == sorted(NAMES)
    assert [entry["image"] for entry in cli("detect", "--json", ".").json] == sorted(given) + sorted(
        f"./drawn/{name}" for name in NAMES
    )


@posix
def test_the_longest_file_name_can_be_drawn(cli: Cli, folder: Path, cat_file: Path) -> None:
    names = ["合" * 83 + ".png", "x" * 251 + ".png", "x" * 250 + "y.png"]
    for name in names:
        shutil.copy(cat_file, folder / name)
    outcome = cli("detect", "--json", *names, "--draw", "drawn")
    assert (outcome.code, outcome.err) == (0, "")
    assert len(os.listdir("drawn")) == 3


@posix
def test_file_names_that_are_not_utf8_are_escaped(folder: Path, people: Path, hopper_file: Path) -> None:
    name = b"caf\xe9\n\x1b[31m.jpg"
    try:
        shutil.copy(hopper_file, os.fsdecode(name))
    except OSError:
        pytest.skip("this file system requires UTF-8")
    shown = r"caf\xe9\n\x1b[31m.jpg"
    outcome = run_facespace(
        "identify", "--gallery", people, "--json", name, b"no\xff.jpg", "--draw", "drawn", cwd=folder
    )
    assert outcome.code == 1
    assert outcome.json[0]["image"] == shown
    assert len(outcome.json[0]["faces"]) == 1
    assert outcome.json[1] == {"image": r"no\xff.jpg", "error": "no such file"}
    assert outcome.errors == [r"facespace: no\xff.jpg: no such file"]
    assert os.listdir(b"drawn") == [name]


@posix
def test_a_terminal_that_knows_only_ascii(folder: Path, people: Path, hopper_file: Path) -> None:
    shutil.copy(hopper_file, "合影.jpg")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"}
    outcome = run_facespace("detect", "--json", "合影.jpg", "无.jpg", cwd=folder, env=environment)
    assert outcome.code == 1
    assert [entry["image"] for entry in outcome.json] == ["合影.jpg", "无.jpg"]
    assert outcome.errors == [r"facespace: \u65e0.jpg: no such file"]


@pytest.mark.filterwarnings("ignore::facespace.faces.lettering.LetteringWarning")  # where no font has Chinese
@pytest.mark.parametrize(
    "name", ["a/b", "../../etc/passwd", "王小明", "👩‍🚀", "C:\\x", "; rm -rf /", "%s", "' OR 1=1 --"]
)
def test_names_of_people_are_not_interpreted(cli: Cli, folder: Path, hopper_file: Path, name: str) -> None:
    assert cli("enroll", "--gallery", "g", "--", name, hopper_file).code == 0
    assert os.listdir(folder) == ["g"]
    assert [person["name"] for person in cli("gallery", "list", "--json", "--gallery", "g").json] == [name]
    outcome = cli("identify", "--gallery", "g", "--json", hopper_file, "--draw", "drawn")
    assert [face["name"] for face in outcome.json[0]["faces"]] == [name]
    assert os.listdir("drawn") == [hopper_file.name]


@pytest.mark.parametrize("name", ["", "   ", "x" * 201])
def test_invalid_names(cli: Cli, folder: Path, hopper_file: Path, name: str) -> None:
    outcome = cli("enroll", "--gallery", "g", name, hopper_file)
    assert (outcome.code, outcome.out) == (1, "")
    (line,) = outcome.errors
    assert line.startswith("facespace: a name must have 1 to 200 characters, got ")
    assert os.listdir(folder) == []


# Galleries


def other_database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE recipes (name)")
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path, people: None, "no such gallery"),
        (lambda path, people: path.write_bytes(b""), "an empty file, not a gallery"),
        (
            lambda path, people: path.write_bytes(random.Random(1).randbytes(9000)),
            "damaged, or not a gallery of facespace (file is not a database)",
        ),
        (
            lambda path, people: path.write_bytes(people.read_bytes()[:9000]),
            "damaged, or not a gallery of facespace (database disk image is malformed)",
        ),
        (lambda path, people: other_database(path), "an SQLite file, but not a gallery of facespace"),
        (lambda path, people: path.mkdir(), "must be a gallery file, got a folder"),
    ],
    ids=["missing", "empty", "garbage", "truncated", "other database", "folder"],
)
def test_files_that_are_not_galleries(
    cli: Cli, folder: Path, people: Path, hopper_file: Path, make: Callable[[Path, Path], object], reason: str
) -> None:
    path = folder / "g"
    make(path, people)
    before = path.read_bytes() if path.is_file() else path.exists()
    for arguments in (["identify", "--gallery", path, hopper_file], ["gallery", "list", "--gallery", path]):
        outcome = cli(*arguments)
        assert (outcome.code, outcome.out) == (1, "")
        (line,) = outcome.errors
        assert line.startswith(f"facespace: {path}: {reason}")
        assert (path.read_bytes() if path.is_file() else path.exists()) == before
        assert os.listdir(folder) in ([], ["g"])


def test_enrolling_into_a_file_that_is_not_a_gallery(cli: Cli, folder: Path, hopper_file: Path) -> None:
    shutil.copy(hopper_file, folder / "photo.jpg")
    outcome = cli("enroll", "--gallery", "photo.jpg", "Grace", "photo.jpg")  # the wrong way round
    assert outcome.code == 1
    assert outcome.errors == ["facespace: photo.jpg: damaged, or not a gallery of facespace (file is not a database)"]
    assert (folder / "photo.jpg").read_bytes() == hopper_file.read_bytes()


def test_a_gallery_of_another_model(cli: Cli, folder: Path, people: Path, hopper_file: Path) -> None:
    shutil.copy(people, folder / "g")
    connection = sqlite3.connect("g")
    (value,) = connection.execute("SELECT value FROM setting WHERE key = 'embedder'").fetchone()
    other = json.dumps({**json.loads(value), "model": "mine.onnx", "fingerprint": "0" * 64}, sort_keys=True)
    connection.execute("UPDATE setting SET value = ?", (other,))
    connection.commit()
    connection.close()
    before = (folder / "g").read_bytes()
    for command in (["identify", "--gallery", "g"], ["enroll", "--gallery", "g", "Grace"]):
        outcome = cli(*command, hopper_file)
        assert (outcome.code, outcome.out) == (1, "")
        (line,) = outcome.errors
        assert line == (
            "facespace: the input was made with the model 'mine.onnx', which is not a named model; give its path with --model"
        )
        (line,) = cli(*command, hopper_file, "--model", "sface").errors
        assert line.startswith("facespace: g: its vectors were made by the model 'mine.onnx' and cannot be compared")
        assert "--model mine.onnx" in line
    assert (folder / "g").read_bytes() == before
    assert len(cli("gallery", "list", "--json", "--gallery", "g").json) == 1


def test_every_bad_file_is_an_image_error(hopper_file: Path) -> None:
    for content, reason in BAD_FILES.values():
        with pytest.raises(ImageError) as caught:
            facespace.read(content(hopper_file))
        assert reason in caught.value.reason
