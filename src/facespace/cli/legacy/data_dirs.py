"""The `--data_dir` of the old trainers: one folder, or several folders joined by colons as in the tutorials."""

from __future__ import annotations

import itertools
import os
import re

from facespace.errors import DatasetError
from facespace.io.text import plain_text

# A colon between one letter and a slash belongs to a Windows drive: `D:/datasets` is one folder.
_DRIVE = r"(?:(?<=^[A-Za-z])|(?<=[:;][A-Za-z])):(?=[\\/])"
_SEPARATOR = re.compile(rf"(?!{_DRIVE})[:;]")


def datasets_of(joined: str) -> list[str]:
    """Split paths joined by `:` or `;`, and expand `~`. An existing path is not split.

    Raises `DatasetError` if a path is empty or does not exist.
    """
    if os.path.lexists(os.path.expanduser(joined)):
        return [os.path.expanduser(joined)]
    # `a:/data` may also be two folders.
    readings = [split_paths(joined), re.split("[:;]", joined)]
    for parts in readings:
        found = [os.path.expanduser(part) for part in parts]
        if all(part and os.path.lexists(part) for part in found):
            return found
    missing = next((part for part in readings[0] if not part or not os.path.lexists(os.path.expanduser(part))), joined)
    others = " (folders are joined by `:` or `;`)" if len(readings[0]) > 1 else ""
    raise DatasetError(f"--data_dir: {plain_text(missing) or '``'}: no such folder{others}")


def split_paths(joined: str) -> list[str]:
    """Split paths joined by `:` or `;`, but not at the colons of Windows drives.

    >>> split_paths("D:/datasets/casia;E:\\\\own"), split_paths("~/a:b")
    (['D:/datasets/casia', 'E:\\\\own'], ['~/a', 'b'])
    """
    ends = [match.start() for match in _SEPARATOR.finditer(joined)]
    bounds = itertools.pairwise([-1, *ends, len(joined)])
    return [joined[start + 1 : end] for start, end in bounds]
