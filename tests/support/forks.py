"""Runs a function in a forked child process, as multiprocessing does on Linux."""

from __future__ import annotations

import os
import signal
import traceback
import warnings
from collections.abc import Callable

import pytest


def in_child(function: Callable[[], object], seconds: int = 120) -> int:
    """Return the child's exit code: 0, 1 if the function failed, −14 if it did not end within so many seconds."""
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns about threads, which this tests
        child = os.fork()
    if not child:
        code = 1
        try:
            signal.alarm(seconds)
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
