"""Errors as problem details (RFC 9457): `application/problem+json` with a stable code and the id of the request."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from facespace.errors import FacespaceError, GalleryError, ImageError, ModelError, UnknownPerson
from facespace.identification.edits import NameTaken, NoSuchPhoto, Refused, Stale
from facespace.identification.stores.protocol import Conflict, NoSuchCollection
from facespace.io.text import plain_text
from facespace.server.logs import log
from facespace.server.state import StateError

MEDIA_TYPE = "application/problem+json"

# The HTTP status and title of each code. The codes are part of the API and never change.
PROBLEMS: dict[str, tuple[int, str]] = {
    "malformed": (400, "The request is malformed"),
    "unauthorized": (401, "A valid key is needed"),
    "forbidden": (403, "The key does not allow this"),
    "other_collection": (403, "The key is for another collection"),
    "cross_site": (403, "Requests from pages of other sites are refused"),
    "not_found": (404, "There is nothing at this address"),
    "no_such_person": (404, "There is no such person"),
    "no_such_photo": (404, "There is no such photo"),
    "no_such_collection": (404, "There is no such collection"),
    "method_not_allowed": (405, "This address does not support this method"),
    "timeout": (408, "The request did not arrive in time"),
    "name_taken": (409, "Another person has this name"),
    "conflict": (409, "Another request changed this first"),
    "in_progress": (409, "The same request is still running"),
    "undo_refused": (409, "This change cannot be undone"),
    "stale": (412, "The person was changed since it was read"),
    "too_large": (413, "The request is too large"),
    "unsupported_media_type": (415, "The body has an unsupported type"),
    "invalid": (422, "A value is not valid"),
    "unreadable_image": (422, "The photo cannot be read"),
    "no_face": (422, "No face was found"),
    "several_faces": (422, "Several faces were found where one is expected"),
    "photo_needed": (422, "A photo is needed"),
    "idempotency_key_reused": (422, "The Idempotency-Key was used for another request"),
    "if_match_needed": (428, "If-Match is needed"),
    "too_many_requests": (429, "Too many requests"),
    "headers_too_large": (431, "The headers are too large"),
    "internal_error": (500, "The service failed"),
    "busy": (503, "The service is busy"),
    "store_unavailable": (503, "The gallery's store cannot be reached"),
    "shutting_down": (503, "The service is shutting down"),
}
_OF_STATUS = {
    400: "malformed", 401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method_not_allowed", 408: "timeout",
    409: "conflict", 412: "stale", 413: "too_large", 415: "unsupported_media_type", 422: "invalid", 428: "if_match_needed",
    429: "too_many_requests", 431: "headers_too_large", 503: "busy",
}  # fmt: skip


class Problem(HTTPException):
    """The answer to an operation that fails. Raise it anywhere while a request is handled.

    `code` is one of `PROBLEMS`. `detail` says in one line what was expected and what was given. `errors` are
    dicts `{"where": …, "message": …}`, and `more` are further fields of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[Mapping[str, Any]] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(status, detail, dict(headers) if headers else None)
        self.status, self.code, self.errors, self.more = status, code, errors, more


def busy(detail: str, seconds: int = 1) -> Problem:
    """Return `Problem` 503 with Retry-After."""
    return Problem(503, "busy", detail, headers={"Retry-After": str(seconds)})


class ErrorOfField(BaseModel):
    """One error in a request."""

    where: str = Field(description="The parameter, field or part, such as `query.max_faces`.")
    message: str


class ProblemModel(BaseModel):
    """An error as problem details (RFC 9457); some codes add fields of their own."""

    type: str = Field(description="`urn:facespace:problem:` and the code.")
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[ErrorOfField] | None = None


