"""The description of the API at /v1/openapi.json, and the parts of it that several routes share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.responses import Response

from facespace.server.idempotency import keeps_answers
from facespace.server.openapi_examples import give_examples
from facespace.server.problems import ProblemModel, problems

_DESCRIPTION = """\
Finds faces in photos, compares them, and names the people who are enrolled. A face gets a name only if its similarity reaches
the threshold. Photos are sent in the body, as raw bytes or as files of a form; addresses and paths are not accepted.

Send a key as `Authorization: Bearer …` or as `X-API-Key`. Errors are problem details (RFC 9457) with a stable `code`. Every
answer has an `X-Request-Id`, which also appears in the service's log.
"""
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A unique text chosen by the client. For a day, the same request with the same text gets its first answer and"
    " does not change anything again.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,200}$"},
    "example": "8f14e45f-ceea-467f-a0e6-3b9d2a1c7d55",
}
_BINARY = {"type": "string", "format": "binary"}


def describe(app: FastAPI, root_path: str = "") -> None:
    """Make `app.openapi` return the complete description. `root_path` is the path at which a proxy serves the app."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title, version=app.version, summary=app.summary, description=_DESCRIPTION, routes=app.routes
            )
            if root_path:
                schema["servers"] = [{"url": root_path}]
            app.openapi_schema = _completed(schema)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


router = APIRouter(tags=["description"])


def _completed(schema: dict[str, Any]) -> dict[str, Any]:
    """Add the model of problems and the two ways to send a key, and remove FastAPI's own errors."""
    components = schema.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    model = ProblemModel.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(model.pop("$defs", {}))
    schemas["ProblemModel"] = model
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "A key made by `facespace serve key create`."},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            if keeps_answers(method.upper(), path):
                operation.setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
                operation["responses"].setdefault("409", problems(409)[409])
            give_examples(operation, schemas)
    schema["security"] = [{"bearer": []}, {"header": []}, {}]
    return schema


def photo_body(
    *,
    field: str = "photo",
    several: bool = False,
    raw: bool = True,
    fields: Mapping[str, Any] | None = None,
    required: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that takes a form with one photo, or `several` photos, in `field`.

    `fields` are the schemas of the form's other fields. With `raw`, the body may be a photo, if no field is `required`.
    """
    photos: dict[str, Any] = {"type": "array", "items": _BINARY, "minItems": 1} if several else _BINARY
    form = {
        "schema": {
            "type": "object",
            "properties": {field: photos, **(fields or {})},
            "required": [field, *required],
        },
        "encoding": {field: {"contentType": "image/*, application/octet-stream"}},
    }
    content: dict[str, Any] = {"multipart/form-data": form}
    if raw and not required:
        content |= {
            kind: {"schema": _BINARY} for kind in ("image/jpeg", "image/png", "image/*", "application/octet-stream")
        }
    return {"requestBody": {"required": True, "content": content}}


def answer(
    model: Any, example: Any, *, description: str = "Done", status: int = 200, also: tuple[int, ...] = ()
) -> dict[int | str, dict[str, Any]]:
    """Return the `responses=` of a route: its answer with an example, and the problems that it may answer.

    These are the problems of every route, and those with the HTTP statuses in `also`.
    """
    documented: dict[str, Any] = {"description": description, "content": {"application/json": {"example": example}}}
    if model is not None:
        documented["model"] = model
    return {**problems(*also), status: documented}


@router.get(
    "/v1/openapi.json",
    operation_id="openapi",
    summary="This description",
    response_class=Response,
    responses={
        **problems(),
        200: {"content": {"application/json": {"schema": {"type": "object"}, "example": {"openapi": "3.1.0"}}}},
    },
)
async def openapi_json(request: Request) -> Response:
    """Return the description of the API as OpenAPI 3.1."""
    app: FastAPI = request.app
    return Response(json.dumps(app.openapi(), ensure_ascii=False).encode(), media_type="application/json")
