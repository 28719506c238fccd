"""The networks, shared by all requests: photos that wait at the same time are analysed in one batch.

A photo is decoded in one of a few threads. The one thread of its model then finds and embeds the faces of all photos that
have been decoded so far. It does not wait for photos that have not been sent yet, so a single client is not slowed down.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from facespace.detection.factory import create_detector
from facespace.detection.protocol import Detector
from facespace.embedding.embedder import Embedder
from facespace.errors import ImageError
from facespace.io import image
from facespace.io.prefetch import reading_within
from facespace.pipeline.face_batches import MAX_IMAGES, FoundFaces, find_faces
from facespace.pipeline.photos import Photo
from facespace.pipeline.rotations import turn
from facespace.runtime.cores import usable_cores
from facespace.server.metrics import Metrics
from facespace.server.priorities import compute_behind
from facespace.server.problems import busy
from facespace.server.settings import Settings

MAX_DECODED_PIXELS = 100_000_000  # of photos that are decoded but not finished; a single photo may have more
_BATCH_PIXELS = 24_000_000
_BLOCKING_THREADS = 16
_DECODE_SECONDS = 0.004  # how long decoded photos wait for those still being decoded

R = TypeVar("R")


@dataclass(slots=True)
class AnalyzedPhoto(Photo):
    """A photo with its upright size in pixels; 0 if it could not be read."""

    width: int = 0
    height: int = 0


@dataclass(slots=True, eq=False)
class _Job:
    """One photo to analyse, and the `future` that gets the result, in the event loop of its request."""

    data: bytes
    options: tuple[bool, bool, bool, bool]  # embed, largest, want_crops, try_rotations
    keep_pixels: bool
    photo: AnalyzedPhoto
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[AnalyzedPhoto]
    n_pixels: int = 0


class _PixelBudget:
    """Limits the pixels of photos that are decoded but not finished."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0

    def enter(self, job: _Job, n_pixels: int) -> None:
        with self._changed:
            if job.n_pixels:  # an image that takes two attempts to read counts once
                return
            self._changed.wait_for(lambda: not self._inside or self._inside + n_pixels <= MAX_DECODED_PIXELS)
            self._inside += n_pixels
            job.n_pixels = n_pixels

    def leave(self, jobs: Sequence[_Job]) -> None:
        with self._changed:
            for job in jobs:
                self._inside -= job.n_pixels
                job.n_pixels = 0
            self._changed.notify_all()


