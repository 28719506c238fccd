"""Access control: every route except the public ones has the dependency `allowed(role)`, which checks the caller's key."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import Request
from fastapi.security.utils import get_authorization_scheme_param

from facespace.identification.stores.actors import act_as, user_name
from facespace.server.keys import GRANTS, ROLES, Role
from facespace.server.problems import Problem
from facespace.server.service import Service, service_of

# Which collections a route uses: the one that the request names; those of the caller, which the route checks itself;
# or all of the service, which needs a key that is valid for all collections.
Scope = Literal["named", "callers", "all"]
DEFAULT_COLLECTION = "default"
# Headers that proxies add to a request, in addition to X-Forwarded-…
_OF_PROXIES = frozenset({"forwarded", "via", "x-real-ip", "x-client-ip", "cf-connecting-ip", "true-client-ip"})


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request: a key or, with `key_id` None, a process on this machine while the service has no keys.

    `collection` is the only collection that the caller may use, or None for all.
    """

    key_id: str | None
    label: str
    role: Role
    collection: str | None

    @property
    def actor(self) -> str:
        """The caller's name in the logs."""
        if self.key_id is None:
            return f"{user_name()} over HTTP"
        return f"{self.label} (key {self.key_id})" if self.label else f"key {self.key_id}"

    def may(self, need: Role) -> bool:
        """Return whether the caller's role includes `need`."""
        return need in GRANTS.get(self.role, frozenset())


@dataclass(frozen=True, slots=True)
class Needs:
    """Requirements of a route: one of these `roles`, and access to the collections in `scope`."""

    roles: tuple[Role, ...]
    scope: Scope


Dependency = Callable[..., Coroutine[Any, Any, Caller]]


def allowed(*roles: Role, scope: Scope = "named") -> Dependency:
    """Return the dependency of a route whose callers need one of these roles. The dependency returns the `Caller`.

    With `scope="named"`, a key that is limited to one collection may call the route for that collection only: the one in
    `?collection=` (or "default"), or the `{name}` of a route below `/v1/collections/`. With "callers", the route itself
    limits its work to `caller.collection`. With "all", only keys without a limit may call the route.

    The dependency raises `Problem`: 401 `unauthorized`, 403 `forbidden` or `other_collection`, 429 `too_many_requests`.
    """
    if not roles or not set(roles) <= set(ROLES):
        raise ValueError(f"a route must need one or more of the roles {', '.join(ROLES)}, got {roles!r}")
    needs = Needs(roles, scope)

    async def caller_of(request: Request) -> Caller:
        caller = getattr(request.state, "caller", None) or counted_caller(request)
        request.state.caller = caller
        request.state.needs = needs
        act_as(caller.actor)
        authorize(request, caller, needs)
        return caller

    caller_of.needs = needs  # type: ignore[attr-defined]
    return caller_of


def key_text(request: Request) -> str | None:
    """Return the key in the header `Authorization: Bearer …`, or without this header, in `X-API-Key: …`.

    Returns None if neither header is there, and "" if `Authorization` has a scheme other than Bearer.
    """
    given = request.headers.get("authorization")
    if given is None:
        return request.headers.get("x-api-key")
    scheme, text = get_authorization_scheme_param(given)
    return text if scheme.lower() == "bearer" else ""


def is_open(service: Service) -> bool:
    """Return whether callers need no key: the service listens on a loopback address and no key has been made yet.

    Behind a proxy, callers always need a key, because requests from anywhere reach the service from this machine.
    """
    settings = service.settings
    if settings.forwarded_from or settings.root_path or not is_loopback(settings.host):
        return False
    return not service.keys.any()


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a host name or address.

    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.com")]
    [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def authenticate(request: Request) -> Caller:
    """Return the caller of a request. Raise `Problem` 401 if its key is not valid, or if it has no key but needs one."""
    service = service_of(request)
    text = key_text(request)
    record = service.keys.check(text) if text else None
    if record is not None:
        return Caller(record.id, record.label, record.role, record.collection)
    if text is not None:
        raise _unauthorized("the key is wrong, expired or revoked; make a new one (facespace serve key create)")
    if not is_open(service):
        raise _unauthorized("a key is needed: send Authorization: Bearer <key>")
    if any(name in _OF_PROXIES or name.startswith("x-forwarded-") for name in request.headers):
        raise _unauthorized("this request came through a proxy: a key is needed (facespace serve key create)")
    return Caller(None, "", "admin", None)


def counted_caller(request: Request) -> Caller:
    """Return the caller, and count the request. Requests without a valid key are counted by their address."""
    try:
        caller = authenticate(request)
    except Problem:
        take_rate(request, None)
        raise
    take_rate(request, caller)
    return caller


def take_rate(request: Request, caller: Caller | None) -> None:
    """Count a request against its key, or its address if it has no key. Raise `Problem` 429 for too many requests."""
    rates = service_of(request).rates
    seconds = rates.take(caller.key_id if caller and caller.key_id else address_of(request))
    if seconds > 0:
        raise Problem(
            429,
            "too_many_requests",
            f"at most {rates.per_second:g} requests a second on average; try again in {math.ceil(seconds)} s",
            headers={"Retry-After": str(math.ceil(seconds))},
        )


def authorize(request: Request, caller: Caller, needs: Needs) -> None:
    """Raise `Problem` 403 unless the caller may use the route."""
    if not any(caller.may(role) for role in needs.roles):
        *rest, last = [role for role in ROLES if any(need in GRANTS[role] for need in needs.roles)]
        needed = f"{', '.join(rest)} or {last}" if rest else last
        raise Problem(403, "forbidden", f"this needs a key with the role {needed}; this key has the role {caller.role}")
    if caller.collection is None or needs.scope == "callers":
        return
    if needs.scope == "all":
        raise Problem(403, "other_collection", f"this key is only valid for the collection {caller.collection!r}")
    if named_collection(request) != caller.collection:
        raise Problem(
            403,
            "other_collection",
            f"this key is only valid for the collection {caller.collection!r}: add ?collection= with its name",
        )


def named_collection(request: Request) -> str:
    """Return the collection that a request names, or "default". Raise `Problem` 400 if it names several."""
    named = request.query_params.getlist("collection")
    if len(named) > 1:
        raise Problem(400, "malformed", f"collection must be given once, got {len(named)} values")
    if getattr(request.scope.get("route"), "path", "").startswith("/v1/collections/{name}"):
        return str(request.path_params["name"])
    return named[0] if named else DEFAULT_COLLECTION


def address_of(request: Request) -> str:
    """Return the address of a caller without a key. For IPv6 it is the /64 network, which usually belongs to one caller.

    >>> from types import SimpleNamespace as N
    >>> address_of(N(client=N(host="2001:db8::1:2"))), address_of(N(client=None))
    ('2001:db8::/64', 'nowhere')
    """
    host = request.client.host if request.client else "nowhere"
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else str(address)


def _unauthorized(detail: str) -> Problem:
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": 'Bearer realm="facespace"'})
