"""Events to a real MQTT broker on loopback, which goes away and comes back."""

from __future__ import annotations

import json
import logging
import ssl
import sys
from pathlib import Path

import pytest

from facespace.errors import RuntimeUnavailable
from facespace.server.delivering import Delivering
from facespace.server.events import Events
from facespace.server.mqtt import Bridge, Broker, Publisher, parsed_broker
from facespace.server.state import State
from facespace.server.webhooks import Webhooks
from support.mqtt_broker import free_port, mqtt_broker, mqtt_listener
from support.tls_relay import certify
from support.waiting import wait_until

ANNA = {"id": "7", "name": "Anna", "external_id": None}


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def broker(port: int) -> Broker:
    return parsed_broker(f"mqtt://127.0.0.1:{port}")


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parsed_broker("mqtt://localhost") == Broker("localhost", 1883, "facespace", False)
    assert parsed_broker("mqtts://[::1]:99/a/b/") == Broker("::1", 99, "a/b", True)
    found = parsed_broker("mqtts://anna:s%40cret@broker.example")
    assert (found.user, found.password) == ("anna", "s@cret")
    assert "s@cret" not in f"{found} {found!r}" and "anna" not in str(found)
    monkeypatch.setenv("FACESPACE_MQTT_PASSWORD", "from outside")
    assert parsed_broker("mqtt://anna@localhost").password == "from outside"


@pytest.mark.parametrize(
    "address",
    ["localhost", "http://localhost", "mqtt://", "mqtt://localhost/a#b", "mqtt://localhost/a%2Bb", "mqtt://h:99999"],
)
def test_invalid_addresses(address: str) -> None:
    with pytest.raises(ValueError, match="MQTT broker"):
        parsed_broker(address)


def test_a_password_is_not_repeated_in_an_error() -> None:
    for address in ("mqttt://anna:secret@host", "mqtt://anna:secret@:99999999/"):
        with pytest.raises(ValueError, match="MQTT broker") as error:
            parsed_broker(address)
        assert "secret" not in str(error.value)


def test_topics_are_escaped(broker: Broker) -> None:
    assert broker.topic_of("a/b+c#d", "known") == "facespace/a%2Fb%2Bc%23d/known"


def test_an_event_arrives_with_qos_1(broker: Broker, port: int) -> None:
    with mqtt_broker(port), mqtt_listener(port) as heard:
        publisher = Publisher(broker)
        assert publisher.publish(broker.topic_of("staff", "known"), '{"id":"1"}')
        assert publisher.flush(10)
        wait_until(lambda: heard)
        publisher.close()
    assert heard == [("facespace/staff/known", b'{"id":"1"}', 1)]


def test_a_broker_that_goes_and_comes_back(broker: Broker, port: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "facespace.mqtt")
    publisher = Publisher(broker)  # before the broker runs
    publisher.publish("facespace/default/known", "1")
    wait_until(lambda: "cannot be reached" in caplog.text)
    with mqtt_broker(port), mqtt_listener(port) as heard:
        assert publisher.flush(10)
        wait_until(lambda: [body for _, body, _ in heard] == [b"1"])
    wait_until(lambda: not publisher.connected)
    publisher.publish("facespace/default/known", "2")
    with mqtt_broker(port), mqtt_listener(port) as heard:
        publisher.publish("facespace/default/known", "3")
        assert publisher.flush(15)
    publisher.close()
    assert publisher.n_unsent == 0
    assert caplog.text.count("cannot be reached") <= 2, "logged once, not at each attempt"


def test_waiting_events_are_limited(broker: Broker) -> None:
    publisher = Publisher(broker, most_unsent=3)
    assert [publisher.publish("t", str(k)) for k in range(5)] == [True, True, True, False, False]
    assert publisher.n_unsent == 3
    assert not publisher.flush(0.05)
    publisher.close()


# When a handshake fails, paho does not close its socket, so Python warns.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_tls_is_verified(port: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    certificate = certify(tmp_path, "127.0.0.1")
    broker = parsed_broker(f"mqtts://127.0.0.1:{port}")
    with mqtt_broker(port, certificate=certificate):
        publisher = Publisher(broker, tls=ssl.create_default_context(cafile=str(certificate)))
        publisher.publish("facespace/default/known", "1")
        assert publisher.flush(10)
        publisher.close()
        publisher = Publisher(broker)  # a self-signed certificate
        publisher.publish("facespace/default/known", "2")
        wait_until(lambda: "trying again" in caplog.text)
        assert not publisher.flush(0.2)
        publisher.close()


def test_a_wrong_password_is_logged_without_the_password(
    port: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from pwdlib.hashers.argon2 import Argon2Hasher

    passwords = tmp_path / "users"
    passwords.write_text(f"anna:{Argon2Hasher().hash('right')}\n")
    with mqtt_broker(port, passwords=passwords):
        publisher = Publisher(parsed_broker(f"mqtt://anna:wrong-one@127.0.0.1:{port}"))
        wait_until(lambda: "refuses the connection" in caplog.text)
        publisher.close()
        assert "wrong-one" not in caplog.text and "anna" not in caplog.text
        publisher = Publisher(parsed_broker(f"mqtt://anna:right@127.0.0.1:{port}"))
        publisher.publish("facespace/default/known", "1")
        assert publisher.flush(10)
        publisher.close()


def test_a_service_publishes_each_event_until_the_broker_has_it(
    broker: Broker, port: int, state: State, events: Events
) -> None:
    """A service that was down continues after the last event that the broker confirmed."""

    def emit(person: str) -> None:
        events.emit("enrolled", "staff", {"person": {**ANNA, "id": person}})

    webhooks = Webhooks(state, events)
    bridge = Bridge(events, Publisher(broker))  # it publishes events from now on
    bridge.close()
    emit("1")
    delivering = Delivering(state, events, webhooks, make_bridge=lambda: Bridge(events, Publisher(broker)))
    emit("2")
    wait_until(lambda: state.rows("SELECT 1 FROM event_listener WHERE name = 'mqtt'"))
    with mqtt_broker(port), mqtt_listener(port) as heard:
        emit("3")
        events.emit("known", "staff", {"person": {**ANNA, "id": "4"}})
        wait_until(lambda: len(heard) >= 4)
        wait_until(lambda: events.mark("mqtt") == events.newest())
        delivering.close()
    assert {topic for topic, _, _ in heard} == {"facespace/staff/enrolled", "facespace/staff/known"}
    assert sorted({json.loads(body)["person"]["id"] for _, body, _ in heard}) == ["1", "2", "3", "4"]


def test_without_paho(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt", None)
    with pytest.raises(RuntimeUnavailable, match=r"facespace\[mqtt\]"):
        Publisher(broker)
