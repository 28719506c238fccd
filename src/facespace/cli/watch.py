"""facespace watch: report the people in front of cameras as they appear."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from facespace.cli.shared.galleries import model_of_gallery, open_gallery
from facespace.cli.shared.models import load_embedder, say_if_people_are_alike
from facespace.cli.shared.options import (
    DEFAULT_MIN_SIZE,
    Collection,
    Device,
    EmbeddingDevice,
    GalleryOrServer,
    Key,
    MinSize,
    OptionalModel,
    Server,
    check_gallery_or_server,
)
from facespace.cli.shared.output import Report, say
from facespace.defaults import DEFAULT_RATE
from facespace.errors import GalleryError, ServiceError, UnknownPerson, VideoError

if TYPE_CHECKING:
    from facespace.cli.shared.watch_output import WatchOutput
    from facespace.video.sources import Source
    from facespace.video.watching import FrameNamer, Seen

T = TypeVar("T")

SECRET_VARIABLE = "FACESPACE_WEBHOOK_SECRET"  # noqa: S105 - the name of a variable
_PAUSES = (1.0, 2.0, 5.0, 15.0, 30.0)  # seconds before a failed request to a gallery or server is repeated
_LONGEST_END = 3.0  # seconds to wait for the threads of the sources at the end


class SnapshotOf(str, Enum):
    """The content of a snapshot: the face, or the whole frame."""

    crop = "crop"
    frame = "frame"


def watch(
    context: typer.Context,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="A camera number, an rtsp:// or http:// address, or a video; NAME=SOURCE sets its name in events.",
        ),
    ],
    gallery: GalleryOrServer = None,
    server: Server = None,
    key: Key = None,
    collection: Collection = "default",
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate",
            metavar="R",
            help=f"Target share of strangers who are given a name; by default that of `calibrate`, or {DEFAULT_RATE}.",
        ),
    ] = None,
    cooldown: Annotated[
        float,
        typer.Option(
            "--cooldown",
            metavar="SECONDS",
            min=0,
            help="Seconds that a person must be absent before being reported again.",
        ),
    ] = 60.0,
    per_second: Annotated[
        float,
        typer.Option("--per-second", metavar="N", min=0.1, max=60, help="Number of frames to process per second."),
    ] = 5.0,
    snapshots: Annotated[
        Path | None,
        typer.Option(
            "--snapshots", metavar="DIR", help="Save a picture of each event to this folder.", show_default=False
        ),
    ] = None,
    snapshot_of: Annotated[
        SnapshotOf, typer.Option("--snapshot-of", help="What a snapshot shows: the face, or the whole frame.")
    ] = SnapshotOf.crop,
    keep_unknown: Annotated[
        bool,
        typer.Option(
            "--keep-unknown", help="With --server, let the service keep unknown faces, so that they can be named later."
        ),
    ] = False,
    webhook: Annotated[
        str | None,
        typer.Option(
            "--webhook",
            metavar="URL",
            help=f"Post each event to this URL, signed with the secret in {SECRET_VARIABLE}.",
            show_default=False,
        ),
    ] = None,
    mqtt: Annotated[
        str | None,
        typer.Option(
            "--mqtt",
            metavar="ADDRESS",
            help="Publish each event to an MQTT broker: mqtt://user@host/topic, or mqtts://.",
            show_default=False,
        ),
    ] = None,
    min_size: MinSize = DEFAULT_MIN_SIZE,
    device: EmbeddingDevice = Device.auto,
    model: OptionalModel = None,
) -> None:
    """Report the people in front of cameras: one JSON object per line for each person who appears.

    A person is reported again after an absence; an unknown face is reported once. A lost camera is opened again. Ctrl+C or
    SIGTERM ends the command.
    """
    from facespace.cli.shared.watch_output import Snapshots, WatchOutput

    check_gallery_or_server(context, gallery, server, "min_size", "device", "model")
    if rate is not None and not 0 < rate < 1:
        raise typer.BadParameter(f"must be between 0 and 1, for instance 0.01, got {rate}", param_hint="--rate")
    if keep_unknown and server is None:
        raise typer.BadParameter("can only be used with --server", param_hint="--keep-unknown")
    watched = _sources(sources)
    outbox, publisher = _outbox(webhook), None
    if mqtt is not None:
        publisher = _publisher(mqtt)
    pictures = None if snapshots is None else Snapshots(snapshots, whole=snapshot_of is SnapshotOf.frame)
    output = WatchOutput(collection, outbox=outbox, publisher=publisher, snapshots=pictures)
    keep_pixels, report, stop = pictures is not None, Report(), threading.Event()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_stopped_by_signals(stop))
        if server is not None:
            there = _Server(server, key, collection, rate, stop, keep_pixels=keep_pixels or keep_unknown)
            stack.callback(there.close)
            names = _Names(there.namer, there.person, keep=there.keep if keep_unknown else None)
        else:
            assert gallery is not None
            names = _gallery_names(
                stack, gallery, collection, rate, stop, keep_pixels=keep_pixels, min_size=min_size, device=device,
                model=model,
            )  # fmt: skip
        _watch_all(watched, names, output, stop, report, cooldown=cooldown, per_second=per_second)
    if n_lost := output.close():
        say(f"{n_lost} events were not delivered")
        report.n_failed += 1
    report.finish()


def _sources(words: list[str]) -> list[Source]:
    """Parse the sources. Raises a usage error for an invalid source and for a name used twice."""
    from facespace.video.sources import parsed_source

    found: list[Source] = []
    for word in words:
        try:
            source = parsed_source(word)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="SOURCE") from None
        if any(source.name == other.name for other in found):
            raise typer.BadParameter(
                f"two sources are called {source.name!r}; give them names, as in door={word}", param_hint="SOURCE"
            )
        found.append(source)
    return found


def _outbox(url: str | None) -> Any:
    if url is None:
        return None
    from facespace.server.outbox import Outbox

    secret = os.environ.get(SECRET_VARIABLE)
    try:
        outbox = Outbox(url, secret=secret, trouble=say)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--webhook") from None
    if secret is None:
        say(f"events are posted unsigned; set {SECRET_VARIABLE} to sign them")
    return outbox


def _publisher(address: str) -> Any:
    from facespace.server.mqtt import Publisher, parsed_broker

    class ToStderr(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(record.getMessage())

    log = logging.getLogger("facespace.mqtt")
    if not any(type(handler).__name__ == "ToStderr" for handler in log.handlers):
        log.addHandler(ToStderr())
        log.propagate = False
    try:
        broker = parsed_broker(address)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--mqtt") from None
    return Publisher(broker)


@dataclass(frozen=True, slots=True)
class _Names:
    """Holds the functions that name the faces of all sources.

    `namer` creates a namer for one connection to a source. `person` takes a name and returns that person as written in
    events: {id, name, external_id}. Sources that share networks hold the lock `turn` while a frame is named; otherwise
    it is None. `keep` stores an unknown face, so that a user can name it later, and returns the face's id.
    """

    namer: Callable[[], FrameNamer]
    person: Callable[[str], dict[str, Any]]
    turn: threading.Lock | None = None
    keep: Callable[[Seen], str | None] | None = None


def _gallery_names(
    stack: contextlib.ExitStack,
    address: str,
    collection: str,
    rate: float | None,
    stop: threading.Event,
    *,
    keep_pixels: bool,
    min_size: float,
    device: Device,
    model: str | None,
) -> _Names:
    from facespace.detection.factory import create_detector
    from facespace.video.naming import VideoNamer

    embedder = load_embedder(model, device.value, made_with=model_of_gallery(address, collection=collection))
    people = stack.enter_context(open_gallery(address, embedder, collection=collection))
    people.check_thresholds(rate)
    say_if_people_are_alike(embedder, people.templates(500))
    detector = create_detector(embedder.detector, min_size=min_size)
    identify = functools.partial(people.identify, rate=rate)

    def make() -> FrameNamer:
        return VideoNamer(
            detector, embedder, lambda vectors: _retry(lambda: identify(vectors), stop), keep_pixels=keep_pixels,
            keep_appearances=False,
        )  # fmt: skip

    def person(name: str) -> dict[str, Any]:
        stored = _retry(lambda: people.store.find(name), stop)
        if stored is None:  # renamed or removed meanwhile
            return {"id": "", "name": name, "external_id": None}
        return {"id": str(stored.id), "name": name, "external_id": stored.state.external_id or None}

    return _Names(make, person, threading.Lock())


class _Server:
    """Names faces with a service."""

    def __init__(
        self,
        url: str,
        key: str | None,
        collection: str,
        rate: float | None,
        stop: threading.Event,
        *,
        keep_pixels: bool,
    ) -> None:
        from facespace.client.transport import Transport

        self._transport = Transport(url, key, timeout=60.0, retries=0)
        self._query = {
            "collection": collection, "rate": rate, "embeddings": True, "landmarks": True, "keep_unknown": False,
            "events": False,
        }  # fmt: skip
        self._stop = stop
        self._keep_pixels = keep_pixels
        self._people: dict[str, dict[str, Any]] = {}

    def namer(self) -> FrameNamer:
        """Return a namer for one connection to a source."""
        from facespace.video.remote_naming import RemoteNamer

        return RemoteNamer(self._identify, keep_pixels=self._keep_pixels)

    def person(self, name: str) -> dict[str, Any]:
        """Return the person called `name` as written in events: {id, name, external_id}.

        The ids come from the service's answers; a person who was in none gets the id "" and the external id None.
        """
        return self._people.get(name) or {"id": "", "name": name, "external_id": None}

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def keep(self, seen: Seen) -> str | None:
        """Let the service keep an unknown face; return its id, or None if it is not kept."""
        from facespace.client.answers import read_named_face

        place = seen.face.face.box
        answer = self._ask(seen.frame.pixels, keep_unknown=True)
        kept = [face for face in map(read_named_face, answer.each("faces")) if face.unknown_id is not None]
        # The same frame was identified before. Its boxes may differ slightly, because it may share a batch with other frames.
        near = [face for face in kept if max(abs(a - b) for a, b in zip(face.box, place, strict=True)) < 5]
        return near[0].unknown_id if near else None

    def _ask(self, pixels: Any, **more: Any) -> Any:
        import io

        from PIL import Image

        from facespace.client.pictures import picture_of
        from facespace.client.transport import Call

        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=95)
        picture = picture_of(stream.getvalue())
        call = Call("POST", "/v1/identify", {**self._query, **more}, picture=picture, repeatable=True)
        return _retry(lambda: self._transport.fields(call), self._stop)

    def _identify(self, pixels: Any) -> list[Any]:
        import numpy as np

        from facespace.client.answers import read_named_face
        from facespace.faces.face import Face
        from facespace.video.remote_naming import RemoteFace

        found = []
        for fields in self._ask(pixels).each("faces"):
            face = read_named_face(fields)
            vector = np.array(fields.numbers("embedding"), np.float64)
            if not len(vector) or not abs(float(np.linalg.norm(vector)) - 1) < 0.01:
                raise fields.refuse("the embedding is not of length 1")
            if face.name is not None:
                if len(self._people) > 100_000:
                    self._people.clear()
                person = {"id": face.person or "", "name": face.name, "external_id": face.external_id or None}
                self._people[face.name] = person
            plain = Face(face.box, face.score, face.landmarks, quality=face.quality)
            found.append(RemoteFace(plain, face.name, face.similarity, face.threshold, vector))
        return found


class _Stopped(Exception):
    """Watching ends before a request has succeeded."""


def _retry(ask: Callable[[], T], stop: threading.Event) -> T:
    """Return the result of `ask`, which asks a gallery or service; call it again while the gallery or service fails.

    Raises `_Stopped` if `stop` is set before a call succeeds, and immediately any error that repeating cannot solve.
    """
    n_failed, last_error = 0, ""
    while True:
        try:
            return ask()
        except UnknownPerson:
            raise
        except (GalleryError, ServiceError) as error:
            status = getattr(error, "status", None)
            if (
                isinstance(error, ServiceError)
                and status is not None
                and status not in (408, 409, 429)
                and status < 500
            ):
                raise
            pause = _PAUSES[min(n_failed, len(_PAUSES) - 1)]
            n_failed += 1
            if str(error) != last_error:
                say(f"{error}; trying again")
            last_error = str(error)
            if stop.wait(pause):
                raise _Stopped from None


def _watch_all(
    sources: list[Source],
    names: _Names,
    output: WatchOutput,
    stop: threading.Event,
    report: Report,
    *,
    cooldown: float,
    per_second: float,
) -> None:
    """Watch every source in a thread of its own, until all have ended or `stop` is set.

    An error in a video file is reported and ends only that source. Any other error ends all sources and is raised.
    """
    ended: list[BaseException] = []

    def run(source: Source) -> None:
        try:
            _watch_one(source, names, output, stop, cooldown=cooldown, per_second=per_second)
        except _Stopped:
            pass
        except VideoError as error:  # in a video file; the other sources continue
            report.fail(error.source, error.reason)
        except BaseException as error:  # raised again at the end
            ended.append(error)
            stop.set()

    threads = [threading.Thread(target=run, args=(source,), daemon=True) for source in sources]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) and not stop.is_set():
        stop.wait(0.1)
    end = time.monotonic() + _LONGEST_END
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0.1))
    if ended:
        raise ended[0]


def _watch_one(
    source: Source, names: _Names, output: WatchOutput, stop: threading.Event, *, cooldown: float, per_second: float
) -> None:
    from facespace.video.sources import connections
    from facespace.video.watching import Watcher, watched

    is_file = source.kind == "film"
    frames = connections(source, stop, per_second=per_second, trouble=say)
    clock = (lambda frame: frame.seconds) if is_file else (lambda frame: time.monotonic())  # noqa: ARG005
    for seen in watched(frames, names.namer, Watcher(cooldown=cooldown), clock, turn=names.turn):
        person = None if seen.face.name is None else names.person(seen.face.name)
        kept = names.keep(seen) if names.keep is not None and seen.reason in ("stranger", "nobody_enrolled") else None
        output.write(source.name, seen, person, seconds=seen.frame.seconds if is_file else None, unknown_id=kept)


@contextlib.contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """Let SIGINT and SIGTERM set `stop`. A second signal ends the program at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handler(number: int, frame: object) -> None:
        del frame
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
