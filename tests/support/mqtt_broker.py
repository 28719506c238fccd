"""Runs a real MQTT broker (amqtt) on loopback in its own process, and a client that receives all messages."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from support.waiting import wait_until

_BROKER = """
import asyncio, json, sys
from amqtt.broker import Broker

async def run():
    broker = Broker(json.loads(sys.argv[1]))
    await broker.start()
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(run())
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextlib.contextmanager
def mqtt_broker(port: int, *, certificate: Path | None = None, passwords: Path | None = None) -> Iterator[None]:
    """Run a broker at that port until the block ends; with TLS if there is a certificate; `passwords`: amqtt's user
    file.
    """
    import json

    listener: dict[str, object] = {"type": "tcp", "bind": f"127.0.0.1:{port}"}
    if certificate is not None:
        listener |= {"ssl": True, "certfile": str(certificate), "keyfile": str(certificate)}
    plugins: dict[str, object] = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    if passwords is not None:
        plugins = {"amqtt.plugins.authentication.FileAuthPlugin": {"password_file": str(passwords)}}
    settings = json.dumps({"listeners": {"default": listener}, "plugins": plugins})
    process = subprocess.Popen(
        [sys.executable, "-c", _BROKER, settings], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


@contextlib.contextmanager
def mqtt_listener(port: int) -> Iterator[list[tuple[str, bytes, int]]]:
    """Collect the broker's messages, (topic, body, QoS) each, until the block ends."""
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
