from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from facespace.server.key_check import needs_key
from support.small_service import client, new_key, small_app


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FastAPI]:
    made = small_app(tmp_path, rate_per_second=0.001, burst=3)
    yield made
    made.state.service.close()


def test_paths_of_the_api_need_a_key():
    assert [path for path in ("/", "/page/a.js", "/healthz", "/readyz", "/v1/openapi.json") if needs_key(path)] == []
    assert all(needs_key(path) for path in ("/v1/", "/v1/nothing", "/v1/openapi.json/", "/v1/people/1", "/metrics"))


def test_a_path_that_no_route_has_needs_a_key_too(app: FastAPI):
    key = new_key(app, "identify")
    assert client(app).get("/v1/nothing").status_code == 401
    assert client(app, key).get("/v1/nothing").json()["code"] == "not_found"


def test_a_request_is_counted_once(app: FastAPI):
    caller = client(app, new_key(app, "read"))
    assert [caller.get("/v1/try").status_code for _ in range(4)] == [200, 200, 200, 429]


def test_a_state_file_that_cannot_be_read_is_503(app: FastAPI):
    key = new_key(app, "read")
    app.state.service.state.close()
    answer = client(app, key).get("/v1/try")
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    assert "Retry-After" in answer.headers


def test_public_paths_are_not_counted(app: FastAPI):
    new_key(app, "read")
    assert {client(app).get("/healthz").status_code for _ in range(6)} == {200}
