from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import Depends, FastAPI

from facespace.server.access import allowed
from facespace.server.audit import AuditEntry
from facespace.server.state import StateError
from support.small_service import client, new_key, small_app


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FastAPI]:
    made = small_app(tmp_path)
    yield made
    made.state.service.close()


def entries(app: FastAPI) -> list[AuditEntry]:
    return app.state.service.audit.entries()


def test_what_administrators_do_is_recorded(app: FastAPI):
    text = new_key(app, "admin")
    caller = client(app, text)
    caller.post("/v1/try/7/erase?collection=staff")
    caller.get("/v1/collections/staff/try-export")
    caller.post("/v1/keys", json={"role": "read", "label": "door"})
    made, exported, erased = entries(app)
    identifier = text.split("_")[1]
    assert {one.key for one in (made, exported, erased)} == {identifier}
    assert erased.actor == f"for admin (key {identifier})"
    assert (erased.action, erased.path, erased.status, erased.collection) == ("erase", "/v1/try/7/erase", 200, "staff")
    assert (exported.action, exported.collection) == ("export_try", "staff")
    assert (made.action, made.status, made.address) == ("create_key", 201, "127.0.0.1")
    assert (made.details["role"], made.details["label"]) == ("read", "door")


def test_no_secret_is_in_the_log(app: FastAPI):
    caller = client(app, new_key(app, "admin"))
    secret = caller.post("/v1/keys", json={"role": "read"}).json()["key"].split("_", 2)[2]
    assert secret not in repr(entries(app))


def test_a_refused_call_is_recorded(app: FastAPI):
    client(app, new_key(app, "enroll")).post("/v1/try/7/erase")
    client(app, new_key(app, "admin", "staff")).post("/v1/try/7/erase?collection=default")
    assert [(one.action, one.status) for one in entries(app)] == [("erase", 403), ("erase", 403)]
    client(app).post("/v1/try/7/erase")  # without a key
    assert len(entries(app)) == 2


def test_every_erasure_is_recorded(app: FastAPI):
    @app.delete("/v1/try/{face}", operation_id="erase_unknown", dependencies=[Depends(allowed("enroll"))])
    async def erase(face: str) -> None:
        pass

    client(app, new_key(app, "enroll")).delete("/v1/try/7")
    assert [(one.action, one.path) for one in entries(app)] == [("erase_unknown", "/v1/try/7")]


def test_reading_and_routes_for_other_roles_are_not_recorded(app: FastAPI):
    caller = client(app, new_key(app, "admin"))
    for method, path in (("GET", "/v1/try"), ("POST", "/v1/try"), ("GET", "/v1/keys"), ("GET", "/v1/audit")):
        assert caller.request(method, path).status_code < 300
    assert entries(app) == []


def test_the_entry_is_there_before_the_answer(app: FastAPI, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object, **__: object) -> None:
        raise StateError("disk full")

    caller = client(app, new_key(app, "admin"))
    monkeypatch.setattr(app.state.service.audit, "record", full)
    answer = caller.get("/v1/collections/staff/try-export")
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    assert "collection" not in answer.json()
    assert caller.get("/v1/try").status_code == 200
