"""`facespace watch`: events for video files and streams, with a gallery and with a service."""

from __future__ import annotations

import json
import os
import queue
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

import facespace
from facespace.cli import watch
from facespace.errors import GalleryError, ServiceError
from support.commands import Outcome
from support.film_server import FilmServer, film_server
from support.live_service import live_service
from support.mqtt_broker import free_port, mqtt_broker, mqtt_listener
from support.video_files import moved, portrait, write_video
from support.waiting import wait_until
from support.webhook_server import webhook_server

Cli = Callable[..., Outcome]
N_FRAMES = 60
SIZE = (480, 240)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory, hopper_file: Path, collins_file: Path) -> Path:
    """Hopper throughout, and Collins after the first second: film.mp4, and live.ts for streaming."""
    folder = tmp_path_factory.mktemp("films")
    hopper, collins = portrait(hopper_file, 200), portrait(collins_file, 200)
    places = [(10 + k // 5, 20) for k in range(N_FRAMES)]
    frames = moved([(hopper, places), (collins, [None] * 25 + [(230, 20)] * (N_FRAMES - 25))], SIZE)
    write_video(folder / "film.mp4", frames)
    write_video(folder / "live.ts", frames, codec="mpeg2video", gop=10)
    return folder


@pytest.fixture(scope="module")
def gallery(
    tmp_path_factory: pytest.TempPathFactory, hopper_file: Path, embedder: facespace.Embedder, detector
) -> Path:
    """Hopper, in a gallery of the model that the tests have loaded already."""
    path = tmp_path_factory.mktemp("gallery") / "people.gallery"
    with facespace.Gallery(path, embedder, create=True) as people:
        analyzer = facespace.FaceAnalyzer(embedder, detector)
        analyzer.enroll(people, "Grace Hopper", hopper_file, largest=True)
        people.edit("Grace Hopper", external_id="usn-1")
    return path


def test_a_film(cli: Cli, films: Path, gallery: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events go to stdout, a webhook and a broker, with snapshots."""
    monkeypatch.setenv("FACESPACE_WEBHOOK_SECRET", "shared")
    port = free_port()
    with webhook_server() as target, mqtt_broker(port), mqtt_listener(port) as heard:
        done = cli(
            "watch", f"front door={films / 'film.mp4'}", "--gallery", gallery, "--snapshots", tmp_path / "snaps",
            "--webhook", target.url, "--mqtt", f"mqtt://127.0.0.1:{port}/house",
        )  # fmt: skip
        wait_until(lambda: len(heard) == 2)
    assert done.code == 0, done.err
    assert done.err == ""
    known, unknown = done.json
    assert set(known) == {
        "id", "at", "kind", "collection", "source", "person", "similarity", "threshold", "box", "quality", "seconds",
        "snapshot",
    }  # fmt: skip
    assert (known["kind"], known["source"], known["collection"]) == ("known", "front door", "default")
    assert known["person"] == {"id": "1", "name": "Grace Hopper", "external_id": "usn-1"}
    assert known["similarity"] > known["threshold"]
    assert known["seconds"] < 1 < unknown["seconds"] < 2.4
    assert (unknown["kind"], unknown["reason"]) == ("unknown", "stranger")
    assert "person" not in unknown
    assert unknown["similarity"] < unknown["threshold"]
    assert unknown["box"][0] > 230
    # The same events, signed and published
    assert [json.loads(body) for body in target.bodies()] == [known, unknown]
    assert all("X-Facespace-Signature" in headers for headers, _ in target.requests)
    assert [(topic, json.loads(body), qos) for topic, body, qos in heard] == [
        ("house/default/known", known, 1), ("house/default/unknown", unknown, 1),
    ]  # fmt: skip
    # Snapshots of the faces, readable only by their owner
    folder = tmp_path / "snaps"
    assert sorted(os.listdir(folder)) == sorted([known["snapshot"], unknown["snapshot"]])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / known["snapshot"]).stat().st_mode) == 0o600
    x1, y1, x2, y2 = unknown["box"]
    with Image.open(folder / unknown["snapshot"]) as picture:
        assert picture.width == pytest.approx(1.6 * (x2 - x1), abs=3)
        assert picture.height == pytest.approx(1.6 * (y2 - y1), abs=3)


def test_several_sources_and_whole_frames(cli: Cli, films: Path, gallery: Path, tmp_path: Path) -> None:
    """One of them cannot be read: the others continue, and the exit code is 1."""
    done = cli(
        "watch", f"a={films / 'film.mp4'}", f"b={films / 'live.ts'}", f"c={tmp_path / 'none.mp4'}", "--gallery", gallery,
        "--snapshots", tmp_path, "--snapshot-of", "frame",
    )  # fmt: skip
    assert done.code == 1
    assert done.err == f"facespace: {tmp_path / 'none.mp4'}: no such file\n"
    events = sorted((one["source"], one["kind"]) for one in done.json)
    assert events == [("a", "known"), ("a", "unknown"), ("b", "known"), ("b", "unknown")]
    for one in done.json:
        with Image.open(tmp_path / one["snapshot"]) as picture:
            assert picture.size == SIZE


def test_against_a_service(
    cli: Cli, films: Path, hopper_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facespace.embedding.embedder.Embedder.load", facespace.Embedder.load)
    with live_service(tmp_path, unknowns_days=30.0) as (client, service):
        people = service.galleries.get()
        analyzer = facespace.FaceAnalyzer(service.engine.embedder("sface"), service.engine.detector("sface"))
        analyzer.enroll(people, "Grace Hopper", hopper_file, largest=True)
        service.events.set_listening("test", time.time() + 600)
        begin = service.events.newest()
        key = service.keys.create("identify").text
        done = cli("watch", films / "film.mp4", "--server", str(client.base_url), "--key", key)
        assert done.code == 0, done.err
        known, unknown = done.json
        person = people.store.find("Grace Hopper")
        assert known["person"] == {"id": str(person.id), "name": "Grace Hopper", "external_id": None}
        assert (known["source"], unknown["kind"], unknown["reason"]) == ("film.mp4", "unknown", "stranger")
        time.sleep(0.4)
        assert service.events.after(begin) == [], "the service does not send events for each frame"
        kept = cli("watch", films / "film.mp4", "--server", str(client.base_url), "--key", key, "--keep-unknown")
        assert kept.code == 0, kept.err
        reader = {"Authorization": f"Bearer {service.keys.create('read').text}"}
        (face,) = client.get("/v1/unknowns", headers=reader).json()["unknowns"]
        assert [one.get("unknown_id") for one in kept.json] == [None, face["id"]]
        for wrong in ("fsk_000000000000_" + "x" * 43, service.keys.create("read").text):
            refused = cli("watch", films / "film.mp4", "--server", str(client.base_url), "--key", wrong)
            assert refused.code == 1
            assert refused.out == "" and len(refused.errors) == 1
            assert "key" in refused.err and wrong not in refused.err


class Watching:
    """The command in a separate process, with its output line by line."""

    def __init__(self, *arguments: str | Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "facespace", "watch", *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.out: queue.Queue[str] = queue.Queue()
        self.err: list[str] = []
        assert self.process.stdout is not None and self.process.stderr is not None
        streams = ((self.process.stdout, self.out.put), (self.process.stderr, self.err.append))
        self._threads = [threading.Thread(target=self._read, args=one, daemon=True) for one in streams]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _read(stream: Iterator[str], take: Callable[[str], None]) -> None:
        for line in stream:
            take(line)

    def next(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.out.get(timeout=60))
        return found

    def __enter__(self) -> Watching:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(10)
        for thread in self._threads:
            thread.join(10)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@pytest.fixture
def server(films: Path) -> Iterator[FilmServer]:
    with film_server((films / "film.mp4").read_bytes(), (films / "live.ts").read_bytes(), seconds=3) as found:
        yield found


@pytest.fixture(scope="module")
def sface_gallery(tmp_path_factory: pytest.TempPathFactory, hopper_file: Path) -> Path:
    path = tmp_path_factory.mktemp("gallery") / "people.gallery"
    command = [sys.executable, "-m", "facespace", "enroll", "--gallery", path, "Grace Hopper", hopper_file]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")
def test_a_camera_that_is_lost_and_returns(server: FilmServer, sface_gallery: Path) -> None:
    """It disconnects, refuses once, and sends everything again; then it hangs until a signal ends the command."""
    server.plan = [0.9, 0, None]
    with Watching(f"cam={server.url}/live", "--gallery", sface_gallery, "--cooldown", "2.5") as watching:
        assert watching.next()["source"] == "cam"
        while (
            server.n_connections < 3 or watching.next()["kind"] != "known"
        ):  # Hopper is reported again after her absence
            time.sleep(0.01)
        assert len([line for line in watching.err if "opening it again in" in line]) == 2, watching.err
        assert watching.err[0].startswith("facespace: cam: ")
        watching.process.send_signal(signal.SIGTERM)
        assert watching.process.wait(30) == 0


@pytest.mark.skipif(sys.platform != "linux" or Path("/dev/video77").exists(), reason="asks Linux for a camera")
def test_a_camera_that_is_not_available_yet(sface_gallery: Path) -> None:
    with Watching("77", "--gallery", sface_gallery) as watching:
        wait_until(lambda: len(watching.err) == 2, seconds=60)
        assert watching.err[0] == (
            "facespace: camera 77: there is no such camera (/dev/video77); opening it again in 1 s\n"
        )
        watching.process.send_signal(signal.SIGINT)
        assert watching.process.wait(20) == 0
        assert watching.out.empty()


def test_usage(cli: Cli, films: Path, gallery: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = films / "film.mp4"
    for words, message in (
        ([film], "give --gallery FILE, or --server URL"),
        ([film, "--gallery", gallery, "--server", "http://127.0.0.1:1"], "cannot be used with --server"),
        ([film, film, "--gallery", gallery], "two sources are called 'film.mp4'"),
        (["ftp://host/film", "--gallery", gallery], "must begin with rtsp"),
        ([film, "--gallery", gallery, "--webhook", "ftp://host"], "must begin with https"),
        ([film, "--gallery", gallery, "--mqtt", "http://host"], "must be mqtt://host"),
        ([film, "--gallery", gallery, "--keep-unknown"], "can only be used with --server"),
        ([film, "--gallery", gallery, "--rate", "2"], "must be between 0 and 1"),
        ([film, "--gallery", gallery, "--cooldown", "-1"], "--cooldown"),
    ):
        done = cli("watch", *words)
        assert done.code == 2, words
        assert message in " ".join(done.err.replace("│", " ").split()), words


def test_events_that_cannot_be_delivered_are_counted(
    cli: Cli, films: Path, gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facespace.cli.shared.watch_output._FLUSH", 0.2)
    done = cli("watch", films / "film.mp4", "--gallery", gallery, "--webhook", "http://127.0.0.1:9/hook")
    assert done.code == 1
    assert len(done.json) == 2, "they are on stdout nevertheless"
    assert "cannot connect" in done.err and "2 events were not delivered" in done.err
    assert "unsigned" in done.err


def test_a_folder_that_cannot_be_written_to(cli: Cli, films: Path, gallery: Path, tmp_path: Path) -> None:
    folder = tmp_path / "snaps"
    folder.mkdir()

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("facespace.cli.shared.watch_output.os.open", full)
        done = cli("watch", films / "film.mp4", "--gallery", gallery, "--snapshots", folder)
    assert done.code == 0
    assert [("snapshot" in one) for one in done.json] == [False, False]
    assert done.err.count("No space left on device") == 1
    assert list(folder.iterdir()) == []


def test_requests_are_repeated_while_a_gallery_or_service_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watch, "_PAUSES", (0.01,))
    failures: list[Exception] = [
        GalleryError("store away"), GalleryError("store away"), ServiceError("busy", status=503), ServiceError("gone"),
    ]  # fmt: skip

    def ask() -> str:
        if failures:
            raise failures.pop(0)
        return "answer"

    assert watch._retry(ask, threading.Event()) == "answer"
    assert capsys.readouterr().err.count("trying again") == 3, "each reason once"
    for final in (ServiceError("no", status=401), ServiceError("no", status=422), facespace.errors.UnknownPerson("x")):
        failures = [final]
        with pytest.raises(type(final)):
            watch._retry(ask, threading.Event())
    stop = threading.Event()
    stop.set()
    failures = [GalleryError("store away")] * 3
    with pytest.raises(watch._Stopped):
        watch._retry(ask, stop)


def test_help_is_fast() -> None:
    """Nothing that `serve` needs is loaded."""
    code = "import sys, facespace.cli.watch; sys.exit(any(name in sys.modules for name in ('fastapi', 'httpx', 'paho', 'av')))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
