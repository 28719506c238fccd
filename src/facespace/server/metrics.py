"""The service's metrics for Prometheus."""

from __future__ import annotations

import os
import re

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counters of one worker process. With several workers, `text` adds up the figures of all workers."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        _forget_ended()
        self._registry = CollectorRegistry()
        registry = self._registry
        self.requests = Counter("facespace_requests", "Requests answered.", ["operation", "status"], registry=registry)
        self.seconds = Histogram(
            "facespace_request_seconds", "From the request's headers to the end of its answer.", ["operation"],
            registry=registry, buckets=_SECONDS,
        )  # fmt: skip
        self.photos = Counter("facespace_photos", "Photos in which faces were searched.", registry=registry)
        self.unreadable = Counter("facespace_photos_unreadable", "Photos that could not be read.", registry=registry)
        self.faces = Counter("facespace_faces", "Faces found.", registry=registry)
        self.batch = Histogram(
            "facespace_batch_photos", "Photos in one network call.", registry=registry, buckets=(1, 2, 4, 8, 16)
        )
        self.refused = Counter(
            "facespace_refused", "Requests refused because too many wait.", ["code"], registry=registry
        )
        self.waiting = Gauge(
            "facespace_photos_waiting", "Photos accepted but not yet finished.", registry=registry,
            multiprocess_mode="livesum",
        )  # fmt: skip

    def text(self) -> bytes:
        """Return all figures in Prometheus' text format."""
        if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)


def _forget_ended() -> None:
    """Remove the gauges of workers that have died. Their counters stay."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if not folder or os.name != "posix":
        return
    pids = {found[1] for name in os.listdir(folder) if (found := re.fullmatch(r"gauge_live\w*_(\d+)\.db", name))}
    for pid in map(int, pids):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]
        except PermissionError:
            pass
