"""How fast training goes, how much of its time is spent waiting for images, how old its last checkpoint is."""

from __future__ import annotations

import time
from collections.abc import Iterator

from facespace.training.data_loading import Batch


class Stopwatch:
    """Measures laps of several steps: images a second, the share of waiting, the seconds left.

    `batch_size` is the number of images of a step, over all processes.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._start = self._epoch = self._lap = self._saved = time.perf_counter()
        self._waited, self._steps = 0.0, 0
        self._seconds = 0.0  # a step takes, averaged over laps

    def waiting(self, batches: Iterator[Batch]) -> Batch:
        """The next batch, and note how long it took to come."""
        start = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - start
        return batch

    def did_step(self) -> None:
        """Count a step."""
        self._steps += 1

    def lap(self) -> dict[str, float]:
        """Figures since the last lap: `images_per_second`, `waiting` (share of time), `seconds` since the start."""
        now = time.perf_counter()
        elapsed = max(now - self._lap, 1e-9)
        figures = {
            "images_per_second": self._steps * self._batch_size / elapsed,
            "waiting": self._waited / elapsed,
            "seconds": now - self._start,
        }
        if self._steps:
            each = elapsed / self._steps
            self._seconds = each if not self._seconds else 0.7 * self._seconds + 0.3 * each
        self.pause()
        return figures

    def epoch(self) -> float:
        """Seconds since the last call."""
        start, self._epoch = self._epoch, time.perf_counter()
        return self._epoch - start

    def saved(self) -> None:
        """A checkpoint was written."""
        self._saved = time.perf_counter()

    def unsaved(self) -> float:
        """Seconds since the last checkpoint, or since the start."""
        return time.perf_counter() - self._saved

    def pause(self) -> None:
        """What went by since the last lap belongs to no step."""
        self._lap, self._waited, self._steps = time.perf_counter(), 0.0, 0

    def left(self, n_steps: int) -> float:
        """Seconds that so many steps will take."""
        return self._seconds * n_steps
