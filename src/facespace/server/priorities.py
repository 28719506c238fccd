"""Lets the thread that answers go before those that compute: a refusal must not wait for a core behind the work it is due to."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

_NICE = 5
_SWITCH_SECONDS = 0.001  # after which a thread that computes in Python lets another one go on; 0.005 by default


def compute_behind() -> None:
    """Let this thread, and those that it starts, have a core only when no other thread of the same user needs it more.

    Only Linux has priorities of threads; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


def answer_promptly() -> None:
    """Let threads of this process change more often."""
    sys.setswitchinterval(_SWITCH_SECONDS)
