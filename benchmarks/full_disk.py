"""Every command that writes, on a full disk: how it fails, what it leaves, and whether it succeeds afterwards.

usage: full_disk.py [COMMAND ...] [--shared FOLDER] [--room ROOM ...]
A small file system (tmpfs) is mounted and filled until a number of bytes is free: 0, 4 kB, 64 kB, 1 MB; `readonly` is a
folder without write permission, `limit` a limit on the size of one file (64 kB). Each command must give an exit code
other than 0 and one line on stderr with the path and what to do, without a traceback; leave no unfinished file under a final name
and existing files intact; and succeed when there is room. Needs Linux; without root rights it
starts itself again in a user namespace (`unshare -rm`).
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from folders import class_folders, contents, tiny_recipe, unfinished

ROOMS = {"0": 0, "4 kB": 4096, "64 kB": 2**16, "1 MB": 2**20, "readonly": None, "limit": None}
WHAT_TO_DO = ("make room", "the same command", "another place", "get the right")
# As uid 0 without the rights that make it pass by a folder's mode.
WITHOUT_RIGHTS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


@dataclass(frozen=True)
class Case:
    """One command; DISK in its arguments is the folder on the small disk. `stdout` is a file there to write to."""

    name: str
    arguments: str
    before: tuple[str, ...] = ()  # commands that make what is there before, on a disk with room
    kept: tuple[str, ...] = ()  # unfinished files that it may keep, to go on with them
    stdout: str = ""
    code: int = 0  # when all goes well


# What a finished file must be like, by its ending


def _film(path: Path) -> None:
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 24


def _gallery(path: Path) -> None:
    """With the log that a killed process left, and elsewhere: to read it, SQLite writes beside it."""
    with tempfile.TemporaryDirectory() as folder:
        for file in path.parent.glob(f"{path.name}*"):
            shutil.copyfile(file, Path(folder, file.name))
        connection = sqlite3.connect(Path(folder, path.name))
        with contextlib.closing(connection):
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def _page(path: Path) -> None:
    assert path.read_text(encoding="utf-8").rstrip().endswith(">")


def _table(path: Path) -> None:
    data = path.read_text(encoding="utf-8")
    rows = list(csv.reader(line for line in data.splitlines() if not line.startswith("#")))
    assert data.endswith("\n")
    assert len({len(row) for row in rows}) == 1


def _arrays(path: Path) -> None:
    with np.load(path) as arrays:
        assert all(arrays[name] is not None for name in arrays.files)


def _graph(path: Path) -> None:
    import onnx

    onnx.load(str(path))


WHOLE: dict[str, Callable[[Path], object]] = {
    ".jpg": lambda path: Image.open(path).load(),
    ".png": lambda path: Image.open(path).load(),
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".html": _page,
    ".csv": _table,
    ".npz": _arrays,
    ".onnx": _graph,
    ".safetensors": load_file,
    ".classifier": load_file,
    ".gallery": _gallery,
    ".mp4": _film,
    ".srt": lambda path: path.read_text(encoding="utf-8").index("-->"),
}


# The disk


@contextlib.contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """A file system of 400 MB and a folder on it; whether there is room is decided by `fill`."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m,mode=755", "tmpfs", folder], check=True)
    try:
        (folder / "user").mkdir()
        yield folder / "user"
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        folder.rmdir()


def fill(folder: Path, room: str) -> None:
    if room == "readonly":
        for path in (folder, *(path for path in folder.rglob("*"))):
            os.chown(path, 65534, 65534)
            path.chmod(0o555 if path.is_dir() else 0o444)
    elif room != "limit":
        free = os.statvfs(folder)
        with (folder.parent / "ballast").open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, free.f_bavail * free.f_frsize - ROOMS[room])


def make_room(folder: Path, room: str) -> None:
    (folder.parent / "ballast").unlink(missing_ok=True)
    if room == "readonly":
        for path in (folder, *(path for path in folder.rglob("*"))):
            path.chmod(0o755 if path.is_dir() else 0o644)
            os.chown(path, 0, 0)


def run(case: Case, arguments: str, folder: Path, room: str = "") -> subprocess.CompletedProcess[bytes]:
    words = [word.replace("DISK", str(folder)) for word in arguments.split()]
    command = [sys.executable, "-m", "facespace", *words]
    before = None
    if room == "readonly":
        command = WITHOUT_RIGHTS + command
    if room == "limit":

        def before() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))

    environment = {**os.environ, "FACESPACE_HOME": str(folder / "home")}
    with contextlib.ExitStack() as stack:
        try:
            out = stack.enter_context((folder / case.stdout).open("wb")) if case.stdout else subprocess.PIPE
        except OSError:  # a shell would say so
            return subprocess.CompletedProcess(command, 1, b"", f"{folder}: make room".encode())
        return subprocess.run(
            command, stdout=out, stderr=subprocess.PIPE, env=environment, check=False, preexec_fn=before
        )


