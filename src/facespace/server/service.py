"""What all routes share: one object, made when a worker process starts."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from facespace.server.answers import Answers
from facespace.server.audit import Audit
from facespace.server.engine import Engine
from facespace.server.galleries import Galleries
from facespace.server.keys import Keys
from facespace.server.metrics import Metrics
from facespace.server.rates import Rates
from facespace.server.settings import Settings
from facespace.server.state import State


class NoEvents:
    """Takes the place of `Events` where there are none."""

    def emit(self, kind: str, collection: str, data: dict[str, Any]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class NoUnknowns:
    """Takes the place of `Unknowns` where there are none."""

    def ignored(self, collection: str, photo: Any, numbers: list[int]) -> set[int]:
        """The numbers of those faces of the photo that shall be ignored for good."""
        del collection, photo, numbers
        return set()

    def keep(self, collection: str, photo: Any, numbers: list[int], *, source: str = "") -> dict[int, str]:
        """Keep these faces of an analysed photo; returns the ids of those that are kept, by number."""
        del collection, photo, numbers, source
        return {}

    def close(self) -> None:
        """Do nothing."""


class Service:
    """The settings, the state, the galleries and the networks of one worker process.

    Everything here is thread-safe. What may block is called by `engine.run`.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.engine = Engine(settings, self.metrics)
        self.state = State(settings.state)
        self.keys = Keys(self.state)
        self.audit = Audit(self.state)
        self.answers = Answers(self.state)
        self.rates = Rates(settings.rate_per_second, burst=settings.burst, share=settings.workers)
        self.galleries = Galleries(settings, self.engine)
        self.events: Any = NoEvents()
        self.unknowns: Any = NoUnknowns()
        self.is_closing = False

    def close(self) -> None:
        """Finish what was accepted, and close the stores."""
        self.is_closing = True
        for part in (self.engine, self.unknowns, self.events, self.galleries, self.state):
            part.close()


def service_of(request: Request) -> Service:
    """The service that a request came to; also a dependency."""
    service: Service = request.app.state.service
    return service
