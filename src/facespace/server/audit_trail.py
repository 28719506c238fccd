"""Writes the audit log: the middleware that records every use of the routes that only administrators may call.

It also records refused calls, and every erasure, whatever role it needs. Reading is not recorded, except for exports,
because they take data out. An entry is on the disk before the caller gets the answer.
"""

from __future__ import annotations

import asyncio

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from facespace.server.access import Caller, Needs, address_of, named_collection
from facespace.server.problems import Problem, problem_response, request_id_of, without_store
from facespace.server.service import service_of
from facespace.server.state import StateError


class AuditTrail:
    """The middleware that adds entries to `Audit` before the answer is sent.

    A route adds details to its entry by `request.state.audit = {…}`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and record it when its answer begins."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        failed = False

        async def recorded(message: Message) -> None:
            nonlocal failed
            if failed:
                return
            if message["type"] == "http.response.start" and _is_recorded(scope):
                try:
                    await asyncio.to_thread(_record, scope, int(message["status"]))
                except StateError as error:
                    failed = True
                    detail = (
                        f"this could not be written to the audit log, although it may be done: {without_store(error)}"
                    )
                    problem = Problem(503, "store_unavailable", detail, headers={"Retry-After": "5"})
                    await problem_response(problem, request_id_of(Request(scope)))(scope, receive, send)
                    return
            await send(message)

        await self._app(scope, receive, recorded)


def _is_recorded(scope: Scope) -> bool:
    needs = scope.get("state", {}).get("needs")
    if not isinstance(needs, Needs):
        return False
    operation = _operation(scope)
    if "erase" in operation or "export" in operation:
        return True
    return needs.roles == ("admin",) and scope["method"] not in ("GET", "HEAD")


def _operation(scope: Scope) -> str:
    route = scope.get("route")
    return str(getattr(route, "operation_id", None) or getattr(route, "name", ""))


def _record(scope: Scope, status: int) -> None:
    request = Request(scope)
    service = service_of(request)
    caller: Caller = request.state.caller
    needs: Needs = request.state.needs
    details = getattr(request.state, "audit", None)
    try:
        collection = named_collection(request) if needs.scope == "named" else caller.collection
    except Problem:
        collection = None
    service.audit.record(
        caller.actor, _operation(scope), key=caller.key_id, collection=collection, path=scope["path"], status=status,
        address=address_of(request), request=request_id_of(request), details=details if isinstance(details, dict) else None,
    )  # fmt: skip
