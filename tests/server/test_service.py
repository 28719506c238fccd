"""The service that all routes share, from its start to its end."""

from __future__ import annotations

import threading

from facespace.server.service import Service
from facespace.server.settings import Settings
from support.service import cached_embedders
from support.waiting import wait_until


def test_from_start_to_end(tmp_path):
    closed = threading.Event()
    with cached_embedders():
        service = Service(Settings(str(tmp_path / "g"), warm=False))
        service.start()
        service.events.end_streams = closed.set
        assert len(service.galleries.get()) == 0
        service.begin_closing()
        service.begin_closing()
        wait_until(closed.is_set, "the function was not called")
        assert service.is_closing
        service.close()
    names = {one.name for one in threading.enumerate()}
    assert not {name for name in names if name.startswith(("facespace-networks", "facespace-unknowns"))}
