"""Headers that restrict what a browser may do with an answer."""

from __future__ import annotations

from collections.abc import Iterable

# The page loads nothing from elsewhere, runs no inline script, and must not be framed. Chosen photos are shown from blobs.
# Styles that scripts set through the DOM need no exception.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'", "img-src 'self' blob: data:", "media-src 'self' blob:", "object-src 'none'",
        "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'",
    )
)  # fmt: skip
_OF_API = "default-src 'none'; frame-ancestors 'none'"
_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=(), payment=(), usb=()"),
)
_API = ("/v1/", "/healthz", "/readyz", "/metrics")


def security_headers(path: str, given: Iterable[tuple[bytes, bytes]] = ()) -> list[tuple[bytes, bytes]]:
    """Return the headers for the answer at a path, except those that are already given.

    Browsers and proxies must not store answers of the API, because they contain people's faces and names.

    >>> dict(security_headers("/v1/people"))[b"cache-control"]
    b'no-store'
    """
    is_api = path.startswith(_API)
    policy = _OF_API if is_api else CONTENT_SECURITY_POLICY
    there = {name.lower() for name, _ in given}
    headers = (*_ALWAYS, (b"content-security-policy", policy.encode()), (b"cache-control", b"no-store"))
    return [(name, value) for name, value in headers if name not in there]
