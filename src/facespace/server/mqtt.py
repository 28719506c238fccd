"""Publishes events to an MQTT broker (extra `mqtt`) with QoS 1, so that the broker confirms each event.

The library, paho-mqtt, reconnects by itself. An address is `mqtt://user@host:port/topic`, or `mqtts://` for TLS. Give the
password in the variable FACESPACE_MQTT_PASSWORD, because other users can see the command line.
"""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from facespace.errors import RuntimeUnavailable
from facespace.io.text import first_line, one_line

if TYPE_CHECKING:
    from facespace.server.events import Event, Events

PASSWORD_VARIABLE = "FACESPACE_MQTT_PASSWORD"  # noqa: S105 - the name of a variable
DEFAULT_TOPIC = "facespace"
MAX_UNSENT = 10_000  # published events that the broker has not confirmed; beyond this new ones are dropped

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_IN_FLIGHT = 100  # the largest number of events that the bridge has published and the broker has not confirmed
_FIRST_PAUSE, _LAST_PAUSE = 1, 60  # seconds between attempts to connect
_KEEPALIVE = 30  # seconds
_MARK = "mqtt"

_log = logging.getLogger("facespace.mqtt")


@dataclass(frozen=True, slots=True)
class Broker:
    """The parts of a broker's address."""

    host: str
    port: int
    topic: str
    tls: bool
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """The address without user and password, for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}/{self.topic}"

    def topic_of(self, collection: str, kind: str) -> str:
        """Return the topic of one event. Characters with a meaning in topics are percent-encoded.

        >>> parsed_broker("mqtt://localhost").topic_of("staff/night", "known")
        'facespace/staff%2Fnight/known'
        """
        return f"{self.topic}/{quote(collection, safe=' ')}/{kind}"


def parsed_broker(address: str) -> Broker:
    """Return the broker of an address `mqtt[s]://[user[:password]@]host[:port][/topic]`. Raise `ValueError` if malformed.

    If the address has no password, the password in FACESPACE_MQTT_PASSWORD is used.
    >>> print(parsed_broker("mqtts://anna:secret@broker.example/house/door"))
    mqtts://broker.example:8883/house/door
    """
    try:
        parts = urlsplit(address)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise ValueError(f"the address of an MQTT broker cannot be read ({first_line(error)})") from None
    if parts.scheme not in _PORTS or not host:  # the message does not repeat the address, which may contain a password
        raise ValueError(
            "the address of an MQTT broker must be mqtt://host or mqtts://host, with a port and topic if needed"
        )
    if parts.query or parts.fragment:
        raise ValueError("the address of an MQTT broker must not contain ? or #")
    topic = unquote(parts.path).strip("/") or DEFAULT_TOPIC
    if any(sign in topic for sign in "+#\0") or len(topic) > 200:
        raise ValueError("the topic of an MQTT broker must have at most 200 characters and not contain + or #")
    password = parts.password if parts.password is not None else os.environ.get(PASSWORD_VARIABLE)
    user = None if parts.username is None else unquote(parts.username)
    if parts.password is not None:
        password = unquote(parts.password)
    return Broker(host, port or _PORTS[parts.scheme], topic, parts.scheme == "mqtts", user, password)


class Publisher:
    """Publishes to a broker in a thread, from its creation on. Reconnects whenever the connection is lost.

    At most `most_unsent` events wait for the broker. `publish` returns False for further events. `tls` replaces the default
    context of `mqtts://`. Raises `RuntimeUnavailable` if paho-mqtt is not installed.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        most_unsent: int = MAX_UNSENT,
        tls: ssl.SSLContext | None = None,
        first_pause: int = _FIRST_PAUSE,
    ) -> None:
        try:
            from paho.mqtt import client as mqtt
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError as error:
            raise RuntimeUnavailable("MQTT needs the extra mqtt: pip install 'facespace[mqtt]'") from error
        self.broker = broker
        self._most = most_unsent
        self._changed = threading.Condition()
        self._unsent: OrderedDict[int, Any] = (
            OrderedDict()
        )  # event keys by message number, until the broker confirms them
        self._early: set[int] = set()  # messages confirmed before `publish` returned their number
        self._connected = False
        self._reported = ""
        self._client: Any = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311)
        if broker.user is not None:
            self._client.username_pw_set(broker.user, broker.password)
        if broker.tls:
            self._client.tls_set_context(tls or ssl.create_default_context())
        self._client.max_queued_messages_set(0)  # no limit in paho, because `publish` has one
        self._client.reconnect_delay_set(first_pause, _LAST_PAUSE)
        self._client.on_connect = self._on_connect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_disconnect = self._on_disconnect
        self._client.on_publish = self._on_publish
        self._client.connect_async(broker.host, broker.port, keepalive=_KEEPALIVE)
        self._client.loop_start()

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted the connection."""
        return self._connected

    @property
    def n_unsent(self) -> int:
        """The number of events that the broker has not confirmed yet."""
        with self._changed:
            return len(self._unsent)

    def publish(self, topic: str, body: str, key: Any = None) -> bool:
        """Publish one event, now or once connected. Return False if too many wait. `unsent` lists its `key`."""
        with self._changed:
            if len(self._unsent) >= self._most:
                return False
        message = self._client.publish(topic, body.encode(), qos=1)
        with self._changed:
            if message.mid in self._early:
                self._early.discard(message.mid)
            else:
                self._unsent[message.mid] = key
        return True

    def unsent(self) -> list[Any]:
        """Return the keys of the events that the broker has not confirmed, in the order they were published."""
        with self._changed:
            return list(self._unsent.values())

    def flush(self, seconds: float) -> bool:
        """Wait until the broker has confirmed all events. Return False if that takes more than `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._unsent, timeout=seconds)

    def close(self) -> None:
        """End the connection. Events that are not confirmed are not sent any more."""
        self._client.disconnect()
        self._client.loop_stop()

    # Callbacks that paho calls in its thread

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        del client, data, flags, properties
        self._connected = not reason.is_failure
        if reason.is_failure:
            self._report(f"the broker refuses the connection ({one_line(str(reason))[:100]})")
        else:
            self._reported = ""
            _log.info("%s: connected", self.broker)

    def _on_connect_fail(self, client: Any, data: Any) -> None:
        del client, data
        self._report("the broker cannot be reached")

    def _on_disconnect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        del client, data, flags, properties
        self._connected = False
        if reason.is_failure:
            self._report("the connection was lost")

    def _on_publish(self, client: Any, data: Any, mid: int, reason: Any, properties: Any) -> None:
        del client, data, reason, properties
        with self._changed:
            if mid in self._unsent:
                del self._unsent[mid]
            else:
                self._early.add(mid)
            self._changed.notify_all()

    def _report(self, what: str) -> None:
        if what != self._reported:  # report a problem once, not at every attempt
            self._reported = what
            _log.warning("%s: %s; trying again", self.broker, what)


class Bridge:
    """Publishes events. The state file stores the last event that the broker confirmed; a restart continues there."""

    def __init__(self, events: Events, publisher: Publisher) -> None:
        self._events = events
        self._publisher = publisher
        mark = events.mark(_MARK)
        if mark is None:
            events.set_mark(_MARK, mark := events.newest())
        self._mark = self._given = mark
        self._listening_until = 0.0

    def pump(self) -> None:
        """Publish new events, and store the number of the last event that the broker has confirmed. Call it repeatedly."""
        now = time.time()
        if now > self._listening_until - 15:
            self._listening_until = now + 45
            self._events.set_listening(_MARK, self._listening_until)
        unsent = self._publisher.unsent()
        done = min(unsent) - 1 if unsent else self._given
        if done > self._mark:
            self._mark = done
            self._events.set_mark(_MARK, done)
        n_free = _IN_FLIGHT - len(unsent)
        if n_free <= 0 or self._events.newest() <= self._given:
            return
        found, last = self._events.read(self._given, n_free)
        for event in found:
            if not self._publisher.publish(self._topic(event), event.json, key=event.number):
                return
            self._given = event.number
        self._given = last

    def close(self) -> None:
        """Wait briefly for the broker, store the last confirmed event, and end the connection."""
        self._publisher.flush(2.0)
        with contextlib.suppress(Exception):  # for example a full disk; those events are published once more
            self.pump()
        self._publisher.close()

    def _topic(self, event: Event) -> str:
        return self._publisher.broker.topic_of(event.collection, event.kind)
