"""stub until core's."""

from __future__ import annotations
from collections.abc import Mapping


class Problem(Exception):
    def __init__(
        self, status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, errors: object = None
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.headers, self.errors = status, code, detail, headers, errors
