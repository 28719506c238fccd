"""The clients of serve_throughput.py and serve_overload.py, in a separate process: reads orders, prints measurements.

An order is a line of JSON on standard input: {"port": …, "photos": [paths], "clients": n, "seconds": s} for clients who each send
a photo when the previous one is answered, and with "per_second" for photos that are sent at this rate, answered or not, on a
limited number of connections. The answer is a line of JSON: seconds, statuses with their counts, their times, errors.
"""

from __future__ import annotations

import asyncio
import collections
import gc
import json
import sys
import time
from pathlib import Path

from served import Connection, request


class Measured:
    """What came back: statuses, the times of each, the first bodies of answers that are neither 200 nor a refusal."""

    def __init__(self) -> None:
        self.times: dict[int, list[float]] = collections.defaultdict(list)
        self.strange: list[str] = []
        self.without_retry_after = self.left_out = 0

    def add(self, answer) -> None:
        self.times[answer.status].append(round(answer.seconds, 5))
        if answer.status in (429, 503):
            self.without_retry_after += "retry-after" not in answer.headers
        elif answer.status != 200 and len(self.strange) < 3:
            self.strange.append(f"{answer.status}: {answer.body[:300].decode(errors='replace')}")


async def closed(order: dict, requests: list[bytes], measured: Measured) -> None:
    """Clients who wait for each answer."""
    end = time.monotonic() + order["seconds"]
    turn = iter(range(10**9))

    async def client() -> None:
        connection = Connection(order["port"])
        while time.monotonic() < end:
            measured.add(await connection.ask(requests[next(turn) % len(requests)]))
        connection.close()

    await asyncio.gather(*(client() for _ in range(order["clients"])))


async def opened(order: dict, requests: list[bytes], measured: Measured) -> None:
    """Requests at a rate, each on a free connection; one that finds none is counted as left out."""
    free = [Connection(order["port"]) for _ in range(order["clients"])]
    under_way: set[asyncio.Task] = set()

    async def one(connection: Connection, data: bytes) -> None:
        measured.add(await connection.ask(data))
        free.append(connection)

    start = time.monotonic()
    n = 0
    while (now := time.monotonic() - start) < order["seconds"]:
        while n < now * order["per_second"]:
            n += 1
            if free:
                task = asyncio.create_task(one(free.pop(), requests[n % len(requests)]))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            else:
                measured.left_out += 1
        await asyncio.sleep(0.002)
    await asyncio.gather(*under_way)


def main() -> None:
    gc.disable()  # pauses would be counted as the server's; the process is short
    photos: dict[str, bytes] = {}
    for line in sys.stdin:
        order = json.loads(line)
        for path in order["photos"]:
            if path not in photos:
                photos[path] = Path(path).read_bytes()
        target = order.get("path", "/v1/identify")
        requests = [request(order["port"], "POST", target, photos[path], "image/jpeg") for path in order["photos"]]
        measured = Measured()
        start = time.monotonic()
        asyncio.run((opened if "per_second" in order else closed)(order, requests, measured))
        told = {
            "seconds": time.monotonic() - start,
            "times": measured.times,
            "strange": measured.strange,
            "without_retry_after": measured.without_retry_after,
            "left_out": measured.left_out,
        }
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
