"""Maps names to classes, which are imported from the files of a folder on first use.

To add a class, add a file to the folder.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from facespace.io.text import plain_text

T = TypeVar("T")
Class = TypeVar("Class", bound=type[Any])


class Registry(Generic[T]):
    """Represents the classes of one `package`, each with the name under which it was registered.

    `one` and `many` are the singular and plural used in error messages; `error` is the exception raised for an unknown
    name.
    """

    def __init__(self, package: str, *, one: str, many: str, error: type[Exception]) -> None:
        self._package, self._one, self._many, self._error = package, one, many, error
        self._classes: dict[str, type[T]] = {}
        self._filled = False

    def register(self, name: str) -> Callable[[Class], Class]:
        """Return a decorator that registers a class under a name (lower case, hyphenated) and sets its `name`."""

        def enter(entry: Class) -> Class:
            existing = self._classes.get(name)
            if existing is not None and existing.__module__ != entry.__module__:
                raise ValueError(f"two {self._many} are called {name}: {existing.__name__} and {entry.__name__}")
            entry.name = name
            self._classes[name] = entry
            return entry

        return enter

    def known(self) -> tuple[str, ...]:
        """Return the registered names, sorted."""
        if not self._filled:
            for module in pkgutil.iter_modules(importlib.import_module(self._package).__path__):
                importlib.import_module(f"{self._package}.{module.name}")
            self._filled = True
        return tuple(sorted(self._classes))

    def find(self, name: str) -> type[T]:
        """Return the class registered under a name.

        The error for an unknown name suggests the closest known name and lists all of them.
        """
        names = self.known()
        if name in self._classes:
            return self._classes[name]
        text = plain_text(str(name))[:60]
        close = difflib.get_close_matches(text.lower(), names, n=1)
        hint = f", the closest is {close[0]}" if close else ""
        raise self._error(f"no {self._one} is called {text!r}{hint}; there are {', '.join(names)}")
