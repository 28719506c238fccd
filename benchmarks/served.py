"""A service started for a measurement, and the cheapest possible client: prepared request bytes, asyncio streams.

The other serve_*.py import it. The client's cost reduces the server's rate, because both share the processor.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import facespace

READY_SECONDS = 120
ENROLLED = 6  # photos of each known person of the album, as in album.py
MAX_ANSWER = 8_388_608  # bytes


@dataclass
class Answer:
    """What came back for one request. Status 0 stands for a connection that failed; `body` then says how."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    @property
    def json(self) -> dict:
        return json.loads(self.body)


class Served:
    """A running `facespace serve` on loopback."""

    def __init__(self, gallery: Path | str, *options: str, workers: int = 1, port: int | None = None) -> None:
        self.gallery, self.workers = gallery, workers
        self.port = port or free_port()
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the object
        command = [sys.executable, "-m", "facespace", "serve", "--gallery", str(gallery), "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--workers", str(workers), "--no-page", *options]
        self.process = subprocess.Popen(command, stdout=self._log, stderr=self._log, start_new_session=True)

    def wait(self) -> None:
        """Return when /readyz answers 200; with several workers, when each has had time to."""
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            if ask(self.port, "GET", "/readyz", seconds=5).status == 200:
                return
            time.sleep(0.1)
        raise RuntimeError(f"the server is not ready (exit code {self.process.poll()}):\n{self.log()[-3000:]}")

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def pids(self) -> list[int]:
        """The server's process and all below it, the first first."""
        found = [self.process.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    found += map(int, (task / "children").read_text().split())
        return found

    def megabytes(self) -> float:
        """Memory of the whole tree of processes; what two share counts once (PSS)."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total / 1024

    def kill(self) -> None:
        """SIGKILL to all its processes, stopped first so that none starts another in between."""
        pids = self.pids()
        for how in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, how)
        self.process.wait()

    def stop(self) -> float:
        """SIGTERM; the seconds until it has ended. `TimeoutExpired` after a minute."""
        start = time.monotonic()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        return time.monotonic() - start


@contextlib.contextmanager
def served(gallery: Path | str, *options: str, workers: int = 1) -> Iterator[Served]:
    server = Served(gallery, *options, workers=workers)
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def request(port: int, method: str, path: str, body: bytes = b"", content_type: str = "", **headers: str) -> bytes:
    """The bytes of a request; the connection stays open."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    if body or method != "GET":
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def multipart(fields: dict[str, str], photos: list[tuple[str, bytes]], field: str = "photo") -> tuple[bytes, str]:
    """(body, content type) of a form with photos."""
    mark = "facespace-benchmark-5b2f0c9d"
    parts = [
        f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    for name, photo in photos:
        head = f'--{mark}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
        parts.append(head.encode() + b"Content-Type: image/jpeg\r\n\r\n" + photo + b"\r\n")
    return b"".join([*parts, f"--{mark}--\r\n".encode()]), f"multipart/form-data; boundary={mark}"


def enrolment(port: int, name: str, photo: Path) -> bytes:
    """The request that enrols one photo under a name."""
    body, content_type = multipart({"name": name}, [(photo.name, photo.read_bytes())])
    return request(port, "POST", "/v1/enroll", body, content_type)


class Connection:
    """One kept-alive connection, opened when it is needed."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, data: bytes, timeout: float = 60) -> Answer:
        start = time.perf_counter()
        try:
            status, headers, body = await asyncio.wait_for(self._exchange(data), timeout)
        except (OSError, EOFError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
            self.close()
            return Answer(0, {}, type(error).__name__.encode(), time.perf_counter() - start)
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(status, headers, body, time.perf_counter() - start)

    async def _exchange(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            self._streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self._streams
        writer.write(data)  # an answer may come before all is sent: a server that refuses does not read on
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }
        length = int(headers.get("content-length", "0"))
        if length > MAX_ANSWER or "transfer-encoding" in headers:
            raise EOFError(f"an answer of {length} bytes, or one without a length")
        return int(lines[0].split()[1]), headers, await reader.readexactly(length)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def ask(port: int, method: str, path: str, body: bytes = b"", content_type: str = "", seconds: float = 60) -> Answer:
    """One request on a connection of its own."""
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request(method, path, body or None, {"Content-Type": content_type} if content_type else {})
        with connection.getresponse() as got:
            headers = {name.lower(): value for name, value in got.getheaders()}
            return Answer(got.status, headers, got.read(MAX_ANSWER), time.perf_counter() - start)
    except (OSError, http.client.HTTPException) as error:
        return Answer(0, {}, type(error).__name__.encode(), time.perf_counter() - start)
    finally:
        connection.close()


def people(port: int) -> dict[str, int]:
    """Everybody who is enrolled, with the number of their photos."""
    found: dict[str, int] = {}
    after = ""
    while True:
        answer = ask(port, "GET", f"/v1/people?limit=100{after}")
        if answer.status != 200:
            raise RuntimeError(f"GET /v1/people: {answer.status} {answer.body[:300]!r}")
        page = answer.json
        found |= {person["name"]: person["n_photos"] for person in page["people"]}
        if page["next"] is None:
            return found
        after = f"&after={page['next']}"


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of the values do not exceed; NaN of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def lfw(shared: Path) -> list[Path]:
    return sorted((shared / "data/lfw_view1/images").rglob("*.jpg"))


def album_probes(shared: Path) -> list[Path]:
    """The photos of the album that are not enrolled: known people and strangers."""
    album = shared / "data/album"
    known = [path for person in sorted((album / "known").iterdir()) for path in sorted(person.iterdir())[ENROLLED:]]
    return known + sorted(path for path in (album / "unknown").rglob("*") if path.is_file())


def album_gallery(shared: Path, path: Path, analyzer: facespace.FaceAnalyzer) -> None:
    """A gallery of the album's known people."""
    with facespace.Gallery(path, analyzer.embedder, create=True) as gallery:
        for person in sorted((shared / "data/album/known").iterdir()):
            photos = sorted(person.iterdir())[:ENROLLED]
            for photo in facespace.process(photos, analyzer.detector, analyzer.embedder, largest=True, keep_crops=True):
                if photo.faces:
                    gallery.add(person.name, photo.embeddings[0], photo.crops[0], source=photo.path)
