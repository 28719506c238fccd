"""Headers that tell a browser what it must not do with an answer."""

from __future__ import annotations

from collections.abc import Iterable

# The page loads nothing from elsewhere, runs no script of its own text and is framed by nobody. Photos that were chosen are
# shown from blobs. Styles that scripts set by the DOM need no exception.
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
    """The headers for the answer at a path, without those that are given already.

    Answers of the API are never kept by a browser or a proxy, for they have people's faces and names.

    >>> dict(security_headers("/v1/people"))[b"cache-control"]
    b'no-store'
    """
    is_api = path.startswith(_API)
    policy = _OF_API if is_api else CONTENT_SECURITY_POLICY
    there = {name.lower() for name, _ in given}
    wanted = (*_ALWAYS, (b"content-security-policy", policy.encode()), (b"cache-control", b"no-store"))
    return [(name, value) for name, value in wanted if name not in there]
