"""Where `watch` tells whom it has seen: lines on stdout, a webhook, a broker, and pictures in a folder."""

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

_MARGIN = 0.3  # of a face's size, around it in a snapshot
_FLUSH = 5.0  # seconds for what is still to be sent at the end


class Snapshots:
    """Pictures of those who are reported, in a folder that only its owner reads where it is made here.

    `whole` keeps the frame, else the face alone. One file an event, named by its id.
    """

    def __init__(self, folder: Path, *, whole: bool = False) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._whole = whole

    def write(self, event_id: str, seen: Seen) -> str:
        """Write the picture of one event; the file's name. `OSError` where the disk does not take it."""
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
    """The part of a picture (H,W,3) around a box, at least one pixel.

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
    """Writes each event once to every output that was chosen. Safe to share between threads."""

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
        self._said: set[str] = set()

    def tell(
        self,
        source: str,
        seen: Seen,
        person: dict[str, Any] | None,
        *,
        seconds: float | None = None,
        unknown_id: str | None = None,
    ) -> None:
        """Report somebody; `person` is {id, name, external_id}, `seconds` when in a film it was.

        `unknown_id` is the id of a face that a service keeps.
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
                self._say_once(f"a snapshot cannot be written ({error.strerror}){remedy(error)}")
        body = with_id(event_id, event_body(seen.kind, self._collection, data, at=time.time()))
        with self._lock:
            write_json(json.loads(body))
        if self._outbox is not None:
            self._outbox.post(event_id, body)
        if self._publisher is not None:
            topic = self._publisher.broker.topic_of(self._collection, seen.kind)
            if not self._publisher.publish(topic, body):
                self._say_once(f"{self._publisher.broker}: too many events wait; some are dropped")

    def close(self) -> int:
        """Send what is still to be sent, for a few seconds at most; how many events were not."""
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
            if line in self._said:
                return
            self._said.add(line)
        say(line)
