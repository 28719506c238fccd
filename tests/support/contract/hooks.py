"""Hooks of schemathesis for the service: photos to send, operations not to call, and the server errors it may answer."""

from __future__ import annotations

import io
import os
from typing import Any

import schemathesis
from hypothesis import strategies as st
from PIL import Image

OWN_KEY = os.environ.get("FACESPACE_CONTRACT_KEY", "")  # id of the key that the run uses: it must not revoke itself
PHOTOS = [path for path in os.environ.get("FACESPACE_CONTRACT_PHOTOS", "").split(os.pathsep) if path]


def small(path: str) -> bytes:
    """A photo with one face, small enough to be analysed quickly."""
    with Image.open(path) as photo:
        photo.thumbnail((160, 160))
        data = io.BytesIO()
        photo.convert("RGB").save(data, "JPEG", quality=85)
    return data.getvalue()


def no_face() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (32, 24), (90, 120, 60)).save(data, "PNG")
    return data.getvalue()


FACES = list(map(small, PHOTOS))

photos = st.sampled_from([*FACES, *FACES, *FACES, no_face(), b"\xff\xd8\xff no photo", b""])
for media_type in ("image/*", "image/jpeg", "image/png", "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, photos)
schemathesis.openapi.format("binary", photos)


@schemathesis.check
def only_documented_503(ctx: Any, response: Any, case: Any) -> None:
    """Allow no server error except 503 `busy` with Retry-After. The gallery's store is always available here."""
    if response.status_code >= 500:
        assert response.status_code == 503, f"the answer {response.status_code}"
        assert response.headers.get("retry-after"), "503 without Retry-After"
        assert response.json()["code"] == "busy", f"503 {response.json()['code']}"


@schemathesis.check
def every_error_is_a_problem(ctx: Any, response: Any, case: Any) -> None:
    """Every error is a problem by RFC 9457, with the request id of the header."""
    if response.status_code >= 400 and case.method.upper() != "HEAD":
        kind = response.headers.get("content-type", [""])[0]
        assert kind.startswith("application/problem+json"), f"{response.status_code} as {kind!r}"
        problem = response.json()
        assert problem["status"] == response.status_code
        assert problem["type"] == f"urn:facespace:problem:{problem['code']}"
        assert [problem["request_id"]] == response.headers.get("x-request-id"), "another request id in the header"


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Keep the run inside this machine, short, and in possession of its key."""
    if OWN_KEY and case.path.startswith("/v1/keys/") and OWN_KEY in map(str, (case.path_parameters or {}).values()):
        case.path_parameters = dict.fromkeys(case.path_parameters, "none")
    if case.method.upper() == "DELETE" and (case.path_parameters or {}).get("name") == "default":
        # This collection is created again when it is used next, so the check for deleted resources would fail.
        case.path_parameters = {"name": "none"}
    if case.path == "/v1/events":  # otherwise a stream would not end
        query = dict(case.query or {})
        if str(query.get("wait", "")).replace(".", "", 1).isdigit() or "wait" not in query:
            case.query = {**query, "wait": 0.1}
    if case.path.startswith("/v1/webhooks") and isinstance(case.body, dict) and isinstance(case.body.get("url"), str):
        case.body["url"] = "http://127.0.0.1:9/hook"  # no other server is ever called


@schemathesis.hook
def before_load_schema(context: Any, raw_schema: dict[str, Any]) -> None:
    """Make most valid requests succeed, so that later requests can use their answers: existing collections, faces."""
    for path, methods in raw_schema["paths"].items():
        if path.startswith("/v1/events"):  # a missing collection simply has no events
            continue
        for operation in methods.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "collection" and parameter["in"] == "query":
                    parameter["schema"] = {"type": "string", "enum": ["default", "visitors"]}
    enroll = raw_schema["paths"].get("/v1/enroll")
    if enroll:
        properties = enroll["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
        properties["photo"] |= {"minItems": 1, "maxItems": 3}
        for name in ("box", "metadata", "external_id"):  # also fields of /v1/people
            properties.pop(name, None)
