"""Workers whose parent died end; see test_running for real ones."""

from __future__ import annotations

import threading

from facespace.server.orphans import end_with_parent


def test_a_process_of_its_own_is_left_alone():
    end_with_parent()
    assert "facespace-parent" not in {one.name for one in threading.enumerate()}