# One command on one disk


def check_files(folder: Path, case: Case, before: dict[str, bytes]) -> Iterator[str]:
    """What is wrong with the files there."""
    now = contents(folder, ".*")
    for name in sorted(before.keys() - now.keys()):
        yield f"{name} is gone"
    for name, data in now.items():
        if before.get(name) == data or name == case.stdout:
            continue
        try:
            WHOLE.get(Path(name).suffix, bool)(folder / name)
        except Exception as error:  # any error of the reader
            yield f"{name} is not whole ({len(data)} bytes: {type(error).__name__})"
    for name in unfinished(folder):
        if not any(name.startswith(kept) for kept in case.kept):
            yield f"{name} was left"


def said(stderr: bytes, usual: set[str]) -> list[str]:
    return [line for line in stderr.decode(errors="replace").splitlines() if line.strip() and line not in usual]


def attempt(
    case: Case, room: str, folder: Path, template: Path, reference: tuple[set[str], set[str]]
) -> tuple[bool, bool]:
    """Try one command on one disk and print a line; whether all was well, and whether there was room enough."""
    names, usual = reference
    problems = []
    began = time.monotonic()
    with disk(folder) as user:
        shutil.copytree(template, user, dirs_exist_ok=True)
        before = contents(user, ".*")
        fill(user, room)
        done = run(case, case.arguments, user, room)
        lines = [line.replace(str(user), "DISK") for line in said(done.stderr, usual)]
        if done.returncode == case.code:
            how = "wrote everything"
        else:
            how = f"exit code {done.returncode}, `{lines[-1][:400] if lines else ''}`"
            if len(lines) != 1:
                problems.append(f"{len(lines)} lines on stderr: {' | '.join(lines)[-1500:]}")
            elif "DISK" not in lines[0] and "standard output" not in lines[0]:
                problems.append("the line names no path")
            elif not any(words in lines[0] for words in WHAT_TO_DO):
                problems.append("the line does not tell what to do")
            if done.returncode < 0 or b"Traceback" in done.stderr:
                problems.append(f"died of {done.returncode}")
        problems += check_files(user, case, before)
        make_room(user, room)
        if done.returncode != case.code:
            again = run(case, case.arguments, user)
            if again.returncode != case.code:
                problems.append(f"with room: exit code {again.returncode}, {again.stderr.decode()[-300:]}")
        problems += (f"with room: {problem}" for problem in check_files(user, case, before))
        # A network is kept where there is room for it, and made again where there was none.
        if missing := {name for name in names - contents(user, ".*").keys() if not name.startswith("home/networks/")}:
            problems.append(f"with room: {sorted(missing)[:3]} missing")
    print(f"{case.name}, {room}{' free' if room[0].isdigit() else ''}: {how}" + (" - FAILED" if problems else ""))
    for problem in problems:
        print(f"  {problem} ({time.monotonic() - began:.0f} s)")
    sys.stdout.flush()
    return not problems, done.returncode == case.code


def usual_result(case: Case, folder: Path, template: Path) -> tuple[set[str], set[str]]:
    """The names of the files of an undisturbed run, without those that bear a time, and its lines on stderr."""
    with disk(folder) as user:
        template.mkdir()
        for command in case.before:
            done = run(case, command, user)
            assert done.returncode == 0, done.stderr.decode()
        shutil.copytree(user, template, dirs_exist_ok=True)
        done = run(case, case.arguments, user)
        assert done.returncode == case.code, f"{case.name}: {done.stderr.decode()}"
        assert not list(check_files(user, case, {})), list(check_files(user, case, {}))
        names = {name for name in contents(user, ".*") if "tfevents" not in name}
        return names, set(done.stderr.decode(errors="replace").splitlines())


# The commands