def problem_body(
    status: int,
    code: str,
    detail: str,
    request_id: str,
    *,
    errors: Sequence[Mapping[str, Any]] | None = None,
    more: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the JSON of a problem."""
    title = PROBLEMS.get(code, (status, "The request failed"))[1]
    held: dict[str, Any] = {
        "type": f"urn:facespace:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
    }
    if errors:
        held["errors"] = list(errors)
    return json.dumps({**held, **(more or {})}, ensure_ascii=False).encode("utf-8", "replace")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses=` of a route that may answer these statuses, and those that every route may answer."""
    always = (400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 500, 503)
    return {status: _documented(status) for status in sorted({*always, *statuses})}


def _documented(status: int) -> dict[str, Any]:
    codes = [code for code, (of, _) in PROBLEMS.items() if of == status]
    code = codes[0]
    example = json.loads(problem_body(status, code, "What was expected, what came, and what to do.", "3f2a9c0d1b7e"))
    entry: dict[str, Any] = {
        "description": "; ".join(f"`{one}`: {PROBLEMS[one][1]}" for one in codes),
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemModel"}, "example": example}},
    }
    if status in (429, 503):
        entry["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
    if status == 401:
        entry["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    if status == 405:
        entry["headers"] = {"Allow": {"description": "The supported methods.", "schema": {"type": "string"}}}
    return entry


def as_problem(error: Exception) -> Problem | None:
    """Return the problem for an exception, or None if the exception is a failure of the service."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        code = _OF_STATUS.get(error.status_code, "malformed" if error.status_code < 500 else "internal_error")
        return Problem(error.status_code, code, str(error.detail), headers=error.headers)
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, UnknownPerson):
        return Problem(404, "no_such_person", without_store(error))
    if isinstance(error, NoSuchCollection):
        return Problem(404, "no_such_collection", "there is no collection with this name")
    if isinstance(error, Stale):
        return Problem(412, "stale", without_store(error))
    if isinstance(error, NameTaken):
        return Problem(409, "name_taken", without_store(error), other=str(error.other))
    if isinstance(error, NoSuchPhoto):
        return Problem(404, "no_such_photo", without_store(error))
    if isinstance(error, Refused):
        return Problem(409, "conflict", without_store(error))
    if isinstance(error, Conflict):
        return Problem(409, "conflict", without_store(error))
    if isinstance(error, (GalleryError, StateError)):
        log("the store cannot be used", level=logging.ERROR, reason=str(error))
        return Problem(503, "store_unavailable", without_store(error), headers={"Retry-After": "5"})
    if isinstance(error, ImageError):
        return Problem(422, "unreadable_image", error.reason)
    if isinstance(error, ModelError):
        log("a model cannot be used", level=logging.ERROR, reason=str(error))
        return Problem(503, "store_unavailable", without_store(error), headers={"Retry-After": "60"})
    return None


def without_store(error: Exception) -> str:
    """Return a store's error message without the store's file or address, which clients must not see.

    >>> without_store(GalleryError("people.gallery: the file is damaged"))
    'the file is damaged'
    """
    place, colon, text = str(error).partition(": ")
    return text if colon and "'" not in place else str(error)


def _invalid(error: RequestValidationError) -> Problem:
    found = error.errors()
    if any(one.get("type") == "json_invalid" for one in found):
        return Problem(400, "malformed", "the body is not valid JSON")
    errors = [
        {"where": ".".join(str(part) for part in one["loc"])[:200], "message": str(one["msg"])[:300]}
        for one in found[:20]
    ]
    detail = "; ".join(f"{one['where']}: {one['message']}" for one in errors[:3])
    return Problem(422, "invalid", detail, errors=errors)


def request_id_of(request: Request) -> str:
    """Return the id of the request, which is in its answer's X-Request-Id."""
    return str(request.scope.get("request_id", ""))


def problem_response(problem: Problem, request_id: str) -> Response:
    """Return the response for a problem."""
    body = problem_body(
        problem.status, problem.code, str(problem.detail), request_id, errors=problem.errors, more=problem.more
    )
    return Response(body, problem.status, dict(problem.headers or {}), MEDIA_TYPE)


def add_problem_handlers(app: FastAPI, routers: Sequence[APIRouter]) -> None:
    """Make the app answer with a problem if a route raises an HTTP error, a validation error or a `FacespaceError`.

    The answer 405 lists the methods that the address supports.
    """

    async def handle(request: Request, error: Exception) -> Response:
        if isinstance(error, NoSuchCollection) and error.removed:  # by another process; a new one may reuse its name
            service = request.app.state.service
            await service.engine.run(service.galleries.forget, error.removed)
        problem = as_problem(error)
        if problem is None:  # a failure of the service: it is logged, and answered with 500
            raise error
        if problem.status == 405:
            allowed = _allowed_methods(routers, request)
            detail = f"this address supports {allowed}, got {plain_text(request.method)[:20]}"
            problem = Problem(405, "method_not_allowed", detail, headers={"Allow": allowed})
        elif isinstance(error, HTTPException) and not isinstance(error, Problem) and problem.status == 404:
            problem = Problem(
                404, "not_found", "there is nothing at this address; /v1/openapi.json lists all addresses"
            )
        return problem_response(problem, request_id_of(request))

    for kind in (HTTPException, RequestValidationError, FacespaceError):
        app.add_exception_handler(kind, handle)


def _allowed_methods(routers: Sequence[APIRouter], request: Request) -> str:
    """Return the methods of an address. A route such as /v1/unknowns/name takes precedence over /v1/unknowns/{id}."""
    named: set[str] = set()
    own: set[str] = set()
    for router in routers:
        for route in router.routes:
            if route.matches(request.scope)[0] is not Match.NONE:
                methods = set(getattr(route, "methods", None) or ())
                named |= methods
                own |= methods if "{" not in getattr(route, "path", "{") else set()
    return ", ".join(sorted(own or named))
