"""Metrics for Prometheus, of one process and of several."""

from __future__ import annotations

import subprocess
import sys

from facespace.server.metrics import Metrics

COUNT = """
import sys
from facespace.server.metrics import Metrics
metrics = Metrics()
metrics.photos.inc(int(sys.argv[1]))
metrics.waiting.set(int(sys.argv[1]))
print(metrics.text().decode())
"""


def test_figures():
    metrics = Metrics()
    metrics.requests.labels("identify", "200").inc()
    metrics.refused.labels("busy").inc(3)
    text = metrics.text().decode()
    assert 'facespace_requests_total{operation="identify",status="200"} 1.0' in text
    assert 'facespace_refused_total{code="busy"} 3.0' in text
    assert "# HELP facespace_photos_total" in text


def test_several_of_them_are_apart():
    Metrics().photos.inc()
    assert "facespace_photos_total 0.0" in Metrics().text().decode()


def test_workers_are_added_up(tmp_path):
    texts = [
        subprocess.run(
            [sys.executable, "-c", COUNT, str(n)], capture_output=True, text=True, check=True,
            env={**__import__("os").environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        ).stdout
        for n in (2, 3)
    ]  # fmt: skip
    assert "facespace_photos_total 5.0" in texts[1]
    assert "facespace_photos_waiting 3.0" in texts[1]  # without the first process, which has ended
