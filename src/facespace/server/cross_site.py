"""Refuses requests that other web pages send through the user's browser.

A page of any site can make its visitor's browser send requests to `http://127.0.0.1:8000`, where a service without keys may
listen. Browsers send the site of the page that made a request (`Origin`, `Sec-Fetch-Site`). A site that points its own name
to this machine's address (DNS rebinding) is recognised by its name in `Host`.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from facespace.io.text import one_line
from facespace.server.access import is_loopback
from facespace.server.problems import Problem, problem_response
from facespace.server.settings import Settings

_EVERY_ADDRESS = ("0.0.0.0", "::", "")  # noqa: S104 - compared with, not bound
_DEFAULT_PORTS = {"http": 80, "https": 443}


class CrossSite:
    """The middleware that refuses requests from pages of other sites, before it reads their bodies."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 400 or 403, or pass the request on."""
        if scope["type"] == "http":
            problem = check_origin(self._settings, scope["method"], scope["path"], Headers(scope=scope))
            if problem is not None:
                await problem_response(problem, str(scope.get("request_id", "")))(scope, receive, send)
                return
        await self._app(scope, receive, send)


def check_origin(settings: Settings, method: str, path: str, headers: Headers) -> Problem | None:
    """Return the problem with a request's Host, Origin and Sec-Fetch-Site, or None if the request may pass.

    >>> settings = Settings("people.gallery")
    >>> check_origin(settings, "GET", "/", Headers({"host": "localhost:8000"})) is None
    True
    >>> check_origin(settings, "GET", "/", Headers({"host": "evil.example"})).code
    'cross_site'
    """
    hosts = headers.getlist("host")
    if len(hosts) != 1:
        return Problem(400, "malformed", f"a request must have one Host header, got {len(hosts)}")
    host = _split(f"//{hosts[0]}")
    if host is None:
        return Problem(400, "malformed", f"the Host header cannot be read: {one_line(hosts[0])[:100]}")
    if not _is_ours(settings, host[0]):
        return _refused(
            f"the service is not called {one_line(host[0])[:100]}; to allow that name, start it with --host-name"
        )
    origins = headers.getlist("origin")
    if origins and not all(_is_same(settings, origin, host) for origin in origins):
        return _refused(f"pages of {one_line(origins[0])[:100]} may not use this service")
    site = headers.get("sec-fetch-site", "none").lower()
    if site not in ("none", "same-origin") and not _is_link(method, path, headers):
        return _refused("pages of other sites may not use this service")
    return None


def _split(address: str) -> tuple[str, int | None] | None:
    """Return the host and port of an address (port None if unknown), or None if the address is invalid."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        return None
    return host.rstrip("."), port if port is not None else _DEFAULT_PORTS.get(parts.scheme)


def _is_ours(settings: Settings, host: str) -> bool:
    # A service that listens at every address always needs keys, and pages of other sites have no key.
    if settings.host in _EVERY_ADDRESS or is_loopback(host):
        return True
    return host in {settings.host.strip("[]").lower(), *(name.lower().rstrip(".") for name in settings.hosts)}


def _is_same(settings: Settings, origin: str, host: tuple[str, int | None]) -> bool:
    """Return whether a page's origin is the service itself: the request's host, or a name from `--host-name`."""
    given = _split(origin)
    default = _DEFAULT_PORTS.get(urlsplit(origin).scheme) if given else None
    if given is None or default is None:  # `null`, or a page that was not loaded over HTTP
        return False
    if given[0] == host[0] and given[1] == (host[1] or default):
        return True
    return given[0] in {name.lower().rstrip(".") for name in settings.hosts} and given[1] == default


def _is_link(method: str, path: str, headers: Headers) -> bool:
    """Return whether the browser followed a link to the page, which is not a use of the API."""
    return (
        method == "GET"
        and "/v1/" not in path
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )


def _refused(detail: str) -> Problem:
    return Problem(403, "cross_site", detail)
