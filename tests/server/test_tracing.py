"""Ids, log lines, metrics, and the answer to an unexpected error."""

from __future__ import annotations

import json
import logging

import pytest

from facespace.errors import DatasetError
from facespace.server.logs import LOGGER, JsonLines
from support.service import running_service, service_behind

SECRET = "Ada Lovelace of 12 St James's Square"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with running_service(tmp_path_factory.mktemp("tracing")) as client:
        yield client


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, LOGGER)
    caplog.handler.setFormatter(JsonLines())
    return lambda: [json.loads(JsonLines().format(one)) for one in caplog.records if one.name == LOGGER]


@pytest.mark.parametrize("given", ["abc-1.2_3", "a" * 64])
def test_the_clients_own_id_is_taken(client, given):
    assert client.get("/healthz", headers={"x-request-id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a" * 65, "a b", "a\tb", '"', "ü"])
def test_an_invalid_id_is_replaced(client, given):
    got = client.get("/healthz", headers={"x-request-id": given.encode("latin-1")}).headers["x-request-id"]
    assert got != given
    assert len(got) == 16


def test_a_log_line_names_the_operation_and_no_person(client, lines, hopper_file):
    client.post(
        "/v1/identify", params={"collection": "missing"}, headers={"content-type": "image/jpeg", "x-request-id": "r-1"},
        content=hopper_file.read_bytes(),
    )  # fmt: skip
    (line,) = lines()
    assert {key: line[key] for key in ("request_id", "method", "operation", "status")} == {
        "request_id": "r-1", "method": "POST", "operation": "identify", "status": 404,
    }  # fmt: skip
    assert "missing" not in json.dumps(line)


def test_an_unexpected_error_reveals_nothing(client, lines, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(service_behind(client).metrics, "text", fail)
    answer = client.get("/metrics")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert SECRET not in answer.text
    (line,) = lines()
    assert line["error"] == "builtins.RuntimeError"
    assert any("health.py" in place for place in line["at"])
    assert SECRET not in json.dumps(line)


def test_an_error_that_no_request_causes_is_logged_under_its_own_name(client, lines, monkeypatch):
    def fail(*_: object) -> None:
        raise DatasetError(SECRET)

    monkeypatch.setattr(service_behind(client).galleries, "opened", fail)
    answer = client.get("/v1/people")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    (line,) = lines()
    assert line["error"] == "facespace.errors.DatasetError"


def test_requests_are_counted(client):
    client.get("/healthz")
    figures = client.get("/metrics").text
    assert 'facespace_requests_total{operation="health",status="200"}' in figures
    assert 'facespace_request_seconds_bucket{le="0.005",operation="health"}' in figures
