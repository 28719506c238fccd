"""A real MQTT broker (amqtt) on loopback, in a thread of the test, and a client that hears all of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from support.webhook_server import wait_until


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextlib.contextmanager
def mqtt_broker(port: int, *, certificate: Path | None = None, passwords: Path | None = None) -> Iterator[None]:
    """A broker at that port until the block ends; with a certificate it speaks TLS; `passwords`: amqtt's file of users."""
    logging.getLogger("amqtt").setLevel(logging.CRITICAL)
    logging.getLogger("transitions").setLevel(logging.CRITICAL)
    listener: dict[str, Any] = {"type": "tcp", "bind": f"127.0.0.1:{port}"}
    if certificate is not None:
        listener |= {"ssl": True, "certfile": str(certificate), "keyfile": str(certificate)}
    plugins: dict[str, Any] = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    if passwords is not None:
        plugins = {"amqtt.plugins.authentication.FileAuthPlugin": {"password_file": str(passwords)}}
    ready, done = threading.Event(), threading.Event()
    failed: list[BaseException] = []

    async def run() -> None:
        from amqtt.broker import Broker

        broker = Broker({"listeners": {"default": listener}, "plugins": plugins})
        await broker.start()
        ready.set()
        while not done.is_set():
            await asyncio.sleep(0.02)
        with contextlib.suppress(Exception):
            await broker.shutdown()

    def serve() -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                asyncio.run(run())
        except BaseException as error:  # told to the test
            failed.append(error)
            ready.set()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert ready.wait(20)
    assert not failed, failed
    try:
        yield
    finally:
        done.set()
        thread.join(20)


@contextlib.contextmanager
def mqtt_listener(port: int) -> Iterator[list[tuple[str, bytes, int]]]:
    """What comes to the broker, (topic, body, QoS) each, until the block ends."""
    found: list[tuple[str, bytes, int]] = []
    subscribed = threading.Event()
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda client, data, message: found.append((message.topic, message.payload, message.qos))
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_connect = lambda *_: client.subscribe("#", qos=1)
    client.reconnect_delay_set(1, 1)
    client.connect_async("127.0.0.1", port)
    client.loop_start()
    try:
        wait_until(subscribed.is_set)
        yield found
    finally:
        client.disconnect()
        client.loop_stop()
