"""Ten times as many requests as `facespace serve` can answer, for a minute, while people are enrolled: which answers come, and how soon.

First the rate at which 16 clients are answered is measured. Then photos are sent at ten times that rate, whether or not earlier ones
are answered. Each must be answered 200, 429 or 503; 429 and 503 with Retry-After and within 100 ms, so that refused clients do not
wait. Meanwhile two clients enroll and follow Retry-After when they are refused. Afterwards the script
measures how soon one client is answered within twice the usual time, and everybody whose enrolment was acknowledged
must be there, before and after a restart of the server.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import facespace
from served import Connection, album_gallery, album_probes, ask, enrolment, lfw, people, percentile, served
from speed import processor

CLIENTS = 16
CONNECTIONS = 500  # at most so many requests are unanswered
ENROLLING = 2
SOON = 0.1  # seconds
RECOVERED = 5.0  # seconds


class Enrolling(threading.Thread):
    """Clients that enrol one person of LFW after the other, and note what was acknowledged."""

    def __init__(self, port: int, photos: list[Path]) -> None:
        super().__init__(daemon=True)
        self._port, self._photos = port, iter(photos)
        self.acknowledged: list[str] = []
        self.refused = 0
        self.strange: list[str] = []
        self.over = threading.Event()

    def run(self) -> None:
        async def all_of_them() -> None:
            await asyncio.gather(*(self._client() for _ in range(ENROLLING)))

        asyncio.run(all_of_them())

    async def _client(self) -> None:
        connection = Connection(self._port)
        while not self.over.is_set():
            photo = next(self._photos)
            answer = await connection.ask(enrolment(self._port, photo.parent.name, photo))
            if answer.status in (429, 503):
                self.refused += 1
                await asyncio.sleep(min(float(answer.headers.get("retry-after", "1")), 2))
            elif answer.status in (200, 201):
                if answer.json["added"]:
                    self.acknowledged.append(answer.json["person"]["name"])
            elif answer.status != 422 and len(self.strange) < 3:  # 422: no face in this photo could be enrolled
                self.strange.append(f"{answer.status}: {answer.body[:300]!r}")
            await asyncio.sleep(0.02)
        connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--times", type=float, default=10)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--options", default="", help="further options of the server, as one argument separated by spaces"
    )
    args = parser.parse_args()
    load = os.getloadavg()[0]
    photos = [
        str(path) for pair in zip(album_probes(args.shared), lfw(args.shared)[::13], strict=False) for path in pair
    ]
    persons = [next(files) for _, files in itertools.groupby(lfw(args.shared), key=lambda path: path.parent)]
    lost = {}
    with tempfile.TemporaryDirectory() as folder:
        gallery = Path(folder, "people.gallery")
        album_gallery(args.shared, gallery, facespace.FaceAnalyzer())
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with (
            served(gallery, *args.options.split(), workers=args.workers) as server,
            subprocess.Popen([sys.executable, str(Path(__file__).with_name("serve_load.py"))], **pipes) as clients,
        ):

            def told(**order: object) -> dict:
                clients.stdin.write(json.dumps({"port": server.port, "photos": photos, **order}) + "\n")
                clients.stdin.flush()
                return json.loads(clients.stdout.readline())

            def one() -> float:
                answer = ask(server.port, "POST", "/v1/identify", Path(photos[0]).read_bytes(), "image/jpeg")
                return answer.seconds if answer.status == 200 else float("inf")

            short = min(10.0, args.seconds)
            told(clients=CLIENTS, seconds=short / 2)
            before = told(clients=CLIENTS, seconds=short)
            capacity = len(before["times"].get("200", [])) / before["seconds"]
            usual = percentile([one() for _ in range(20)], 0.5)
            print(f"{processor()}; {args.workers} worker(s), load {load:.1f} before")
            print(
                f"can do                       {capacity:.1f} photos/s; one client is answered in {usual * 1000:.0f} ms (p50)",
                flush=True,
            )
            memory = server.megabytes()
            enrolling = Enrolling(server.port, persons)
            enrolling.start()
            got = told(clients=CONNECTIONS, seconds=args.seconds, per_second=args.times * capacity)
            memory = memory, server.megabytes()
            enrolling.over.set()  # those under way are answered first, and count as load
            start, recovery = time.monotonic(), float("inf")
            while time.monotonic() - start < 60:
                if all(one() <= 2 * usual for _ in range(3)):
                    recovery = time.monotonic() - start
                    break
            enrolling.join(60)
            clients.stdin.close()
            alive = server.process.poll() is None
            lost["at once"] = set(enrolling.acknowledged) - set(people(server.port))
        with served(gallery) as server:
            lost["after a restart"] = set(enrolling.acknowledged) - set(people(server.port))
    times = {int(status): found for status, found in got["times"].items()}
    refused = [seconds for status in (429, 503) for seconds in times.get(status, [])]
    n = sum(map(len, times.values()))
    other = {status: len(found) for status, found in times.items() if status not in (200, 429, 503)}
    late = sum(seconds > SOON for seconds in refused)
    print(
        f"sent                         {n} requests in {args.seconds:g} s, {n / args.seconds:.0f} a second; {got['left_out']} more found no free connection"
    )
    print(
        f"answered 200                 {len(times.get(200, []))}, p50 {percentile(times.get(200, []), 0.5) * 1000:.0f} ms, p99 {percentile(times.get(200, []), 0.99) * 1000:.0f} ms"
    )
    print(
        f"answered 429 · 503           {len(times.get(429, []))} · {len(times.get(503, []))}; without Retry-After {got['without_retry_after']}   must be 0"
    )
    print(
        f"refused within               p50 {percentile(refused, 0.5) * 1000:.1f} ms, p99 {percentile(refused, 0.99) * 1000:.1f} ms, "
        f"most {max(refused, default=float('nan')) * 1000:.1f} ms; {late} later than 100 ms   must be within 100 ms"
    )
    print(f"other answers                {other}   must be none")
    for line in (got["strange"] + enrolling.strange)[:5]:
        print(f"    {line}")
    print(f"the server is {'up' if alive else 'DOWN'}; memory {memory[0]:.0f} MB before, {memory[1]:.0f} MB at the end")
    print(f"recovered after              {recovery:.2f} s   must be within 5 s")
    print(
        f"enrolments acknowledged      {len(enrolling.acknowledged)} (refused {enrolling.refused}); lost at once {len(lost['at once'])}, after a restart {len(lost['after a restart'])}   must be 0"
    )
    bad = not alive or other or enrolling.strange or got["without_retry_after"] or recovery > RECOVERED
    sys.exit(bool(bad or any(lost.values()) or percentile(refused, 0.99) > SOON))


if __name__ == "__main__":
    main()
