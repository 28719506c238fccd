"""The object that all routes share. It is made when a worker process starts."""

from __future__ import annotations

import threading

from fastapi import Request

from facespace.server.answers import Answers
from facespace.server.audit import Audit
from facespace.server.buckets import SharedBuckets
from facespace.server.choices import Choices
from facespace.server.delivering import Delivering
from facespace.server.engine import Engine
from facespace.server.events import Events
from facespace.server.galleries import Galleries
from facespace.server.keys import Keys
from facespace.server.metrics import Metrics
from facespace.server.mqtt import Bridge, Publisher, parsed_broker
from facespace.server.rates import Rates
from facespace.server.settings import Settings
from facespace.server.state import State
from facespace.server.unknown_clusters import Grouping
from facespace.server.unknowns import Unknowns
from facespace.server.webhooks import Webhooks


class Service:
    """The settings, the state, the galleries and the networks of one worker process.

    Everything here is thread-safe. Call methods that may block through `engine.run`.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.engine = Engine(settings, self.metrics)
        self.state = State(settings.state)
        self.state.sealing()  # report a missing encryption key now, not at the first event
        self.keys = Keys(self.state)
        self.choices = Choices(settings)
        self.audit = Audit(self.state)
        self.answers = Answers(self.state)
        # Several workers share one file of token buckets.
        shared = (
            SharedBuckets(self.state.folder / "rates") if settings.workers > 1 and settings.rate_per_second else None
        )
        self.rates = Rates(settings.rate_per_second, burst=settings.burst, buckets=shared)
        self.galleries = Galleries(settings, self.engine)
        self.events = Events(self.state)
        self.webhooks = Webhooks(self.state, self.events, allow_private=settings.allow_private_webhooks)
        broker = parsed_broker(settings.mqtt) if settings.mqtt else None
        self.delivering = Delivering(
            self.state, self.events, self.webhooks, allow_private=settings.allow_private_webhooks,
            make_bridge=None if broker is None else lambda: Bridge(self.events, Publisher(broker)),
        )  # fmt: skip
        self.unknowns = Unknowns(settings, self.galleries, self.choices)
        self.grouping = Grouping(self.unknowns)
        self.is_closing = False

    def start(self) -> None:
        """Open the gallery and load its network. This call blocks. Raises the same errors as `Galleries.get`."""
        self.galleries.get()

    def begin_closing(self) -> None:
        """Refuse further requests. Accepted requests are finished."""
        if not self.is_closing:
            self.is_closing = True
            # In another thread, because a signal may interrupt this one while it holds the lock that `end_streams` needs.
            threading.Thread(target=self.events.end_streams, name="facespace-closing").start()

    def close(self) -> None:
        """Finish the accepted requests, and close the stores."""
        self.begin_closing()
        for part in (self.engine, self.unknowns, self.delivering, self.events, self.galleries, self.state):
            part.close()


def service_of(request: Request) -> Service:
    """Return the service that handles a request. Routes can also use it as a dependency."""
    service: Service = request.app.state.service
    return service
