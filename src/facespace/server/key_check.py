"""Checks the key of a request before anything of its body is read."""

from __future__ import annotations

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from facespace.server.access import counted_caller
from facespace.server.problems import as_problem, problem_response, request_id_of

PUBLIC = ("/v1/openapi.json",)  # the paths below /v1/ that need no key


class KeyCheck:
    """The middleware that admits only callers with a valid key to the API, and counts their requests.

    It stores the caller in the request. Each route then checks what the caller may do (`access.allowed`).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 or 429, or pass the request on with its caller."""
        if scope["type"] == "http" and needs_key(scope["path"].removeprefix(scope.get("root_path", ""))):
            request = Request(scope, receive)
            try:
                request.state.caller = counted_caller(request)
            except Exception as error:
                problem = as_problem(error)
                if problem is None:
                    raise
                await problem_response(problem, request_id_of(request))(scope, receive, send)
                return
        await self._app(scope, receive, send)


def needs_key(path: str) -> bool:
    """Return whether a path belongs to the API, even if there is no such operation.

    >>> needs_key("/v1/people"), needs_key("/v1/openapi.json"), needs_key("/healthz")
    (True, False, False)
    """
    return path == "/metrics" or (path.startswith("/v1/") and path not in PUBLIC)
