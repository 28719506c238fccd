"""Timing of a training run: speed, share of time spent waiting for images, age of the last checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator

from facespace.training.data_loading import Batch


class Stopwatch:
    """A stopwatch for laps of several steps: images per second, share of time spent waiting, seconds left.

    `batch_size` is the number of images in a step, over all processes.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._start = self._epoch = self._lap = self._saved = time.perf_counter()
        self._waited, self._steps = 0.0, 0
        self._seconds = 0.0  # per step, a moving average over laps

    def waiting(self, batches: Iterator[Batch]) -> Batch:
        """Return the next batch, and record how long it took to arrive."""
        start = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - start
        return batch

    def did_step(self) -> None:
        """Count a step."""
        self._steps += 1

    def lap(self) -> dict[str, float]:
        """End a lap. Return its `images_per_second`, its `waiting` (share of time), and `seconds` since the start."""
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
        """Return the seconds since the last call."""
        start, self._epoch = self._epoch, time.perf_counter()
        return self._epoch - start

    def saved(self) -> None:
        """Record that a checkpoint was written."""
        self._saved = time.perf_counter()

    def unsaved(self) -> float:
        """Return the seconds since the last checkpoint, or since the start."""
        return time.perf_counter() - self._saved

    def pause(self) -> None:
        """Leave the time since the last lap out of the next lap, for example after saving and verification."""
        self._lap, self._waited, self._steps = time.perf_counter(), 0.0, 0

    def left(self, n_steps: int) -> float:
        """Return the estimated seconds for `n_steps` steps."""
        return self._seconds * n_steps
