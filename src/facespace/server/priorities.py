"""Gives the thread that answers priority over the threads that compute, so that a refusal does not wait for a core."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

_NICE = 5
_SWITCH_SECONDS = 0.001  # after which a thread running Python code lets another one run; 0.005 by default


def compute_behind() -> None:
    """Lower the priority of this thread and the threads it starts, below all other threads of the same user.

    Only Linux has priorities of threads. On other systems this does nothing.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


def answer_promptly() -> None:
    """Make Python switch between the threads of this process more often."""
    sys.setswitchinterval(_SWITCH_SECONDS)