class _Networks:
    """One model's detector and embedder, and the thread in which they compute."""

    def __init__(self, embedder: Embedder, detector: Detector, finish: Callable[[list[_Job]], None]) -> None:
        self.embedder, self.detector = embedder, detector
        self._finish = finish
        self._changed = threading.Condition()
        self._ready: deque[_Job] = deque()
        self._n_coming = 0  # photos that are being decoded
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="facespace-networks", daemon=True)
        self._thread.start()

    def expect(self) -> None:
        """Announce a photo that is about to be decoded. `put` or `give_up` must follow."""
        with self._changed:
            self._n_coming += 1

    def put(self, job: _Job) -> None:
        with self._changed:
            self._n_coming -= 1
            self._ready.append(job)
            self._changed.notify()

    def give_up(self) -> None:
        with self._changed:
            self._n_coming -= 1
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        compute_behind()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ready or self._closing)
                if not self._ready:
                    return
                # Other accepted photos are nearly decoded, and one call for several costs less than one call for each.
                self._changed.wait_for(lambda: not self._n_coming or len(self._ready) >= MAX_IMAGES, _DECODE_SECONDS)
                jobs = self._take()
            self._compute([job for job in jobs if not job.future.cancelled()])
            self._finish(jobs)
            del jobs

    def _take(self) -> list[_Job]:
        """Return waiting photos with equal options, as many as one call of the networks takes."""
        first = self._ready.popleft()
        jobs, others, total = [first], [], first.n_pixels
        while self._ready and len(jobs) < MAX_IMAGES and total < _BATCH_PIXELS:
            job = self._ready.popleft()
            if job.options != first.options:
                others.append(job)
                continue
            jobs.append(job)
            total += job.n_pixels
        self._ready.extendleft(reversed(others))
        return jobs

    def _compute(self, jobs: Sequence[_Job]) -> None:
        if not jobs:
            return
        images = [job.photo.pixels for job in jobs if job.photo.pixels is not None]
        try:
            found = self._found(images, jobs[0].options)
        except Exception:  # one photo is the cause: compute each alone, so that only that one fails
            if len(jobs) == 1:
                _fail(jobs[0])
                return
            for job in jobs:
                self._compute([job])
            return
        for job, of_photo in zip(jobs, found, strict=True):
            photo = job.photo
            assert photo.pixels is not None
            height, width = photo.pixels.shape[:2]
            photo.width, photo.height = (height, width) if of_photo.turned % 180 else (width, height)
            photo.faces, photo.embeddings, photo.turned = of_photo.faces, of_photo.embeddings, of_photo.turned
            photo.crops = of_photo.crops
            photo.pixels = turn(photo.pixels, photo.turned) if job.keep_pixels else None

    def _found(self, images: list[npt.NDArray[np.uint8]], options: tuple[bool, bool, bool, bool]) -> list[FoundFaces]:
        embed, largest, want_crops, try_rotations = options
        return find_faces(
            images, self.detector, self.embedder if embed else None, largest=largest, keep_crops=want_crops,
            try_rotations=try_rotations,
        )  # fmt: skip


def _fail(job: _Job) -> None:
    """Set the exception that is being handled as the result of a job."""
    error = sys.exc_info()[1]
    assert error is not None

    def fail() -> None:
        if not job.future.done():
            job.future.set_exception(error)

    with contextlib.suppress(RuntimeError):  # the loop has ended, so no request waits
        job.loop.call_soon_threadsafe(fail)


def _warm(embedder: Embedder, detector: Detector) -> None:
    """Run the networks once per batch size, so that the first request does not wait for their preparation."""
    size = embedder.spec.size
    for n in (1, 2, 4, 8, 16, 32):
        embedder.represent(np.full((n, size, size, 3), 127, np.uint8))
    for n in (1, 4):
        detector.detect_many([np.full((250, 250, 3), 127, np.uint8)] * n)


