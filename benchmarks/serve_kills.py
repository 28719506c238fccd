"""`facespace serve` killed (SIGKILL) while people are enrolled over HTTP: every acknowledged person must be there afterwards.

Four clients enroll one person of LFW after the other. At a random moment every process of the server is killed at once; with
several workers, every second time only one worker, which the others must replace. Then the server is started again on the same
gallery: it must be ready, everybody ever acknowledged must be listed with a photo, and at the end the gallery must be intact.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from served import Answer, Connection, Served, enrolment, lfw, people
from speed import processor

CLIENTS = 4
LONGEST = 2.0  # seconds of enrolments before a kill
GRACE = 30.0  # seconds that the clients may still take afterwards


async def enrolled_until_killed(
    server: Served, photos: Iterator[Path], kill, wait: float
) -> tuple[list[str], list[str]]:
    """Return (acknowledged names, invalid answers); `kill` is called after `wait` seconds of enrolments."""
    acknowledged: list[str] = []
    strange: list[str] = []
    first, over = asyncio.Event(), asyncio.Event()

    async def client() -> None:
        connection = Connection(server.port)
        while not over.is_set():
            photo = next(photos)
            answer: Answer = await connection.ask(enrolment(server.port, photo.parent.name, photo), timeout=20)
            first.set()
            if answer.status in (200, 201) and answer.json["added"]:
                acknowledged.append(answer.json["person"]["name"])
            elif answer.status in (429, 503):
                await asyncio.sleep(0.05)
            elif answer.status not in (0, 200, 201, 422) and len(strange) < 3:
                strange.append(f"{answer.status} {answer.body[:200]!r}")
            elif answer.status == 0:  # what a killed process answers
                await asyncio.sleep(0.05)
        connection.close()

    clients = [asyncio.create_task(client()) for _ in range(CLIENTS)]
    await asyncio.wait_for(first.wait(), 60)
    await asyncio.sleep(wait)
    await kill()
    over.set()
    await asyncio.wait_for(asyncio.gather(*clients), GRACE)
    return acknowledged, strange


def one_round(server: Served, photos: Iterator[Path], rng: random.Random, *, one_worker: bool) -> tuple[list[str], str]:
    """Names acknowledged until the kill, and what was wrong or nothing."""

    async def kill() -> None:
        if not one_worker:
            server.kill()
            return
        victim = rng.choice(worker_pids(server))
        os.kill(victim, signal.SIGKILL)
        end = time.monotonic() + GRACE  # the clients go on meanwhile, at the workers that are left
        while victim in server.pids() or len(worker_pids(server)) < server.workers:
            if time.monotonic() > end:
                raise RuntimeError("the killed worker was not replaced")
            await asyncio.sleep(0.1)

    try:
        acknowledged, strange = asyncio.run(enrolled_until_killed(server, photos, kill, rng.uniform(0, LONGEST)))
    except (RuntimeError, asyncio.TimeoutError) as error:
        return [], f"{type(error).__name__}: {error}"
    return acknowledged, "; ".join(strange)


def worker_pids(server: Served) -> list[int]:
    """Processes below the first that have loaded networks: a worker holds hundreds of megabytes, helpers do not."""
    found = []
    for pid in server.pids()[1:]:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"resource_tracker" not in command and b"forkserver" not in command:
            found.append(pid)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(f"{processor()}; load {os.getloadavg()[0]:.1f} at the beginning; seed {args.seed}")
    bad = False
    for workers in args.workers:
        rng = random.Random(args.seed)
        # two photos a person, the second of whom comes back under the first's name
        persons = [list(files)[:2] for _, files in itertools.groupby(lfw(args.shared), key=lambda path: path.parent)]
        photos = itertools.cycle(itertools.chain.from_iterable(persons))
        wrong: list[str] = []
        acknowledged: set[str] = set()
        n_told = 0
        with tempfile.TemporaryDirectory() as folder:
            gallery = Path(folder, "people.gallery")
            for n in range(args.kills):
                one_worker = workers > 1 and n % 2 == 1
                server = Served(gallery, workers=workers)
                try:
                    server.wait()
                    names, said = one_round(server, photos, rng, one_worker=one_worker)
                finally:
                    server.kill()
                acknowledged.update(names)
                n_told += len(names)
                server = Served(gallery, workers=workers)
                try:
                    server.wait()
                    there = people(server.port)
                except RuntimeError as error:
                    said, there = f"{said}; {error}", {}
                finally:
                    server.kill()
                missing = acknowledged - there.keys()
                if missing:
                    said = f"{said}; {len(missing)} lost, {min(missing)} among them"
                wrong.append(said.strip("; "))
                if said:
                    print(f"    kill {n + 1}: {said.strip('; ')}", flush=True)
            check = [sys.executable, "-m", "facespace", "gallery", "check", "--quick", "--gallery", str(gallery)]
            checked = subprocess.run(check, capture_output=True, text=True, check=False)
        good = wrong.count("")
        bad = bad or good < args.kills or checked.returncode != 0
        print(
            f"{workers} worker(s)       {good} of {args.kills} good   must be {args.kills} of {args.kills}; {n_told} enrolments "
            f"acknowledged, of {len(acknowledged)} people; gallery check --quick: {(checked.stdout + checked.stderr).strip()}",
            flush=True,
        )
    sys.exit(bad)


if __name__ == "__main__":
    main()
