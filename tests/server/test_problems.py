"""Every error is a problem with a stable code and the request's id."""

from __future__ import annotations

import json

import pytest
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from facespace.errors import GalleryError, ImageError, ModelError, UnknownPerson
from facespace.identification.stores.protocol import Conflict, NoSuchCollection
from facespace.server import problems as problems_module
from facespace.server.problems import PROBLEMS, Problem, as_problem, problem_body, problems
from facespace.server.state import StateError
from support.service import running_service


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with running_service(tmp_path_factory.mktemp("problems")) as client:
        yield client


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Problem(409, "name_taken", "x"), 409, "name_taken"),
        (HTTPException(404), 404, "not_found"),
        (HTTPException(405), 405, "method_not_allowed"),
        (HTTPException(400, "x"), 400, "malformed"),
        (RequestValidationError([{"type": "json_invalid", "loc": ("body", 3), "msg": "x"}]), 400, "malformed"),
        (RequestValidationError([{"type": "missing", "loc": ("query", "a"), "msg": "needed"}]), 422, "invalid"),
        (UnknownPerson("g: unknown"), 404, "no_such_person"),
        (NoSuchCollection("x", []), 404, "no_such_collection"),
        (Conflict("g: changed"), 409, "conflict"),
        (GalleryError("g: away"), 503, "store_unavailable"),
        (ModelError("m: away"), 503, "store_unavailable"),
        (ImageError("<bytes>", "no image"), 422, "unreadable_image"),
    ],
)
def test_errors_have_their_problem(error, status, code):
    problem = as_problem(error)
    assert (problem.status, problem.code) == (status, code)
    if status in (429, 503):
        assert int(problem.headers["Retry-After"]) > 0


@pytest.mark.parametrize("kind", [GalleryError, StateError, ModelError])
def test_the_address_of_the_store_is_only_in_the_log(kind, monkeypatch):
    written = []
    monkeypatch.setattr(problems_module, "log", lambda message, **fields: written.append(fields["reason"]))
    problem = as_problem(kind("/srv/faces/people.gallery: the disk is full"))
    assert problem.detail == "the disk is full"
    assert written == ["/srv/faces/people.gallery: the disk is full"]


def test_other_errors_are_failures():
    assert as_problem(RuntimeError("inside")) is None


def test_a_body_has_the_members_of_rfc_9457():
    held = json.loads(problem_body(404, "no_such_person", "unknown", "id-1", errors=[{"where": "a", "message": "b"}]))
    assert held == {
        "type": "urn:facespace:problem:no_such_person",
        "title": PROBLEMS["no_such_person"][1],
        "status": 404,
        "detail": "unknown",
        "code": "no_such_person",
        "request_id": "id-1",
        "errors": [{"where": "a", "message": "b"}],
    }
    assert "�" not in json.loads(problem_body(422, "invalid", "Zoë", ""))["detail"]
    problem_body(422, "invalid", "half a letter: \ud800", "")


def test_responses_name_every_code_of_a_status():
    documented = problems(412)
    assert set(documented) >= {400, 401, 403, 404, 405, 408, 412, 413, 415, 422, 429, 500, 503}
    for code, (status, _) in PROBLEMS.items():
        if status in documented:
            assert f"`{code}`" in documented[status]["description"]
    assert "Retry-After" in documented[503]["headers"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_a_405_lists_the_methods(client, method):
    answer = client.request(method, "/v1/detect")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.headers["content-type"] == "application/problem+json"
    if method != "HEAD":
        assert answer.json()["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/", "/V1/detect", "//v1/detect", "/v1/detect/", "/v1/%2e%2e/x"])
def test_other_addresses(client, path):
    answer = client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
