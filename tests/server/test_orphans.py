"""Workers end when their parent dies; test_running has real ones."""

from __future__ import annotations

import threading

from facespace.server.orphans import end_with_parent


def test_a_process_without_a_parent_is_not_ended():
    end_with_parent()
    assert "facespace-parent" not in {one.name for one in threading.enumerate()}
