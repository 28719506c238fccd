"""The settings that an administrator chose for a collection: the share of strangers that may be named, and which faces
are kept. The settings are in the gallery's store, so every service that uses the gallery follows them.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from typing import Any

from facespace.identification.gallery import Gallery
from facespace.server.settings import Settings

_SETTING = "service"
_SECONDS = 1.0  # a choice made by another process takes effect after this time
_MAX_DAYS = 36_500


@dataclass(frozen=True, slots=True)
class Choice:
    """The settings of one collection.

    `rate` is the share of strangers that may be named, or None for the gallery's own rate: what `calibrate` stored, otherwise
    0.01. `unknowns_days` is the number of days for which unknown faces are kept, or None to keep none. `keep_crops` is
    whether the crops of enrolled photos are kept.
    """

    rate: float | None
    unknowns_days: float | None
    keep_crops: bool


class Choices:
    """Reads and changes the settings that were chosen for collections. Methods may block. Threads may share this object."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._read: dict[str, tuple[float, Choice]] = {}

    def of(self, gallery: Gallery) -> Choice:
        """Return the settings of an open collection. A setting that was not chosen has the service's default."""
        name = gallery.store.collection
        with self._lock:
            then, choice = self._read.get(name, (-math.inf, None))
        if choice is None or time.monotonic() - then > _SECONDS:
            choice = self._choice(gallery.store.setting(_SETTING))
            with self._lock:
                self._read[name] = (time.monotonic(), choice)
        return choice

    def change(self, gallery: Gallery, changes: dict[str, Any]) -> Choice:
        """Store the settings in `changes`, and leave the others unchanged. Raise `ValueError` for a wrong name or value."""
        held = gallery.store.setting(_SETTING)
        stored = {**(held if isinstance(held, dict) else {}), **changes}
        for name, value in changes.items():
            if not _is_valid(name, value):
                raise ValueError(f"{name} must be {_EXPECTED.get(name, 'a choice')}, got {value!r}"[:200])
        gallery.store.set(_SETTING, stored)
        with self._lock:
            self._read.pop(gallery.store.collection, None)
        return self.of(gallery)

    def _choice(self, held: Any) -> Choice:
        """Return the stored settings. A missing or damaged setting gets the service's default."""
        valid = (
            {name: value for name, value in held.items() if _is_valid(name, value)} if isinstance(held, dict) else {}
        )
        days = valid.get("unknowns_days", self._settings.unknowns_days)
        return Choice(valid.get("rate"), days or None, valid.get("keep_crops", self._settings.keep_crops))


_EXPECTED = {
    "rate": "a number above 0 and below 1, or null",
    "unknowns_days": f"a number of days from 0 to {_MAX_DAYS}, or null",
    "keep_crops": "true or false",
}


def _is_valid(name: str, value: Any) -> bool:
    if name == "keep_crops":
        return isinstance(value, bool)
    if name not in _EXPECTED or isinstance(value, bool) or not isinstance(value, (int, float, type(None))):
        return False
    if value is None:
        return True
    return 0 < value < 1 if name == "rate" else 0 <= value <= _MAX_DAYS