class Engine:
    """Decodes photos, finds and embeds their faces, and runs blocking functions, for all requests of a worker process."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._networks: dict[str, _Networks] = {}
        self._lock = threading.RLock()
        self._budget = _PixelBudget()
        self.waiting = 0  # photos that are accepted but not finished; changed only in the event loop's thread
        cores = usable_cores()
        self._readers = ThreadPoolExecutor(
            max(2, cores), thread_name_prefix="facespace-read", initializer=compute_behind
        )
        self._blocking = ThreadPoolExecutor(_BLOCKING_THREADS, thread_name_prefix="facespace-serve")

    def embedder(self, model: str) -> Embedder:
        """Return the embedder of a model, loaded once. This call may block. Raise `ModelError` if it cannot be loaded."""
        return self._of(model).embedder

    def detector(self, model: str) -> Detector:
        """Return the detector that belongs to the model. This call may block."""
        return self._of(model).detector

    def check_queue(self, n_photos: int) -> None:
        """Raise `Problem` 503 `busy` if the queue is too full for `n_photos` more."""
        if self.waiting and self.waiting + n_photos > self._settings.queue:
            self._metrics.refused.labels("busy").inc()
            raise busy(f"{self.waiting} photos are waiting already; try again")

    async def analyze(
        self,
        photos: Sequence[bytes],
        *,
        model: str,
        embed: bool = True,
        largest: bool = False,
        want_crops: bool = True,
        try_rotations: bool = False,
        keep_pixels: bool = False,
    ) -> list[AnalyzedPhoto]:
        """Return one `AnalyzedPhoto` for each encoded photo, in order, with `error` set if it cannot be read.

        Without `embed`, only faces and their quality are computed. Raise `Problem` 503 if too many photos wait.
        """
        self.check_queue(len(photos))
        networks = self._networks.get(model)
        if networks is None:
            networks = await self.run(self._of, model)
        loop = asyncio.get_running_loop()
        self.check_queue(len(photos))
        jobs = []
        for data in photos:
            job = _Job(
                data, (embed, largest, want_crops and embed, try_rotations), keep_pixels, AnalyzedPhoto("<upload>"), loop,
                loop.create_future(),
            )  # fmt: skip
            jobs.append(job)
            self.waiting += 1
            self._metrics.waiting.set(self.waiting)
            job.future.add_done_callback(self._one_less)
            networks.expect()
            self._readers.submit(self._decode, job, networks)
        try:
            return [await job.future for job in jobs]
        except MemoryError:
            raise busy("not enough memory for this photo at the moment; try again, or send a smaller one", 5) from None
        finally:
            for job in jobs:
                job.future.cancel()

    async def run(self, function: Callable[..., R], *args: object, **options: object) -> R:
        """Run a blocking function in a thread, with the caller's context variables, so that the log names the caller."""
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        return await loop.run_in_executor(self._blocking, functools.partial(context.run, function, *args, **options))

    def close(self) -> None:
        """Finish the photos that were accepted, and end the threads."""
        self._readers.shutdown()
        for networks in self._networks.values():
            networks.close()
        self._blocking.shutdown()

    def _one_less(self, _: asyncio.Future[AnalyzedPhoto]) -> None:
        self.waiting -= 1
        self._metrics.waiting.set(self.waiting)

    def _of(self, model: str) -> _Networks:
        with self._lock:
            found = self._networks.get(model)
            if found is None:
                # The runtime's threads inherit the priority of the thread that starts them.
                with ThreadPoolExecutor(1, initializer=compute_behind) as loader:
                    embedder, detector = loader.submit(self._load, model).result()
                found = self._networks[model] = _Networks(embedder, detector, self._finish)
            return found

    def _load(self, model: str) -> tuple[Embedder, Detector]:
        embedder = Embedder.load(model)
        detector = create_detector(embedder.detector, min_size=self._settings.min_size)
        if self._settings.warm:
            _warm(embedder, detector)
        return embedder, detector

    def _decode(self, job: _Job, networks: _Networks) -> None:
        if job.future.cancelled():
            networks.give_up()
            return
        try:
            with reading_within(lambda n_pixels: self._budget.enter(job, n_pixels)):
                job.photo.pixels = image.read(job.data, max_pixels=self._settings.max_pixels)
        except ImageError as error:
            job.photo.error = error.reason
        except Exception:
            _fail(job)
            self._budget.leave([job])
            networks.give_up()
            return
        job.data = b""
        if job.photo.pixels is None:
            networks.give_up()
            self._finish([job])
        else:
            networks.put(job)

    def _finish(self, jobs: list[_Job]) -> None:
        """Pass finished photos to the requests that wait for them. May be called in any thread."""
        self._budget.leave(jobs)
        by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
        for job in jobs:
            by_loop.setdefault(job.loop, []).append(job)
        for loop, of_loop in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop has ended, so no request waits
                loop.call_soon_threadsafe(self._deliver, of_loop)

    def _deliver(self, jobs: list[_Job]) -> None:
        n_searched = sum(job.photo.error is None for job in jobs)
        if n_searched:
            self._metrics.batch.observe(n_searched)
            self._metrics.photos.inc(n_searched)
            self._metrics.faces.inc(sum(len(job.photo.faces) for job in jobs))
        if n_searched < len(jobs):
            self._metrics.unreadable.inc(len(jobs) - n_searched)
        for job in jobs:
            if not job.future.done():
                job.future.set_result(job.photo)
