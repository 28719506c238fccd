"""Events on their way to one webhook, kept in memory: used by `facespace watch`, which posts without a service."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from facespace.server.webhook_targets import TIMEOUT, DeliveryFailed, TargetRefused, checked_target, deliver

MAX_POSTED = 10_000  # events that wait; beyond this the oldest are dropped and a warning is given
_DELAYS = (1.0, 2.0, 5.0, 15.0, 30.0, 60.0)  # seconds between attempts; the last value repeats


class Outbox:
    """Posts events to a URL, in order, in a thread. Tries each event again until the target accepts it.

    `secret` signs the events as a service does. `trouble` is called with each new problem. Addresses in private networks
    are allowed, because the caller chose the URL. Raises `TargetRefused` for a URL that webhooks must not use.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: str | None = None,
        trouble: Callable[[str], object] = lambda line: None,  # noqa: ARG005
        delays: Sequence[float] = _DELAYS,
        timeout: float = TIMEOUT,
    ) -> None:
        target = checked_target(url, allow_private=True)
        self._url = url
        self._shown = f"{target.scheme}://{target.host_header}"
        self._secret = secret
        self._trouble = trouble
        self._delays = tuple(delays)
        self._timeout = timeout
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._reported = ""
        self._n_dropped = 0
        self._thread = threading.Thread(target=self._run, name="facespace-outbox", daemon=True)
        self._thread.start()

    def post(self, event_id: str, body: str) -> None:
        """Send one event, now or as soon as the target accepts it."""
        with self._changed:
            if len(self._waiting) >= MAX_POSTED:
                self._waiting.popleft()
                self._n_dropped += 1
                dropped = self._n_dropped
            else:
                dropped = 0
            self._waiting.append((event_id, body.encode()))
            self._changed.notify_all()
        if dropped in (1, 100) or (dropped and not dropped % 1000):
            self._trouble(f"{self._shown}: {dropped} events were dropped, because more than {MAX_POSTED} were waiting")

    @property
    def n_waiting(self) -> int:
        """The number of events that the target has not accepted yet."""
        with self._changed:
            return len(self._waiting)

    def close(self, seconds: float = 5.0) -> int:
        """Wait at most `seconds` until all events are sent. Return the number of events that were not sent."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, timeout=seconds)
            self._closed = True
            self._changed.notify_all()
        self._thread.join(1.0)
        return self.n_waiting

    def _run(self) -> None:
        n_failed = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                first = self._waiting[0]
            try:
                deliver(
                    self._url, first[1], event_id=first[0], secret=self._secret, allow_private=True,
                    timeout=self._timeout,
                )  # fmt: skip
            except (TargetRefused, DeliveryFailed) as error:
                self._report(f"{self._shown}: {error}; trying again")
                pause = self._delays[min(n_failed, len(self._delays) - 1)]
                n_failed += 1
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, timeout=pause)
                continue
            n_failed, self._reported = 0, ""
            with self._changed:
                if self._waiting and self._waiting[0] is first:
                    self._waiting.popleft()
                self._changed.notify_all()

    def _report(self, line: str) -> None:
        if line != self._reported:
            self._reported = line
            self._trouble(line)
