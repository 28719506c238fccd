"""The allowed targets of webhooks, and one signed request to a server on loopback."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from facespace.server import webhook_targets
from facespace.server.webhook_targets import DeliveryFailed, TargetRefused, check_address, checked_target, deliver
from support.tls_relay import certify
from support.waiting import wait_until
from support.webhook_server import WebhookServer, webhook_server


@pytest.fixture
def target() -> Iterator[WebhookServer]:
    with webhook_server() as server:
        yield server


def send(url: str, **options: Any) -> int:
    options = {"event_id": "7", "secret": "fsw_x", "allow_private": True, **options}
    return deliver(url, b'{"id":"7"}', **options)


def name_means(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Make hooks.test resolve to these addresses. Return a list of the names that were resolved."""
    real, asked = socket.getaddrinfo, []

    def getaddrinfo(host: str, port: int, *arguments: Any, **options: Any) -> Any:
        if host != "hooks.test":
            return real(host, port, *arguments, **options)
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.9.1",
        "10.1.1.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "64:ff9b:1::a00:1",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "198.18.0.1",
        "240.0.0.1",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "fd00:ec2::254",
        "fec0::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2002:a00:1::",
        "::7f00:1",
        "2001:0:7f00:1::f7f7:f7f7",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    with pytest.raises(TargetRefused, match="refused"):
        check_address(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::"]
)  # fmt: skip
def test_public_addresses(address: str) -> None:
    check_address(ipaddress.ip_address(address))


def test_private_addresses_may_be_allowed_but_not_multicast() -> None:
    check_address(ipaddress.ip_address("10.1.1.1"), allow_private=True)
    with pytest.raises(TargetRefused, match="multicast"):
        check_address(ipaddress.ip_address("224.0.0.1"), allow_private=True)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://example.com/", "must begin with https"),
        ("file:///etc/passwd", "must begin with https"),
        ("https:///path", "must name a host"),
        ("https://user:secret@example.com/", "no user name"),
        ("https://example.com/#x", "no fragment"),
        ("https://example.com:0/", "the port"),
        ("https://example.com:99999/", "cannot be read"),
        ("https://example.com/a b", "visible ASCII"),
        ("https://example.com/\r\nX-Evil: 1", "visible ASCII"),
        ("https://exämple.com/", "visible ASCII"),
        ("https://[fe80::1%25eth0]/", "no zone"),
        ("https://" + "a" * 3000, "at most 2048"),
        ("http://localhost/", "is this machine"),
        ("http://hooks.localhost./", "is this machine"),
        ("http://[::1]:8000/", "not a public address"),
        ("http://169.254.169.254/latest/meta-data", "not a public address"),
    ],
)
def test_urls_that_are_refused(url: str, message: str) -> None:
    with pytest.raises(TargetRefused, match=message):
        checked_target(url)


