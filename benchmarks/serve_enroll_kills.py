"""`enroll --server` and the service killed (SIGKILL) at random moments: every photo must be enrolled exactly once.

Each round sends a folder of photos to a service. Repeatedly one of the two is killed: the command, or the service, which is
started again at once, on the same port and gallery. A killed command is started again with the same journal, and in every
second round without it. A round ends when a command has completed; then each photo must be enrolled once. After each kill,
every photo that a command had reported as enrolled must be there.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from facespace.client.client import Client
from facespace.errors import ServiceError
from speed import processor

SAMPLES = (("Grace Hopper", "matplotlib", "grace_hopper.jpg"), ("Eileen Collins", "scikit-image", "astronaut.png"))
READY = 60.0  # seconds to wait for a service


class Service:
    """A service in a process group of its own, on a port that stays the same."""

    def __init__(self, folder: Path, n_workers: int) -> None:
        self._folder, self._n_workers, self.port = folder, n_workers, 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [
            sys.executable, "-m", "facespace", "serve", "--gallery", str(self._folder / "people.gallery"),
            "--port", str(self.port), "--workers", str(self._n_workers), "--no-page",
        ]  # fmt: skip
        with (self._folder / "serve.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )
        assert self._process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self._process.stdout.readline())
        assert found, (self._folder / "serve.log").read_text()[-2000:]
        self.port = int(found[1])

    def kill(self) -> None:
        """SIGKILL to the process and its workers."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def make_photos(folder: Path, n_photos: int) -> dict[str, set[str]]:
    """Photos of two people, each turned a little; returns the names of the files by person."""
    names: dict[str, set[str]] = {}
    for person, package, file in SAMPLES:
        (folder / person).mkdir(parents=True)
        path = next(one for one in importlib.metadata.files(package) or [] if one.name == file).locate()
        with Image.open(str(path)) as image:
            photo = image.convert("RGB")
            photo.thumbnail((400, 400))
        for n in range(n_photos // len(SAMPLES)):
            photo.rotate(0.5 * (n - n_photos / 4)).save(folder / person / f"{n:03}.jpg", quality=92)
        names[person] = {path.name for path in (folder / person).iterdir()}
    return names


def enrolled(url: str) -> dict[str, list[str]]:
    """The sources of everybody's photos, as soon as the service answers."""
    end = time.monotonic() + READY
    while True:
        try:
            with Client(url) as client:
                return {one.name: sorted(photo.source for photo in client.photos(one)) for one in client.people()}
        except ServiceError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def told(out: Path) -> set[tuple[str, str]]:
    """(person, file) that commands have said is enrolled."""
    lines = out.read_text(encoding="utf-8", errors="replace").splitlines()
    found = (re.fullmatch(r"(.+?): .*/(\S+) enrolled", line) for line in lines)
    return {(one[1], one[2]) for one in found if one}


def one_round(number: int, n_photos: int, n_workers: int, draw: random.Random) -> tuple[int, int]:
    """Returns how often the command and the service were killed."""
    kills = [0, 0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wanted = make_photos(folder / "staff", n_photos)
        service = Service(folder, n_workers)
        journal, out = folder / "journal", folder / "out"
        command = [
            sys.executable, "-u", "-m", "facespace", "enroll", "--server", service.url, "--folder", str(folder / "staff"),
            "--journal", str(journal),
        ]  # fmt: skip
        try:
            enrolled(service.url)
            while True:
                with out.open("ab") as stdout:
                    process = subprocess.Popen(command, stdout=stdout, stderr=subprocess.STDOUT)
                n_before = len(told(out))
                goal = n_before + draw.randint(1, max(1, n_photos // 4))
                while process.poll() is None and len(told(out)) < goal:
                    time.sleep(0.01)
                if process.poll() is not None:
                    assert process.returncode == 0, out.read_text()[-2000:]
                    break
                which = draw.randrange(2)
                kills[which] += 1
                if which == 0:
                    process.kill()
                else:
                    service.kill()
                    service.start()
                    process.wait()  # it waits for the service, and goes on
                process.wait()
                there = enrolled(service.url)
                lost = {one for one in told(out) if one[1] not in there.get(one[0], [])}
                assert not lost, f"lost though told: {sorted(lost)}"
                if which == 1:
                    assert process.returncode == 0, out.read_text()[-2000:]
                    break
                if number % 2 and journal.exists():
                    journal.unlink()
            there = enrolled(service.url)
            assert {person: set(sources) for person, sources in there.items()} == wanted, "not all are there"
            assert all(len(sources) == len(set(sources)) for sources in there.values()), "some are there twice"
        finally:
            service.kill()
    return kills[0], kills[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--photos", type=int, default=40, help="photos per round")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    n_command = n_service = n_rounds = 0
    while n_command + n_service < given.kills:
        of_command, of_service = one_round(n_rounds, given.photos, given.workers, draw)
        n_command, n_service, n_rounds = n_command + of_command, n_service + of_service, n_rounds + 1
    print(processor())
    print(
        f"{n_rounds} rounds of {given.photos} photos, {given.workers} worker{'s' if given.workers > 1 else ''}: the command killed "
        f"{n_command} times, the service {n_service} times; every photo is there once, no reported photo is lost"
    )


if __name__ == "__main__":
    main()
