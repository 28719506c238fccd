"""Sends events to webhooks and to an MQTT broker, in one worker of a service.

A file lock decides which worker that is. The system releases the lock as soon as that worker dies, and another worker
continues with what the state file lists as still to be sent.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import filelock

from facespace.errors import FacespaceError
from facespace.server.webhook_targets import TIMEOUT, DeliveryFailed, TargetRefused, deliver
from facespace.server.webhooks import DELAYS, Delivery, Webhooks

if TYPE_CHECKING:
    from facespace.server.events import Events
    from facespace.server.mqtt import Bridge
    from facespace.server.state import State

LOCK = "delivering.lock"
_AT_ONCE = 16  # parallel deliveries, each to another webhook
_LOOK = 0.5  # seconds until the state file is read again, because another worker may have added a delivery
_LOCK_PAUSE = 1.0  # seconds until the lock is tried again
_ROUNDS = 0.02  # the shortest time in seconds between two rounds

_log = logging.getLogger("facespace.webhooks")


class Delivering:
    """Delivers events in a thread, from its creation until `close`, whenever no other worker delivers.

    `make_bridge` is called for the MQTT publisher when this worker becomes the one that delivers.
    """

    def __init__(
        self,
        state: State,
        events: Events,
        webhooks: Webhooks,
        *,
        allow_private: bool = False,
        make_bridge: Callable[[], Bridge] | None = None,
        delays: Sequence[float] = DELAYS,
        timeout: float = TIMEOUT,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._state = state
        self._events = events
        self._webhooks = webhooks
        self._allow_private = allow_private
        self._make_bridge = make_bridge
        self._bridge: Bridge | None = None
        self._delays = tuple(delays)
        self._timeout = timeout
        self._tls = tls
        self._lock = filelock.FileLock(state.folder / LOCK, timeout=0, thread_local=False, mode=0o600)
        self._busy: set[str] = set()
        self._changed = threading.Condition()
        self._woken = self._closed = False
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="facespace-webhook")
        events.when_new(self.wake)
        self._thread = threading.Thread(target=self._run, name="facespace-delivering", daemon=True)
        self._thread.start()

    @property
    def delivers(self) -> bool:
        """Whether this worker is the one that delivers."""
        return bool(self._lock.is_locked)

    def wake(self) -> None:
        """Make the thread look for new deliveries at once instead of after its pause."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def close(self) -> None:
        """Stop sending. Deliveries that have begun are finished. The rest waits in the state file."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(self._timeout + 5)
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._bridge is not None:
            self._bridge.close()
        if self._lock.is_locked:
            self._lock.release()

    def _run(self) -> None:
        while not self._closed:
            try:
                pause = self._round() if self._lock.is_locked or self._is_taken() else _LOCK_PAUSE
            except FacespaceError as error:  # a full or failing disk
                _log.warning("events cannot be delivered: %s", error)
                pause = _LOCK_PAUSE
            with self._changed:
                self._changed.wait_for(lambda: self._woken or self._closed, timeout=pause)
                self._woken = False

    def _is_taken(self) -> bool:
        try:
            self._lock.acquire()
        except (filelock.Timeout, OSError):
            return False
        if self._make_bridge is not None:
            self._bridge = self._make_bridge()
        return True

    def _round(self) -> float:
        """Begin the due deliveries. Return the seconds until the next round."""
        self._webhooks.spread()
        if self._bridge is not None:
            self._bridge.pump()
        with self._changed:
            busy = set(self._busy)
        for delivery in self._webhooks.due(busy):
            busy.add(delivery.webhook)
            with self._changed:
                self._busy.add(delivery.webhook)
            self._pool.submit(self._deliver, delivery)
        due = self._webhooks.next_due(busy)
        return _LOOK if due is None else min(max(due - time.time(), _ROUNDS), _LOOK)

    def _deliver(self, delivery: Delivery) -> None:
        try:
            try:
                deliver(
                    delivery.url, delivery.body, event_id=str(delivery.event), secret=delivery.secret,
                    allow_private=self._allow_private, timeout=self._timeout, tls=self._tls,
                )  # fmt: skip
            except (TargetRefused, DeliveryFailed) as error:
                self._webhooks.failed(delivery, str(error), delays=self._delays)
                _log.warning("webhook %s: event %d was not delivered: %s", delivery.webhook, delivery.event, error)
            else:
                self._webhooks.delivered(delivery)
        except FacespaceError as error:  # the file could not be changed: the delivery stays due and is sent again
            _log.warning("webhook %s: %s", delivery.webhook, error)
            time.sleep(_LOCK_PAUSE)
        except Exception:  # the other deliveries must go on
            _log.exception("webhook %s: event %d", delivery.webhook, delivery.event)
            self._webhooks.failed(delivery, "the service failed", delays=self._delays)
        finally:
            with self._changed:
                self._busy.discard(delivery.webhook)
            self.wake()
