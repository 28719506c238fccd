"""Sixteen processes on one gallery for a minute: eight change it, eight identify; no call may fail and nothing may be lost.

Each writer enrolls its own people, removes every fifth of them at once, and renames a third of the others a little later. It
records every call that has returned. Each of the other processes searches for somebody enrolled before, who must be found
with the right name, and for somebody whom a writer has just reported. At the end, exactly the people recorded by the writers must be in
the gallery, each with the right vector, and the file must be intact.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import facespace
from facespace.identification import edits
from facespace.identification.stores.protocol import Entry
from facespace.identification.stores.sqlite import SQLiteStore
from large_galleries import drawn_model, drawn_vectors, fill, name_of
from speed import processor

DIMENSION = 128
BEFORE = 10_000  # people
EVERY_RENAME, EVERY_REMOVE = 3, 5
A_WRITER = 10_000_000  # numbers of people that a writer may give


def person(writer: int, n: int) -> tuple[str, Entry]:
    vector = drawn_vectors(DIMENSION, 100 + writer)(n, 1)[0]
    return name_of((writer + 1) * A_WRITER + n), Entry(vector, os.urandom(32).hex(), "", "onnxruntime float32", 0.9)


def write(path: Path, writer: int, seconds: float) -> None:
    """Changes until the time is over; a line of JSON for what was done, flushed after each call."""
    end = time.monotonic() + seconds
    store = SQLiteStore(path)
    longest, n = 0.0, 0
    while time.monotonic() < end:
        name, entry = person(writer, n)
        calls = [("add", lambda name=name, entry=entry: store.add(name, entry))]
        if n % EVERY_RENAME == 2 and (n - 1) % EVERY_REMOVE != 4:
            old = name_of((writer + 1) * A_WRITER + n - 1)
            calls.append(("rename", lambda old=old: edits.rename(store, old, f"{old} now")))
        if n % EVERY_REMOVE == 4:
            gone = name_of((writer + 1) * A_WRITER + n)
            calls.append(("remove", lambda gone=gone: edits.remove(store, gone)))
        for kind, call in calls:
            start = time.monotonic()
            call()
            longest = max(longest, time.monotonic() - start)
            print(json.dumps({"did": kind, "n": n}), flush=True)
        n += 1
    print(json.dumps({"longest": longest}), flush=True)


def look(path: Path, number: int, seconds: float) -> None:
    """Identifies people who were there before until the time is over."""
    end = time.monotonic() + seconds
    rng, vectors = np.random.default_rng(number), drawn_vectors(DIMENSION)
    piece = vectors(0, BEFORE)
    longest = n = 0
    with facespace.Gallery(path, drawn_model(DIMENSION)) as gallery:  # type: ignore[arg-type]
        while time.monotonic() < end:
            who = int(rng.integers(BEFORE))
            start = time.monotonic()
            (found,) = gallery.identify(piece[who])
            longest = max(longest, time.monotonic() - start)
            assert found.name == name_of(who), (found, who)
            n += 1
    print(json.dumps({"searches": n, "longest": longest}), flush=True)


def expected(lines: list[dict[str, object]], writer: int) -> dict[str, int]:
    """Names that a writer's notes leave in the gallery, and the number of each."""
    there: dict[str, int] = {}
    for line in lines:
        if "did" not in line:
            continue
        n = int(str(line["n"]))
        name = name_of((writer + 1) * A_WRITER + n)
        if line["did"] == "add":
            there[name] = n
        elif line["did"] == "remove":
            del there[name]
        else:
            old = name_of((writer + 1) * A_WRITER + n - 1)
            there[f"{old} now"] = there.pop(old)
    return there


def check(path: Path, notes: list[list[dict[str, object]]]) -> tuple[int, int]:
    """Return (people lost or wrong, people not recorded by a writer); raise AssertionError if the file is damaged."""
    store = SQLiteStore(path)
    with store._read() as cursor:
        assert cursor.rows("PRAGMA integrity_check") == [("ok",)]
    people = {one.state.name: one.id for one in store.people()}
    lost, wanted = 0, {name_of(n) for n in range(BEFORE)}
    lost += len(wanted - people.keys())
    for writer, lines in enumerate(notes):
        there = expected(lines, writer)
        wanted |= there.keys()
        for name, n in there.items():
            if name not in people:
                lost += 1
                continue
            held = store.embeddings([photo.id for photo in store.photos(people[name])])
            lost += held.shape != (1, DIMENSION) or not np.allclose(held[0], person(writer, n)[1].embedding, atol=1e-3)
    found = store.nearest(drawn_vectors(DIMENSION)(0, 1), 1)
    assert store.get(found.people[0].tolist())[0].state.name == name_of(0)
    return lost, len(people.keys() - wanted)


def main() -> None:
    if sys.argv[1:2] == ["write"]:
        write(Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
        return
    if sys.argv[1:2] == ["look"]:
        look(Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument(
        "--each", type=int, default=8, help="number of processes that write, and of those that identify"
    )
    args = parser.parse_args()
    print(f"{processor()}; load {os.getloadavg()[0]:.1f} at the beginning")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "people.gallery")
        fill(path, BEFORE, DIMENSION)
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        processes = []
        for kind in ("write", "look"):
            for k in range(args.each):
                command = [sys.executable, __file__, kind, str(path), str(k), str(args.seconds)]
                with Path(folder, f"{kind}{k}").open("w") as told_to:
                    processes.append(subprocess.Popen(command, stdout=told_to, env=one_thread))
        codes = [process.wait() for process in processes]
        told = [
            [json.loads(line) for line in Path(folder, f"{kind}{k}").read_text().splitlines()]
            for kind in ("write", "look") for k in range(args.each)
        ]  # fmt: skip
        written, looked = told[: args.each], told[args.each :]
        lost, strange = check(path, written)
    n_changes = sum("did" in line for lines in written for line in lines)
    n_searches = sum(line["searches"] for lines in looked for line in lines)
    longest = [max((line["longest"] for lines in part for line in lines if "longest" in line), default=float("nan")) for part in (written, looked)]  # fmt: skip
    print(
        f"{args.each} processes changing and {args.each} identifying for {args.seconds:g} s, {BEFORE:,} people before"
    )
    print(f"{'processes that failed':<44}{sum(map(bool, codes)):>10}   must be 0")
    print(f"{'people lost or wrong':<44}{lost:>10}   must be 0")
    print(f"{'people nobody enrolled, or removed':<44}{strange:>10}   must be 0")
    print(f"{'integrity_check':<44}{'ok':>10}   must be ok")
    print(f"{'changes a second, the longest call':<44}{n_changes / args.seconds:>10.1f}   {longest[0]:.2f} s")
    print(f"{'searches a second, the longest call':<44}{n_searches / args.seconds:>10.1f}   {longest[1]:.2f} s")
    sys.exit(bool(sum(map(bool, codes)) or lost or strange))


if __name__ == "__main__":
    main()
