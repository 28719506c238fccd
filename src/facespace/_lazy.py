"""Lazy exports: a package's public names are imported when they are first used, so that `import facespace` stays fast."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def attach(
    package: str, exports: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return the `__getattr__`, `__dir__` and `__all__` of a package whose public names live in other modules.

    `exports` maps a module, relative to `package`, to the names taken from it.

    >>> get, names, public = attach("facespace", {"errors": ["ModelError"]})
    >>> get("ModelError").__name__, public
    ('ModelError', ['ModelError'])
    """
    home = {name: f"{package}.{module}" for module, names in exports.items() for name in names}
    public = sorted(home)

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(home[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: public, public
