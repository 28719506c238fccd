"""The values of a JSON answer, each checked before it is used, because the server may be another program or version."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from facespace.errors import ServiceError
from facespace.io.text import one_line

_SHOWN = 60  # characters of a wrong value in a message
_NEEDED: Any = object()


class Fields:
    """One JSON object of an answer. In messages, `where` names the service and `path` the object.

    Every method returns a field after checking it, and raises `ServiceError` for a wrong value. With a
    `default`, the field may be missing or null; then the default is returned.

    >>> answer = Fields({"name": "Ada", "n_photos": 3}, "http://localhost:8000")
    >>> answer.text("name"), answer.whole("n_photos")
    ('Ada', 3)
    >>> answer.number("similarity")
    Traceback (most recent call last):
        ...
    facespace.errors.ServiceError: http://localhost:8000: similarity must be a number in the answer, got nothing; is this a facespace service of this version?
    """

    def __init__(self, value: object, where: str, path: str = "") -> None:
        self._where = where
        self._path = path
        if not isinstance(value, dict):
            raise self._wrong(path or "the answer", "a JSON object", value)
        self._values: dict[str, Any] = value

    def text(self, name: str, default: Any = _NEEDED) -> str:
        """Return a string."""
        return self._take(name, default, "text", lambda value: isinstance(value, str))  # type: ignore[no-any-return]

    def truth(self, name: str, default: Any = _NEEDED) -> bool:
        """Return a boolean."""
        return self._take(name, default, "true or false", lambda value: isinstance(value, bool))  # type: ignore[no-any-return]

    def whole(self, name: str, default: Any = _NEEDED) -> Any:
        """Return a whole number from 0."""
        return self._take(name, default, "a whole number from 0", _is_whole)

    def number(self, name: str, default: Any = _NEEDED) -> Any:
        """Return a finite number as a float."""
        value = self._take(name, default, "a number", _is_number)
        return float(value) if _is_number(value) else value

    def numbers(self, name: str, n: int | None = None) -> list[float]:
        """Return a list of finite numbers, with length `n` if given."""
        what = "a list of numbers" if n is None else f"{n} numbers"
        return [float(one) for one in self._take(name, _NEEDED, what, lambda value: _are_numbers(value, n))]

    def points(self, name: str) -> tuple[tuple[float, float], ...]:
        """Return a list of points, each of two finite numbers."""

        def good(value: object) -> bool:
            return isinstance(value, list) and all(_are_numbers(point, 2) for point in value)

        return tuple((float(x), float(y)) for x, y in self._take(name, _NEEDED, "a list of points", good))

    def texts(self, name: str, default: Any = _NEEDED) -> tuple[str, ...]:
        """Return a list of strings."""

        def good(value: object) -> bool:
            return isinstance(value, list) and all(isinstance(one, str) for one in value)

        return tuple(self._take(name, default, "a list of texts", good))

    def mapping(self, name: str, default: Any = _NEEDED) -> dict[str, Any]:
        """Return a JSON object with any content, such as metadata."""
        return self._take(name, default, "a JSON object", lambda value: isinstance(value, dict))  # type: ignore[no-any-return]

    def inner(self, name: str) -> Fields:
        """Return a JSON object."""
        return Fields(self._take(name, _NEEDED, "a JSON object", lambda _: True), self._where, self._name(name))

    def inner_or_none(self, name: str) -> Fields | None:
        """Return a JSON object, or None if the field is missing or null."""
        return None if self._values.get(name) is None else self.inner(name)

    def each(self, name: str, default: Any = _NEEDED) -> Iterator[Fields]:
        """Iterate over the objects of a list."""
        values = self._take(name, default, "a list", lambda value: isinstance(value, list))
        for number, value in enumerate(values):
            yield Fields(value, self._where, f"{self._name(name)}[{number}]")

    def refuse(self, reason: str) -> ServiceError:
        """Return the error for values that are valid individually but contradict each other."""
        return _unexpected(self._where, f"{self._path or 'the answer'} is inconsistent: {reason}")

    def _take(self, name: str, default: Any, what: str, good: Any) -> Any:
        value = self._values.get(name)
        if value is None and default is not _NEEDED:
            return default
        if value is None and name not in self._values:
            raise self._wrong(self._name(name), what, _NEEDED)
        if not good(value):
            raise self._wrong(self._name(name), what, value)
        return value

    def _name(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name

    def _wrong(self, name: str, expected: str, got: object) -> ServiceError:
        shown = "nothing" if got is _NEEDED else _shown(got)
        place = "" if name == "the answer" else " in the answer"
        return _unexpected(self._where, f"{name} must be {expected}{place}, got {shown}")


def read_json(data: bytes, where: str) -> Fields:
    """Parse the body of an answer. Raises `ServiceError` if it is not a JSON object.

    >>> read_json(b'{"total": 3}', "http://localhost:8000").whole("total")
    3
    """
    try:
        value = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError):  # RecursionError: nested too deeply
        start = data[:_SHOWN].decode("utf-8", "replace")
        raise _unexpected(where, f"the answer is not JSON; it begins with {_shown(start)}") from None
    return Fields(value, where)


def _no_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are not JSON


def _unexpected(where: str, what: str) -> ServiceError:
    return ServiceError(
        f"{where}: {what}; is this a facespace service of this version?", status=None, code="unexpected_answer"
    )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_number(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number larger than any float
        return False


def _are_numbers(value: object, n: int | None) -> bool:
    return isinstance(value, list) and n in (None, len(value)) and all(_is_number(one) for one in value)


def _shown(value: object) -> str:
    """Return a value for a message: short, on one line, without converting all of a large value."""
    if isinstance(value, (dict, list)):
        kind = "an object" if isinstance(value, dict) else "a list"
        return f"{kind} of {len(value)}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(value) if abs(value) < 2**63 else "a number beyond 64 bits"
    text = value[:_SHOWN] if isinstance(value, str) else str(value)[:_SHOWN]
    return repr(one_line(text)) if isinstance(value, str) else text
