"""A function in a child process made by `fork`, as multiprocessing makes them on Linux."""

from __future__ import annotations

import os
import signal
import traceback
import warnings
from collections.abc import Callable

import pytest


def in_child(function: Callable[[], object], seconds: int = 120) -> int:
    """The exit code of the child: 0, 1 where the function failed, −14 where it had not ended after so many seconds."""
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads, which is what is tested
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
