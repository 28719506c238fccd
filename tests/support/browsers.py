"""A service in its own process, and Chromium that opens its page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, ImageEnhance

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream",
]  # fmt: skip
ALLOW_CAMERA = "--use-fake-ui-for-media-stream"
STARTED = 60.0  # seconds a service may take to start


class Served:
    """A running `facespace serve`: its `address`, which ends with /, and requests that tests send without the page."""

    def __init__(self, gallery: Path, *arguments: str, port: int = 0) -> None:
        self.gallery, self.arguments = gallery, arguments
        self.log = gallery.with_suffix(".log").open("ab")
        try:
            self.start(port)
        except BaseException:
            self.close()
            raise

    def start(self, port: int = 0) -> None:
        """Start the process and wait until it prints its address."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "facespace", "serve", "--gallery", os.fspath(self.gallery), "--port", str(port),
             "--unknowns-days", "30", *self.arguments],
            stdout=subprocess.PIPE, stderr=self.log, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.address = ""
        for line in self.process.stdout:
            if "serving at" in line:
                self.address = line.split()[-1]
                break
        assert self.address, self.gallery.with_suffix(".log").read_text()
        deadline = time.monotonic() + STARTED
        while not self._is_ready():
            assert time.monotonic() < deadline, "the service did not become ready"
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}readyz", timeout=5):
                return True
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    @property
    def port(self) -> int:
        return int(self.address.rstrip("/").rsplit(":", 1)[1])

    def stop(self) -> None:
        """End the process."""
        self.process.terminate()
        try:
            self.process.wait(8)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def close(self) -> None:
        self.stop()
        self.log.close()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Send JSON to a route below /v1/ and return its answer."""
        data = None if body is None else json.dumps(body).encode()
        sent = {
            "Content-Type": "application/json",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        request = urllib.request.Request(f"{self.address}v1/{path}", data, sent, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def enroll(self, name: str, photos: Sequence[Path]) -> dict[str, Any]:
        """Enroll a person with photos over HTTP, and return the person."""
        boundary = "photos-of-a-test"
        parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="name"\r\n\r\n{name}\r\n'.encode()]
        for photo in photos:
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="photo"; filename="{photo.name}"\r\n'
            parts.append(f"{head}Content-Type: image/jpeg\r\n\r\n".encode() + photo.read_bytes() + b"\r\n")
        body = b"".join(parts) + f"--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        request = urllib.request.Request(f"{self.address}v1/enroll", body, headers, method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            enrolment: dict[str, Any] = json.loads(answer.read())
        assert enrolment["added"], enrolment
        return enrolment["person"]  # type: ignore[no-any-return]

    def look_at(self, photos: Sequence[Path]) -> None:
        """Identify photos, so that unknown faces are kept."""
        for photo in photos:
            headers = {"Content-Type": "image/jpeg"}
            request = urllib.request.Request(f"{self.address}v1/identify", photo.read_bytes(), headers, method="POST")
            with urllib.request.urlopen(request, timeout=30):
                pass

    def names(self) -> list[str]:
        return sorted(person["name"] for person in self.ask("GET", "people?limit=500")["people"])

    def empty(self) -> None:
        """Erase all people and all unnamed faces."""
        for person in self.ask("GET", "people?limit=500")["people"]:
            self.ask("POST", f"people/{person['id']}/erase", If_Match=f'"{person["etag"]}"')
        for ignored in ("false", "true"):
            for face in self.ask("GET", f"unknowns?limit=500&ignored={ignored}")["unknowns"]:
                self.ask("DELETE", f"unknowns/{face['id']}?ignored={ignored}")


@contextmanager
def serving(gallery: Path, *arguments: str) -> Iterator[Served]:
    served = Served(gallery, *arguments)
    try:
        yield served
    finally:
        served.close()


def variants(file: Path, folder: Path, n: int, *, side: int = 256, start: int = 0) -> list[Path]:
    """Return variants of a portrait that differ in brightness and framing, as small JPEG files."""
    folder.mkdir(parents=True, exist_ok=True)
    with Image.open(file) as opened:
        whole = opened.convert("RGB")
    whole.thumbnail((side * 2, side * 2))
    found = []
    for k in range(start, start + n):
        cut = k % 7
        picture = whole.crop((cut, 2 * cut, whole.width - cut, whole.height - 3 * cut))
        picture = ImageEnhance.Brightness(picture).enhance(0.85 + 0.3 * ((k * 37) % 100) / 100)
        picture.thumbnail((side, side))
        found.append(folder / f"{file.stem}-{k:03d}.jpg")
        picture.save(found[-1], "JPEG", quality=90)
    return found