def film(target: Path, photo: Path) -> Path:
    """A film of one second: a photo that moves a little."""
    picture = Image.open(photo).convert("RGB")
    picture = picture.resize((320, 320 * picture.height // picture.width // 2 * 2))
    with av.open(str(target), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = *picture.size, "yuv420p", 4_000_000
        for k in range(24):
            frame = av.VideoFrame.from_image(
                picture.transform(picture.size, Image.Transform.AFFINE, (1, 0, k / 4, 0, 1, 0))
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return target


def cases(shared: Path, raw: Path) -> list[Case]:
    photos = class_folders(shared / "data/album/known", raw / "photos", n_people=3, n_images=3)
    two = class_folders(photos, raw / "two", n_people=2, n_images=2)
    crops = class_folders(shared / "data/train_182", raw / "crops", n_people=6, n_images=16)
    many = class_folders(shared / "data/train_182", raw / "many", n_people=15, n_images=12)
    everyone = " ".join(str(path) for path in sorted(photos.iterdir()))
    some = " ".join(str(path) for path in sorted(two.iterdir()))
    person = sorted(photos.iterdir())[0]
    sight = film(raw / "film.mp4", sorted(person.iterdir())[0])
    recipe = raw / "recipe.toml"
    recipe.write_text(tiny_recipe(n_epochs=1, epoch_size=4, workers=0))
    graph = shared / "data/tf1_squeezenet_128/20180101-000000.pb"
    enroll_two, enroll = (f"enroll --gallery DISK/g.gallery --folder {folder}" for folder in (two, photos))
    learn_two, learn = (f"classify train {folder} --output DISK/c.classifier" for folder in (two, photos))
    align = f"align {photos} DISK/out"
    converted = (".facespace-out",)
    gallery = ("g.gallery-",)  # SQLite's own files, which the next program that opens it takes over
    spec = "--input-spec facenet-2018"
    return [
        Case("detect --json >FILE", f"detect --json {everyone}", stdout="faces.jsonl"),
        Case("detect --draw", f"detect {everyone} --draw DISK/drawn", (f"detect {some} --draw DISK/drawn",)),
        Case("embed", f"embed {everyone} --output DISK/a.npz", (f"embed {some} --output DISK/a.npz",)),
        Case("enroll", enroll, kept=gallery),
        Case("enroll more", enroll, (enroll_two,), gallery),
        Case("gallery rename", f"gallery rename {person.name} Ada --gallery DISK/g.gallery", (enroll_two,), gallery),
        Case("gallery remove", f"gallery remove {person.name} --gallery DISK/g.gallery", (enroll_two,), gallery),
        Case("identify --draw", f"identify {everyone} --gallery DISK/g.gallery --draw DISK/drawn", (enroll_two,), gallery),
        Case("identify a film", f"identify {sight} --gallery DISK/g.gallery --draw DISK/drawn --subtitles DISK/srt",
             (enroll_two,), gallery),
        Case("calibrate a gallery", f"calibrate DISK/g.gallery {photos}", (enroll_two,), gallery),
        Case("align", f"{align} --parquet --bounding-boxes", kept=("out/.align",)),
        Case("classify train", f"{learn} --report DISK/report", (learn_two,)),
        Case("classify test --report", f"classify test DISK/c.classifier {photos} --report DISK/report", (learn_two,)),
        Case("calibrate a classifier", f"calibrate DISK/c.classifier {photos}", (learn_two,)),
        Case("cluster", f"cluster {everyone} --output DISK/out --photos copy", (f"cluster {some} --output DISK/out",)),
        *(
            Case(f"dataset convert --to {to}", f"dataset convert {many} DISK/out --to {to}", kept=converted)
            for to in ("folder", "recordio", "tfrecord", "webdataset", "parquet")
        ),
        Case("dataset check", f"dataset check {crops} --output DISK/report"),
        Case("verify bin --output", f"verify bin {shared}/data/lfw_dev_40_protocol2.bin --output DISK/report --allow-missing"),
        Case("export", "export sface --output DISK/m.onnx"),
        Case("convert", f"convert {graph} DISK/model {spec}"),
        Case("models add", f"models add {graph} facenet-20180402-114759 --unverified", kept=("home/models/.facespace-facenet",)),
        Case("train", f"train {recipe} data={crops} --output DISK/run"),
        Case("demo", "demo --output DISK/demo"),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(os.environ.get("FACESPACE_SHARED", "../shared"))
    parser.add_argument(
        "commands", nargs="*", metavar="COMMAND", help="beginning of a command's name (default: all commands)"
    )
    parser.add_argument("--shared", type=Path, default=beside)
    parser.add_argument("--room", nargs="+", choices=ROOMS, default=list(ROOMS))
    args = parser.parse_args()
    if os.geteuid():
        os.execvp("unshare", ["unshare", "-rm", sys.executable, *sys.argv])
    well = True
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder)
        raw.chmod(0o755)
        for number, case in enumerate(cases(args.shared.resolve(), raw)):
            if args.commands and not case.name.startswith(tuple(args.commands)):
                continue
            template = raw / f"before-{number}"
            try:
                reference = usual_result(case, raw / "disk", template)
            except AssertionError as error:
                well = False
                print(f"{case.name}: with room {error} - FAILED")
                continue
            enough = False
            for room in args.room:
                if not (enough and ROOMS[room]):  # what 64 kB are enough for is not tried with 1 MB
                    is_well, enough = attempt(case, room, raw / "disk", template, reference)
                    well &= is_well
    sys.exit(not well)


if __name__ == "__main__":
    main()
