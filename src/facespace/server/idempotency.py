"""`Idempotency-Key`: a request that is sent again gets its first answer and does not change anything twice.

A client that lost the connection does not know whether its request was carried out. It sends the same request with the same
key again. Only answers of success are kept, for a day and for the API key that made the request: an error changed nothing,
so the same request may simply be tried again. While a request runs, its worker renews a lease in the state file, so a
request whose worker was killed can be sent again a few seconds later.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import secrets
from collections.abc import AsyncIterator

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from facespace.server.access import Caller, named_collection
from facespace.server.answers import GONE, Answer, Answers
from facespace.server.problems import Problem, as_problem, problem_response, request_id_of, without_store
from facespace.server.service import service_of
from facespace.server.state import StateError

_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_KEPT_HEADERS = ("content-type", "location", "etag")
# Requests that change nothing, and requests whose answer contains a secret, which is never stored.
_LEFT_OUT = re.compile(
    r"/v1/(detect|embed|identify|verify|keys|webhooks)(/.*)?|/v1/unknowns/search|/v1/collections/.*/import"
)


class Idempotency:
    """The middleware that repeats the first answer. It reads the whole body of a request that has the header.

    `KeyCheck` runs before it and sets the caller.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer from the kept answers, or pass the request on and keep its answer."""
        path = scope["path"].removeprefix(scope.get("root_path", "")) if scope["type"] == "http" else ""
        keys = Headers(scope=scope).getlist("idempotency-key") if path else []
        if not keys or not keeps_answers(scope["method"], path):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            _check(keys)
            body = await _body(request, service_of(request).settings.max_body)
            if body is None:
                return
            await self._answer(request, request.state.caller, keys[0], body, send)
        except (Problem, StateError) as error:
            problem = as_problem(error)
            assert problem is not None
            await problem_response(problem, request_id_of(request))(scope, receive, send)

    async def _answer(self, request: Request, caller: Caller, key: str, body: bytes, send: Send) -> None:
        answers = service_of(request).answers
        owner = secrets.token_hex(8)
        hashed = hashlib.sha256(key.encode()).hexdigest()
        asked = fingerprint(request, body)
        collection = made_collection(request, body) or named_collection(request)
        given = await asyncio.to_thread(answers.begin, caller.key_id or "", hashed, asked, collection, owner)
        if given is not None:
            if given.status == GONE:
                raise Problem(409, "conflict", "this request was carried out before, but its answer was not kept")
            headers = {**given.headers, "Idempotency-Replayed": "true"}
            await Response(given.body, given.status, headers)(request.scope, request.receive, send)
            return
        held = _Held()
        try:
            async with _renewed(answers, owner):
                await self._app(request.scope, _replay(body, request.receive), held.take)
        except Exception:  # a cancelled request is not caught: its thread may go on, so its lease must expire instead
            await asyncio.to_thread(answers.release, owner)
            raise
        with contextlib.suppress(StateError):  # the change is made; answer even if the answer cannot be kept
            if 200 <= held.status < 300:
                await asyncio.to_thread(answers.finish, owner, held.answer())
            else:
                await asyncio.to_thread(answers.release, owner)
        for message in held.messages:
            await send(message)


class Erasure:
    """The middleware that erases a collection's kept answers before it answers a request that erased a person there."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and erase the kept answers when its answer begins."""
        path = scope["path"].removeprefix(scope.get("root_path", "")) if scope["type"] == "http" else ""
        erases = (scope.get("method") == "POST" and path.endswith("/erase")) or (
            scope.get("method") == "DELETE" and path.startswith("/v1/collections/")
        )

        failed = False

        async def erased(message: Message) -> None:
            nonlocal failed
            if message["type"] == "http.response.start" and message["status"] < 300:
                request = Request(scope)
                try:
                    await asyncio.to_thread(service_of(request).answers.erase, named_collection(request))
                except StateError as error:
                    failed = True
                    detail = f"erased from the gallery, but not from the answers kept for a day: {without_store(error)}"
                    problem = Problem(503, "store_unavailable", detail, headers={"Retry-After": "5"})
                    await problem_response(problem, request_id_of(request))(scope, receive, send)
            if not failed:
                await send(message)

        await self._app(scope, receive, erased if erases else send)


def keeps_answers(method: str, path: str) -> bool:
    """Return whether an operation supports the header `Idempotency-Key`.

    These are the POST operations that change something, except imports and those whose answer may contain a secret.

    >>> keeps_answers("POST", "/v1/enroll"), keeps_answers("POST", "/v1/identify"), keeps_answers("POST", "/v1/keys")
    (True, False, False)
    """
    return method == "POST" and path.startswith("/v1/") and not _LEFT_OUT.fullmatch(path)


def made_collection(request: Request, body: bytes) -> str:
    """Return the name of the collection that a request creates, or "". The kept answer is erased with that collection."""
    if request.scope["path"].removeprefix(request.scope.get("root_path", "")) != "/v1/collections":
        return ""
    try:
        name = json.loads(body)["name"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return name if isinstance(name, str) else ""


def fingerprint(request: Request, body: bytes) -> str:
    """Return the hash of the whole request. A form's boundary is left out, because it differs each time."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind == b"multipart/form-data" and boundary:
        body = body.replace(b"--" + boundary, b"--")
    digest = hashlib.sha256()
    for part in (request.method.encode(), request.scope["path"].encode(), request.scope["query_string"], kind, body):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _check(keys: list[str]) -> None:
    if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
        raise Problem(422, "invalid", "Idempotency-Key must be given once, with 1 to 200 visible ASCII characters")


class _Held:
    """An answer that is not sent yet."""

    def __init__(self) -> None:
        self.status = 500
        self.messages: list[Message] = []

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        self.messages.append(message)

    def answer(self) -> Answer:
        headers = Headers(raw=self.messages[0]["headers"])
        body = b"".join(message.get("body", b"") for message in self.messages[1:])
        return Answer(self.status, {name: headers[name] for name in _KEPT_HEADERS if name in headers}, body)


@contextlib.asynccontextmanager
async def _renewed(answers: Answers, owner: str) -> AsyncIterator[None]:
    """Renew the lease of a request until the block ends."""

    async def renew() -> None:
        while True:
            await asyncio.sleep(answers.lease_seconds / 3)
            with contextlib.suppress(StateError):
                await asyncio.to_thread(answers.renew, owner)

    task = asyncio.create_task(renew())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _body(request: Request, most: int) -> bytes | None:
    """Return the body, or None if the client disconnected. Raise `Problem` 413 for more than `most` bytes."""
    parts, size = [], 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise Problem(413, "too_large", f"a request may have at most {most:,} bytes")
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body that was read already, and then passes on the client's messages."""
    is_given = False

    async def received() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return received
