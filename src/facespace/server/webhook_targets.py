"""Checks the targets of webhooks, and sends one signed request to a target.

Targets are checked by address, not by name: the name is resolved once, all its addresses are checked, and the connection
goes to a checked address. So a name that later resolves to another address (DNS rebinding) cannot be used for attacks.
Only the standard library is used, so that `facespace watch` can post without the extra `serve`.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from facespace._version import __version__
from facespace.io.text import first_line, one_line

MAX_URL = 2048  # characters of a target's address
TIMEOUT = 10.0  # seconds for one delivery, from connecting to the end of the answer

SIGNATURE_HEADER = "X-Facespace-Signature"
EVENT_ID_HEADER = "X-Facespace-Event-Id"

_MOST_READ = 4096  # bytes read of an answer's body, which is not kept
# The metadata address of Azure, which no range below covers. Other clouds use link-local, CGNAT or ULA addresses.
_METADATA = frozenset({ipaddress.ip_address("168.63.129.16")})
# Ranges of IANA's special-purpose registries that older versions of Python treat as public.
_SPECIAL = (
    ipaddress.ip_network("192.0.0.0/24"), ipaddress.ip_network("192.88.99.0/24"), ipaddress.ip_network("64:ff9b:1::/48"),
)  # fmt: skip
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LOCAL_NAMES = ("localhost", "localhost.localdomain")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class TargetRefused(ValueError):
    """A webhook must not go to this address. The message says why."""


class DeliveryFailed(Exception):
    """A delivery was not accepted. The message says why, without any text of the target's answer."""


@dataclass(frozen=True, slots=True)
class Target:
    """The parts of a webhook's URL. `path` includes the query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def host_header(self) -> str:
        """The value of `Host`. The port is left out if it is the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


_PORTS = {"http": 80, "https": 443}


