"""The description of the API: every operation has an id, an example and its problems."""

from __future__ import annotations

import pytest

from facespace.server.app import create_app
from facespace.server.settings import Settings
from support.service import running_service


@pytest.fixture(scope="module")
def schema():
    return create_app(Settings("x")).openapi()


def operations(schema):
    return [(path, method, one) for path, held in schema["paths"].items() for method, one in held.items()]


def test_every_operation_is_described(schema):
    for path, method, one in operations(schema):
        where = f"{method} {path}"
        assert one["operationId"], where
        assert one["summary"], where
        assert "422" in one["responses"], where
        for status, answer in one["responses"].items():
            if status >= "400":
                assert "application/problem+json" in answer["content"], f"{where} {status}"
    ids = [one["operationId"] for _, _, one in operations(schema)]
    assert len(ids) == len(set(ids))


def test_every_answer_has_an_example(schema):
    missing = []
    for path, method, one in operations(schema):
        for status, answer in one["responses"].items():
            for kind, content in answer.get("content", {}).items():
                if status < "300" and kind == "application/json" and not {"example", "examples"} & set(content):
                    missing.append(f"{method} {path}")
    assert missing == []


def test_photos_come_raw_or_in_a_form(schema):
    content = schema["paths"]["/v1/identify"]["post"]["requestBody"]["content"]
    assert {"multipart/form-data", "image/jpeg", "application/octet-stream"} <= set(content)
    assert set(schema["paths"]["/v1/verify"]["post"]["requestBody"]["content"]) == {"multipart/form-data"}


def test_references_resolve(schema):
    def walk(value):
        if isinstance(value, dict):
            if isinstance(ref := value.get("$ref"), str):
                yield ref
            for inner in value.values():
                yield from walk(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from walk(inner)

    for ref in walk(schema):
        where = schema
        for part in ref.removeprefix("#/").split("/"):
            where = where[part]
    assert "HTTPValidationError" not in schema["components"]["schemas"]


def test_it_is_served(tmp_path):
    with running_service(tmp_path) as client:
        answer = client.get("/v1/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["openapi"].startswith("3.1")