def test_what_is_sent(target: WebhookServer) -> None:
    before = int(time.time())
    assert send(target.url + "?n=1") == 204
    ((headers, body),) = target.requests
    assert body == b'{"id":"7"}'
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Facespace-Event-Id"] == "7"
    at, made = (part.partition("=")[2] for part in headers["X-Facespace-Signature"].split(","))
    assert before <= int(at) <= time.time()
    assert made == hmac.new(b"fsw_x", f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    send(target.url, secret=None)
    assert "X-Facespace-Signature" not in target.requests[1][0]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(target: WebhookServer, status: int) -> None:
    target.answers.append(status)
    with pytest.raises(DeliveryFailed, match=f"answered {status}; redirects are not followed"):
        send(target.url)
    assert len(target.requests) == 1


def test_unsuccessful_answers(target: WebhookServer) -> None:
    target.answers += [404, 500, b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 204 " + b"x" * 70_000]
    for message in ("answered 404", "answered 500", "no valid HTTP answer", "no valid HTTP answer"):
        with pytest.raises(DeliveryFailed, match=message):
            send(target.url)


def test_a_target_that_hangs(target: WebhookServer) -> None:
    release = threading.Event()
    target.answers.append(lambda handler: release.wait(20))
    begun = time.monotonic()
    with pytest.raises(DeliveryFailed, match="no answer in time"):
        send(target.url, timeout=0.3)
    assert time.monotonic() - begun < 3
    release.set()


def test_a_target_that_sends_a_byte_now_and_then(target: WebhookServer) -> None:
    """Each read is in time, but the whole answer is not."""
    stop = threading.Event()

    def drip(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not stop.wait(0.05):
            handler.wfile.write(b"x")

    target.answers.append(drip)
    begun = time.monotonic()
    with pytest.raises(DeliveryFailed, match="no answer in time"):
        send(target.url, timeout=0.5)
    assert time.monotonic() - begun < 3
    stop.set()


def test_an_endless_answer_is_not_read(target: WebhookServer) -> None:
    sent = []

    def pour(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                sent.append(handler.wfile.write(b"x" * 65_536))
        except OSError:
            sent.append(-1)

    target.answers.append(pour)
    assert send(target.url) == 200
    wait_until(lambda: sent and sent[-1] == -1)
    assert sum(sent) < 50_000_000


def test_a_refused_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(DeliveryFailed, match="cannot connect"):
        send(f"http://127.0.0.1:{port}/")


def test_loopback_is_refused_unless_allowed(target: WebhookServer) -> None:
    with pytest.raises(TargetRefused):
        send(target.url, allow_private=False)
    assert target.requests == []


def test_a_name_that_means_this_machine_is_refused(target: WebhookServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for addresses in (["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::ffff:127.0.0.1"]):
        name_means(monkeypatch, *addresses)
        with pytest.raises(TargetRefused, match=r"127\.0\.0\.1 is not a public address"):
            send(f"http://hooks.test:{target.port}/", allow_private=False)
    assert target.requests == []


def test_the_connection_goes_to_the_address_that_was_checked(
    target: WebhookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is resolved once, so that a later change (DNS rebinding) has no effect."""
    asked = name_means(monkeypatch, "127.0.0.1")
    assert send(f"http://hooks.test:{target.port}/") == 204
    assert asked == ["hooks.test"]
    assert target.requests[0][0]["Host"] == f"hooks.test:{target.port}"


def test_another_address_is_tried(target: WebhookServer, monkeypatch: pytest.MonkeyPatch) -> None:
    name_means(monkeypatch, "127.0.0.2", "127.0.0.1")  # no server listens at the first
    assert send(f"http://hooks.test:{target.port}/") == 204


def test_a_name_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nothing)
    with pytest.raises(DeliveryFailed, match=r"hooks\.test has no address \(Name or service not known\)"):
        send("https://hooks.test/")


def test_tls_is_verified_for_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name_means(monkeypatch, "127.0.0.1")
    right, other = certify(tmp_path, "hooks.test"), certify(tmp_path, "other.test")
    trusting = ssl.create_default_context(cafile=str(right))
    with webhook_server(right) as server:
        assert send(f"https://hooks.test:{server.port}/", tls=trusting) == 204
        with pytest.raises(DeliveryFailed, match="certificate is not valid"):
            send(f"https://hooks.test:{server.port}/")  # a self-signed certificate
    trusting = ssl.create_default_context(cafile=str(other))
    with webhook_server(other) as server:
        with pytest.raises(DeliveryFailed, match="certificate is not valid"):
            send(f"https://hooks.test:{server.port}/", tls=trusting)  # a certificate for another name
        assert server.requests == []


def test_proxies_of_the_environment_are_not_used(target: WebhookServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert send(target.url) == 204


def test_nothing_but_the_standard_library_is_needed() -> None:
    assert not {"fastapi", "httpx", "requests"} & set(vars(webhook_targets))