def checked_target(url: str, *, allow_private: bool = False) -> Target:
    """Return the parts of a webhook's URL. Raise `TargetRefused` for a URL that webhooks must not use.

    Names are not resolved here. `deliver` checks their addresses when it connects.

    >>> checked_target("https://example.com/hooks?n=1")
    Target(scheme='https', host='example.com', port=443, path='/hooks?n=1')
    >>> checked_target("http://127.0.0.1/")
    Traceback (most recent call last):
    facespace.server.webhook_targets.TargetRefused: 127.0.0.1 is not a public address; webhooks to it are refused
    """
    if len(url) > MAX_URL:
        raise TargetRefused(f"the URL must have at most {MAX_URL} characters, got {len(url)}")
    if any(not "\x21" <= letter <= "\x7e" for letter in url):
        raise TargetRefused("the URL must have visible ASCII characters only; percent-encode other characters")
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise TargetRefused(f"the URL cannot be read ({first_line(error)})") from None
    if parts.scheme not in _PORTS:
        raise TargetRefused(f"the URL must begin with https:// or http://, got {one_line(url)[:40]!r}")
    if not host:
        raise TargetRefused("the URL must name a host")
    if parts.username is not None or parts.password is not None:
        raise TargetRefused("the URL must have no user name and no password; the signature proves who sends")
    if parts.fragment:
        raise TargetRefused("the URL must have no fragment (#)")
    if port == 0:
        raise TargetRefused("the port must be from 1 to 65535, got 0")
    if "%" in host:
        raise TargetRefused("the host must have no zone and no percent-encoding")
    target = Target(
        parts.scheme,
        host,
        port or _PORTS[parts.scheme],
        (parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
    )
    if not allow_private:
        name = host.rstrip(".").lower()
        if name in _LOCAL_NAMES or name.endswith(".localhost"):
            raise TargetRefused(f"{host} is this machine; webhooks to it are refused")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a name
        return target
    check_address(address, allow_private=allow_private)
    return target


def check_address(address: Address, *, allow_private: bool = False) -> None:
    """Raise `TargetRefused` for an address that is not public: loopback, private, link-local, shared, reserved, multicast.

    An IPv4 address inside an IPv6 address (mapped, 6to4, Teredo, NAT64) is checked too.

    >>> check_address(ipaddress.ip_address("::ffff:10.0.0.1"))
    Traceback (most recent call last):
    facespace.server.webhook_targets.TargetRefused: ::ffff:10.0.0.1 is not a public address; webhooks to it are refused
    """
    inner = _inner(address)
    checked = [address, *inner]
    if any(one.is_multicast for one in checked):
        raise TargetRefused(f"{_shown(address)} is a multicast address; webhooks to it are refused")
    if allow_private:
        return
    # An address that wraps a public IPv4 address is public, regardless of how its own range is registered.
    decisive = inner or [address]
    if any(not _is_public(one) for one in decisive):
        raise TargetRefused(f"{_shown(address)} is not a public address; webhooks to it are refused")


def _is_public(address: Address) -> bool:
    if not address.is_global or address in _METADATA or getattr(address, "is_site_local", False):
        return False
    return not any(address in network for network in _SPECIAL)


def _inner(address: Address) -> list[Address]:
    """Return the IPv4 addresses that an IPv6 address contains."""
    if not isinstance(address, ipaddress.IPv6Address):
        return []
    inner: list[Address] = []
    if address.ipv4_mapped is not None:
        inner.append(address.ipv4_mapped)
    if address.sixtofour is not None:
        inner.append(address.sixtofour)
    if address.teredo is not None:
        inner += address.teredo
    low = int(address) & 0xFFFFFFFF
    if address in _NAT64 or (int(address) >> 32 == 0 and low > 1):  # the second: the old IPv4-compatible form
        inner.append(ipaddress.IPv4Address(low))
    return inner


def _shown(address: Address) -> str:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return f"::ffff:{address.ipv4_mapped}"
    return str(address)


def resolved(target: Target, *, allow_private: bool = False) -> list[str]:
    """Return the addresses of a target, all checked.

    One refused address refuses the whole target: otherwise the DNS server could choose which address is used. Raise
    `TargetRefused`, or `DeliveryFailed` if the name has no address.
    """
    try:
        answers = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise DeliveryFailed(f"{one_line(target.host)} has no address ({_reason(error)})") from None
    addresses = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
    for text in addresses:
        check_address(ipaddress.ip_address(text.partition("%")[0]), allow_private=allow_private)
    return addresses


def signature(secret: str, body: bytes, *, at: int) -> str:
    """Return the value of `X-Facespace-Signature`: the time in seconds, and the HMAC-SHA256 of "time.body" in hex.

    >>> signature("fsw_secret", b"{}", at=1700000000)[:24]
    't=1700000000,v1=d3b5bacd'
    """
    made = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={made}"


def deliver(
    url: str,
    body: bytes,
    *,
    event_id: str,
    secret: str | None,
    allow_private: bool = False,
    timeout: float = TIMEOUT,
    tls: ssl.SSLContext | None = None,
) -> int:
    """POST one event to a webhook, and return the status of its answer, from 200 to 299.

    Redirects are not followed, no proxy is used, and the request takes at most `timeout` seconds after the name is resolved.
    Raise `TargetRefused` if the target must not be connected to, `DeliveryFailed` for any other failure.
    """
    target = checked_target(url, allow_private=allow_private)
    headers = {
        "Host": target.host_header,
        "Content-Type": "application/json",
        "User-Agent": f"facespace/{__version__}",
        EVENT_ID_HEADER: event_id,
        "Connection": "close",
    }
    if secret is not None:
        headers[SIGNATURE_HEADER] = signature(secret, body, at=int(time.time()))
    addresses = resolved(target, allow_private=allow_private)
    end = time.monotonic() + timeout
    failure = "it has no address"
    for address in addresses:
        try:
            return _posted(target, address, body, headers, end, tls)
        except _NotConnected as error:  # another address of the target may answer
            failure = str(error)
    raise DeliveryFailed(failure)


class _NotConnected(Exception):
    """The connection could not be made, so nothing was sent."""


class _Connection(http.client.HTTPConnection):
    """A connection to a checked address, even if the host's name resolves to another address by now."""

    def __init__(self, target: Target, address: str, end: float, tls: ssl.SSLContext | None) -> None:
        super().__init__(target.host, target.port)
        self._target = target
        self._address = address
        self._end = end
        self._tls = tls or ssl.create_default_context()

    def connect(self) -> None:
        """Connect to the address. With TLS, verify the certificate for the host's name."""
        left = max(self._end - time.monotonic(), 0.001)
        self.sock = socket.create_connection((self._address, self._target.port), timeout=left)
        if self._target.scheme == "https":
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._target.host)


def _posted(
    target: Target, address: str, body: bytes, headers: Mapping[str, str], end: float, tls: ssl.SSLContext | None
) -> int:
    connection = _Connection(target, address, end, tls)
    late = threading.Event()

    def cut_off() -> None:
        # A socket's time limit applies to each read; a target that sends a byte now and then would never end.
        late.set()
        if (sock := connection.sock) is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    watch = threading.Timer(max(end - time.monotonic(), 0.001), cut_off)
    watch.daemon = True
    watch.start()
    try:
        try:
            connection.connect()
        except OSError as error:
            reason = "no answer in time" if late.is_set() or isinstance(error, TimeoutError) else _reason(error)
            raise _NotConnected(f"cannot connect ({reason})") from None
        try:
            connection.request("POST", target.path, body, dict(headers))
            answer = connection.getresponse()
            status = answer.status
            answer.read(_MOST_READ)
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = "no answer in time" if late.is_set() or isinstance(error, TimeoutError) else _reason(error)
            raise DeliveryFailed(reason) from None
    finally:
        watch.cancel()
        connection.close()
    if late.is_set():  # the cut-off may have looked like the end of an answer
        raise DeliveryFailed("no answer in time")
    if 300 <= status < 400:
        raise DeliveryFailed(f"it answered {status}; redirects are not followed")
    if not 200 <= status < 300:
        raise DeliveryFailed(f"it answered {status}")
    return status


def _reason(error: BaseException) -> str:
    """Return the reason of an error without any text of the target: its class, or the system's name for it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {one_line(error.verify_message)}"
    if isinstance(error, ssl.SSLError):
        return "TLS could not be set up"
    if isinstance(error, OSError):
        return error.strerror or first_line(error)
    return f"no valid HTTP answer ({type(error).__name__})"
