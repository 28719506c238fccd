"""Commands killed at random moments and started again, compared with undisturbed runs: enroll, align, train, ...

usage: crashes.py [COMMAND ...] [--shared FOLDER] [--kills N] [--seed S]
Half of the kills (SIGKILL, the whole process group) come while a command works, the other half after it has begun to move
its last files into place. After each kill, every file with its final name must be complete. The same command is
then started again, must succeed, leave no unfinished file behind, and give the result of the undisturbed run: the
same bytes if the command guarantees them (align, train, dataset convert), otherwise the same people, groups and vectors.
`cluster` is killed in two steps: with some photos, and again after others were added.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from facespace.datasets.writing import FORMATS
from facespace.identification.classifier import Classifier
from facespace.identification.stores.sqlite import SQLiteStore
from facespace.training import checkpoint
from folders import class_folders, contents, tiny_recipe, unfinished


@dataclass(frozen=True)
class Case:
    """One command. `steps` are its arguments, started one after the other in a folder of their own."""

    name: str
    steps: tuple[tuple[str, ...], ...]
    late: Callable[[Path, int], bool]  # (folder, when it was started) -> whether the last files take their places
    check: Callable[[Path, Path], None]  # (folder, an undisturbed one) -> AssertionError or another if not all is whole
    result: Callable[[Path], dict[str, Any]]  # what is compared in the end
    prepare: Callable[[Path], None] = lambda _: None  # what is there before


# Files


def newer(path: Path, start: int) -> bool:
    try:
        return path.stat().st_mtime_ns > start
    except OSError:
        return False


def is_part_of(part: dict[str, bytes], whole: dict[str, bytes]) -> None:
    for name, data in part.items():
        assert whole.get(name) == data, f"{name} is not what it is in the end"


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.shape == other.shape and bool(np.allclose(one, other, rtol=0, atol=1e-5))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


# Each command's files


def gallery_rows(path: Path) -> dict[str, Any]:
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = connection.execute(
            "SELECT name, digest, source, quality, embedding FROM face JOIN person ON person.id = face.person"
        ).fetchall()
        settings = dict(connection.execute("SELECT key, value FROM setting").fetchall())
    connection.close()
    return settings | {
        f"{name} {digest}": {"source": source, "vector": np.append(np.frombuffer(blob, "<f4"), quality)}
        for name, digest, source, quality, blob in rows
    }


def check_gallery(folder: Path, reference: Path) -> None:
    path = folder / "people.gallery"
    if not path.exists():
        return
    SQLiteStore(path, create=True).close()  # a file without tables is taken for none
    rows, expected = gallery_rows(path), gallery_rows(reference / "people.gallery")
    assert all(same(value, expected.get(key)) for key, value in rows.items()), (
        "the gallery contains a row that no photo has"
    )


def check_crops(folder: Path, reference: Path) -> None:
    is_part_of(contents(folder, ".*"), contents(reference, ".*"))
    for path in folder.rglob("[!.]*.png"):
        Image.open(path).load()


def metrics(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: row[key] for key in row if key not in ("images_per_second", "waiting", "seconds")} for row in rows]


def check_run(folder: Path, reference: Path) -> None:
    run = folder / "run"
    for name in ("recipe.toml", "model"):
        there, expected = run / name, reference / "run" / name
        if there.is_file():
            assert there.read_bytes() == expected.read_bytes(), name
        elif there.is_dir():
            assert contents(there) == contents(expected), name
    if (run / "run.json").exists():
        json.loads((run / "run.json").read_text())
    if (latest := checkpoint.latest(run / "checkpoints")) is not None:
        for path in latest.parent.glob("step-*"):
            checkpoint.load(path)


def run_result(folder: Path) -> dict[str, Any]:
    run = folder / "run"
    others = ("events.out*", "metrics.jsonl", "run.json")  # TensorBoard's, and with times
    return contents(run, *others) | {"metrics": metrics(run)}


def classifier_content(path: Path) -> dict[str, Any]:
    made = Classifier.load(path)
    return {"names": list(made.names_), "digests": list(made.digests_), "embeddings": made.embeddings_} | {
        name: array for name, array in load_file(path).items() if name != "digests"
    }


def check_classifier(folder: Path, reference: Path) -> None:
    path = folder / "people.classifier"
    assert path.read_bytes() == (folder / "before").read_bytes() or same(
        classifier_content(path), classifier_content(reference / "people.classifier")
    ), "neither the old classifier nor the new one"


def check_groups(folder: Path, reference: Path) -> None:  # noqa: ARG001
    out = folder / "out"
    if (out / "faces.safetensors").exists():
        load_file(out / "faces.safetensors")
    for path in out.rglob("[!.]*.jpg"):
        Image.open(path).load()
    for path in out.rglob(".group.json"):
        json.loads(path.read_text())
    if (out / "index.html").exists():
        assert (out / "index.html").read_text().endswith("</html>\n"), "index.html is cut short"
    if (out / "groups.csv").exists():
        assert all(len(row) == 8 for row in csv.reader((out / "groups.csv").open())), "groups.csv is cut short"


def groups_result(folder: Path) -> dict[str, Any]:
    out = folder / "out"
    arrays = load_file(out / "faces.safetensors")
    marks = {str(path.parent.name): json.loads(path.read_text())["groups"] for path in out.rglob(".group.json")}
    return {**arrays, "marks": marks, "files": contents(out, "faces.safetensors", ".group.json")}


def check_converted(folder: Path, reference: Path) -> None:
    if (folder / "out").exists():
        assert contents(folder / "out", ".*") == contents(reference / "out"), "an unfinished dataset has its name"


# Runs


def start(arguments: tuple[str, ...], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "printed").open("wb") as printed:
        return subprocess.Popen(
            [sys.executable, "-m", "facespace", *arguments],
            cwd=folder, stdout=printed, stderr=printed, start_new_session=True,
            env={**os.environ, "TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def finish(arguments: tuple[str, ...], folder: Path) -> None:
    if code := start(arguments, folder).wait():
        raise AssertionError(f"exit code {code}: {(folder / 'printed').read_text()[-500:]}")


def wait_until_late(case: Case, process: subprocess.Popen[bytes], folder: Path, begin: int) -> bool:
    """Whether the last files began to take their places before the command ended."""
    while not case.late(folder, begin):
        if process.poll() is not None:
            return case.late(folder, begin)
        time.sleep(0.001)
    return True


def fresh(case: Case, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "tmp").mkdir(parents=True)
    case.prepare(folder)
    return folder


def undisturbed(case: Case, folder: Path) -> Iterator[tuple[float, float, Path]]:
    """After each step: seconds until its last files take their places, seconds from there, a copy of the folder."""
    work = fresh(case, folder / "work")
    for number, arguments in enumerate(case.steps):
        begin, since = time.time_ns(), time.monotonic()
        process = start(arguments, work)
        assert wait_until_late(case, process, work, begin), f"{case.name}: the last files were not seen"
        late = time.monotonic()
        assert process.wait() == 0, (work / "printed").read_text()
        shutil.copytree(work, copy := folder / f"reference-{number}", symlinks=True)
        yield late - since, time.monotonic() - late, copy


def kill(
    case: Case, arguments: tuple[str, ...], work: Path, times: tuple[float, float], late: bool, chance: random.Random
) -> bool:
    """Start a command and kill it at a random moment; whether that was before its end."""
    begin = time.time_ns()
    process = start(arguments, work)
    if late:
        wait_until_late(case, process, work, begin)
        wait = times[1] * chance.random() ** 3  # files take their places in a part of that time: its beginning
    else:
        wait = times[0] * chance.random()
    try:
        process.wait(wait)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def crash(case: Case, folder: Path, n_kills: int, chance: random.Random) -> bool:
    """Kill a command `n_kills` times and print a line; whether all was well."""
    began = time.monotonic()
    references = list(undisturbed(case, folder))
    shutil.rmtree(folder / "work")
    n_late = n_identical = n_left = 0
    problems: list[str] = []
    for number in range(n_kills):
        step = number % len(case.steps)
        if step == 0:
            work = fresh(case, folder / "work")
        before, early, tail = folder / "before", *references[step][:2]
        shutil.copytree(work, before, symlinks=True)
        late = number // len(case.steps) % 2 == 1
        while not kill(case, case.steps[step], work, (early, tail), late, chance):  # it was faster than before
            shutil.rmtree(work)
            shutil.copytree(before, work, symlinks=True)
            early, tail = 0.9 * early, 0.7 * tail
        shutil.rmtree(before)
        n_late += late
        try:
            case.check(work, references[step][2])
            finish(case.steps[step], work)
            n_identical += (ended := same(case.result(work), case.result(references[step][2])))
            assert ended, "the result is another one"
        except Exception as error:  # any error of the reader
            problems.append(f"kill {number + 1} ({'late' if late else 'early'}): {type(error).__name__}: {error}")
            shutil.copytree(references[step][2], work, symlinks=True, dirs_exist_ok=True)
        if left := unfinished(work):
            n_left += 1
            problems.append(f"kill {number + 1} ({'late' if late else 'early'}): left {', '.join(left[:5])}")
    print(
        f"{case.name}: killed {n_kills} times, {n_kills - n_late} while it worked and {n_late} while its last files "
        f"took their places; started again {n_identical} made what an undisturbed run makes, {n_left} left anything "
        f"behind ({time.monotonic() - began:.0f} s)"
    )
    for problem in problems:
        print(f"  {problem}")
    sys.stdout.flush()
    return not problems


# What is crashed


def cases(shared: Path, raw: Path) -> list[Case]:
    photos = class_folders(shared / "data/album/known", raw / "photos", n_people=6, n_images=4)
    crops = class_folders(shared / "data/train_182", raw / "crops", n_people=40, n_images=100)
    few = class_folders(shared / "data/train_182", raw / "few", n_people=12, n_images=12)
    recipe = raw / "recipe.toml"
    recipe.write_text(tiny_recipe(n_epochs=2, epoch_size=8, workers=1, log_every=1))
    some, others = (sorted(str(path) for path in photos.glob(pattern)) for pattern in ("*[0-4]", "*[5-9]"))
    assert some
    assert others
    old = raw / "old.classifier"
    subprocess.run(
        [sys.executable, "-m", "facespace", "classify", "train", class_folders(photos, raw / "two", 2, 3), "--output",
         old, "--json"], check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip

    def with_old_classifier(folder: Path) -> None:
        shutil.copy2(old, folder / "before")
        shutil.copy2(old, folder / "people.classifier")

    def last_crops(folder: Path, _: int) -> bool:
        return (folder / "out/.align/0000001.json").exists() or (folder / "out/faces.csv").exists()

    def last_step(folder: Path, _: int) -> bool:
        return (folder / "run/checkpoints/step-000000016").exists() or (folder / "run/model").exists()

    def converted(folder: Path, _: int) -> bool:
        return (folder / ".facespace-out/convert.json").exists() or (folder / "out").exists()

    return [
        Case(
            "enroll --folder",
            (("enroll", "--gallery", "people.gallery", "--folder", str(photos)),),
            lambda folder, _: b"enrolled" in (folder / "printed").read_bytes(),
            check_gallery,
            lambda folder: gallery_rows(folder / "people.gallery"),
        ),
        Case(
            "align",
            (("align", str(photos), "out"),),
            last_crops,
            lambda folder, reference: check_crops(folder / "out", reference / "out"),
            lambda folder: contents(folder / "out"),
        ),
        Case("train", (("train", str(recipe), f"data={few}", "--output", "run"),), last_step, check_run, run_result),
        Case(
            "classify train",
            (("classify", "train", str(photos), "--output", "people.classifier"),),
            lambda folder, begin: (
                newer(folder / "people.classifier", begin) or any(name[0] == "." for name in os.listdir(folder))
            ),
            check_classifier,
            lambda folder: classifier_content(folder / "people.classifier"),
            with_old_classifier,
        ),
        Case(
            "cluster",
            (("cluster", *some, "--output", "out"), ("cluster", *some, *others, "--output", "out")),
            lambda folder, begin: newer(folder / "out/faces.safetensors", begin),
            check_groups,
            groups_result,
        ),
        *(
            Case(
                f"dataset convert --to {to}",
                (("dataset", "convert", str(crops), "out", "--to", to, "--shard-images", "100"),),
                converted,
                check_converted,
                lambda folder: contents(folder / "out"),
            )
            for to in FORMATS
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(os.environ.get("FACESPACE_SHARED", "../shared"))
    parser.add_argument(
        "commands", nargs="*", metavar="COMMAND", help="beginning of a command's name (default: all commands)"
    )
    parser.add_argument("--shared", type=Path, default=beside)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    well = True
    with tempfile.TemporaryDirectory() as raw:
        chosen = [
            case
            for case in cases(args.shared.resolve(), Path(raw))
            if not args.commands or case.name.startswith(tuple(args.commands))
        ]
        for case in chosen:
            with tempfile.TemporaryDirectory() as folder:
                well &= crash(case, Path(folder), args.kills, random.Random(f"{args.seed} {case.name}"))
    sys.exit(not well)


if __name__ == "__main__":
    main()
