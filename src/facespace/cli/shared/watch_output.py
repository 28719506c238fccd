"""The outputs of `watch`: JSON lines on stdout, a webhook, an MQTT broker, and snapshots in a folder."""

from __future__ import annotations

import io
import json
import os
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from facespace.cli.shared.output import say, write_json
from facespace.io.files import remedy

if TYPE_CHECKING:
    from facespace.server.mqtt import Publisher
    from facespace.server.outbox import Outbox
    from facespace.video.watching import Seen

_MARGIN = 0.3  # around a face in a snapshot, as a share of its size
_FLUSH = 5.0  # seconds to send the remaining events at the end


class Snapshots:
    """Snapshots of events in a folder, one file per event, named by its id.

    A new folder is readable only by its owner. With `whole`, they show the whole frame instead of the face.
    """

    def __init__(self, folder: Path, *, whole: bool = False) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._whole = whole

    def write(self, event_id: str, seen: Seen) -> str:
        """Write the snapshot of one event; return the file's name. Raises `OSError` if it cannot be written."""
        from PIL import Image

        assert seen.frame.pixels is not None
        pixels = seen.frame.pixels if self._whole else face_in(seen.frame.pixels, seen.face.face.box)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=92)
        name = f"{event_id}.jpg"
        unfinished = self._folder / f".{name}"
        try:
            with os.fdopen(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
                file.write(stream.getvalue())
            unfinished.replace(self._folder / name)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
        return name


def face_in(pixels: npt.NDArray[np.uint8], box: tuple[float, float, float, float]) -> npt.NDArray[np.uint8]:
    """Return the part of an image (H,W,3) that contains a box and a margin, at least one pixel.

    >>> face_in(np.zeros((100, 100, 3), np.uint8), (40, 40, 60, 60)).shape
    (32, 32, 3)
    """
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = box
    dx, dy = _MARGIN * (x2 - x1), _MARGIN * (y2 - y1)
    left, top = min(max(int(x1 - dx), 0), width - 1), min(max(int(y1 - dy), 0), height - 1)
    right, bottom = min(max(int(x2 + dx), left + 1), width), min(max(int(y2 + dy), top + 1), height)
    return np.ascontiguousarray(pixels[top:bottom, left:right])


class WatchOutput:
    """Writes each event to every chosen output. Can be shared between threads."""

    def __init__(
        self,
        collection: str,
        *,
        outbox: Outbox | None = None,
        publisher: Publisher | None = None,
        snapshots: Snapshots | None = None,
    ) -> None:
        self._collection = collection
        self._outbox = outbox
        self._publisher = publisher
        self._snapshots = snapshots
        self._lock = threading.Lock()
        self._reported: set[str] = set()

    def write(
        self,
        source: str,
        seen: Seen,
        person: dict[str, Any] | None,
        *,
        seconds: float | None = None,
        unknown_id: str | None = None,
    ) -> None:
        """Write one event. `person` is {id, name, external_id}, or None for an unknown face.

        `seconds` is the position in a video file, `unknown_id` the id under which a service keeps the face.
        """
        from facespace.server.events import event_body, with_id

        event_id, face = uuid.uuid4().hex, seen.face
        data: dict[str, Any] = {
            "source": source,
            "person": person,
            "similarity": None if face.similarity is None else round(face.similarity, 4),
            "threshold": round(face.threshold, 4),
            "box": [round(float(value), 1) for value in face.face.box],
            "quality": None if face.face.quality is None else round(face.face.quality, 3),
            "reason": seen.reason,
            "unknown_id": unknown_id,
            "seconds": None if seconds is None else round(seconds, 3),
        }
        if self._snapshots is not None:
            try:
                data["snapshot"] = self._snapshots.write(event_id, seen)
            except OSError as error:
                self._say_once(f"cannot write a snapshot ({error.strerror}){remedy(error)}")
        body = with_id(event_id, event_body(seen.kind, self._collection, data, at=time.time()))
        with self._lock:
            write_json(json.loads(body))
        if self._outbox is not None:
            self._outbox.post(event_id, body)
        if self._publisher is not None:
            topic = self._publisher.broker.topic_of(self._collection, seen.kind)
            if not self._publisher.publish(topic, body):
                self._say_once(f"{self._publisher.broker}: too many events are waiting; some are dropped")

    def close(self) -> int:
        """Send the remaining events, for a few seconds at most; return how many were not sent."""
        n_lost = 0
        if self._outbox is not None:
            n_lost += self._outbox.close(_FLUSH)
        if self._publisher is not None:
            self._publisher.flush(_FLUSH)
            n_lost += self._publisher.n_unsent
            self._publisher.close()
        return n_lost

    def _say_once(self, line: str) -> None:
        with self._lock:
            if line in self._reported:
                return
            self._reported.add(line)
        say(line)
