from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from fastapi import FastAPI

from support.small_service import client, new_key, small_app


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FastAPI]:
    made = small_app(tmp_path)
    yield made
    made.state.service.close()


def test_a_key_is_made_listed_and_revoked(app: FastAPI):
    caller = client(app, new_key(app, "admin"))
    expires = (datetime.now(timezone.utc) + timedelta(days=1)).replace(microsecond=0)
    made = caller.post(
        "/v1/keys", json={"role": "read", "collection": "staff", "label": "door", "expires": expires.isoformat()}
    )
    assert made.status_code == 201
    reply = made.json()
    assert re.fullmatch(r"fsk_[0-9a-f]{12}_[\w-]{43}", reply["key"])
    assert made.headers["Location"] == f"/v1/keys/{reply['id']}"
    assert "no-store" in made.headers["Cache-Control"]
    assert (reply["role"], reply["collection"], reply["label"], reply["valid"]) == ("read", "staff", "door", True)
    assert datetime.fromisoformat(reply["expires"].replace("Z", "+00:00")) == expires
    assert reply["created_by"].startswith("for admin (key ")
    listed = caller.get("/v1/keys").json()["keys"]
    assert listed[0] == {name: value for name, value in reply.items() if name != "key"}
    assert reply["key"].split("_", 2)[2] not in caller.get("/v1/keys").text
    assert client(app, reply["key"]).get("/v1/try?collection=staff").status_code == 200
    assert caller.delete(f"/v1/keys/{reply['id']}").status_code == 204
    assert client(app, reply["key"]).get("/v1/try?collection=staff").status_code == 401
    assert caller.delete(f"/v1/keys/{reply['id']}").status_code == 204
    listed = caller.get("/v1/keys").json()["keys"][0]
    assert (listed["valid"], listed["revoked"] is not None) == (False, True)


@pytest.mark.parametrize(
    "body",
    [
        {}, {"role": "root"}, {"role": "read", "more": 1}, {"role": "read", "label": "a" * 101}, {"role": "read", "label": 7},
        {"role": "read", "expires": "2001-01-01T00:00:00Z"}, {"role": "read", "expires": "soon"}, [], "text",
        {"role": "read", "collection": ""}, {"role": "read", "collection": "a" * 101},
        {"role": "read", "expires": "9999-12-31T23:59:59Z"},
    ],
)  # fmt: skip
def test_an_invalid_key_is_422(app: FastAPI, body: object):
    caller = client(app, new_key(app, "admin"))
    answer = caller.post("/v1/keys", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert len(caller.get("/v1/keys").json()["keys"]) == 1


@pytest.mark.parametrize("identifier", ["000000000000", "'; DROP TABLE key; --", "a" * 40, "%00", "..%2Fetc"])
def test_a_key_that_is_not_there_is_404(app: FastAPI, identifier: str):
    answer = client(app, new_key(app, "admin")).delete(f"/v1/keys/{identifier}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_the_first_key_must_be_able_to_make_the_others(app: FastAPI):
    plain = client(app)
    later = (datetime.now(timezone.utc) + timedelta(days=1)).isoformat()
    for body in ({"role": "enroll"}, {"role": "admin", "collection": "staff"}, {"role": "admin", "expires": later}):
        answer = plain.post("/v1/keys", json=body)
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    made = plain.post("/v1/keys", json={"role": "admin"})
    assert made.status_code == 201
    assert plain.post("/v1/keys", json={"role": "admin"}).status_code == 401
    assert client(app, made.json()["key"]).get("/v1/keys").status_code == 200


def test_the_last_administrator_can_be_revoked_and_the_service_stays_closed(app: FastAPI):
    text = new_key(app, "admin")
    assert client(app, text).delete(f"/v1/keys/{text.split('_')[1]}").status_code == 204
    assert client(app, text).get("/v1/keys").status_code == 401
    assert client(app).get("/v1/keys").status_code == 401


def test_an_administrator_of_a_collection_sees_only_its_keys(app: FastAPI):
    everywhere = new_key(app, "admin")
    staff = client(app, new_key(app, "admin", "staff"))
    other = new_key(app, "read", "guests")
    made = staff.post("/v1/keys", json={"role": "read"}).json()
    assert made["collection"] == "staff"
    assert {one["collection"] for one in staff.get("/v1/keys").json()["keys"]} == {"staff"}
    refused = staff.post("/v1/keys", json={"role": "read", "collection": "guests"})
    assert (refused.status_code, refused.json()["code"]) == (403, "other_collection")
    for text in (everywhere, other):
        assert staff.delete(f"/v1/keys/{text.split('_')[1]}").status_code == 404
        assert app.state.service.keys.check(text) is not None
    assert {one["collection"] for one in staff.get("/v1/audit").json()["entries"]} == {"staff"}


def test_a_caller_learns_what_its_key_may_do(app: FastAPI):
    assert client(app).get("/v1/caller").json() == {"key_id": None, "label": "", "role": "admin", "collection": None}
    for role in ("identify", "read", "enroll", "admin"):
        text = new_key(app, role, "staff")
        reply = client(app, text).get("/v1/caller").json()
        assert reply == {"key_id": text.split("_")[1], "label": f"for {role}", "role": role, "collection": "staff"}


def test_the_audit_log_comes_in_pages(app: FastAPI):
    caller = client(app, new_key(app, "admin"))
    for k in range(3):
        caller.post("/v1/keys", json={"role": "read", "label": f"k{k}"})
    first = caller.get("/v1/audit?limit=2").json()
    assert [one["details"]["label"] for one in first["entries"]] == ["k2", "k1"]
    assert abs(datetime.fromisoformat(first["entries"][0]["at"].replace("Z", "+00:00")).timestamp() - time.time()) < 60
    second = caller.get(f"/v1/audit?limit=2&before={first['next']}").json()
    assert ([one["details"]["label"] for one in second["entries"]], second["next"]) == (["k0"], None)
    for query in ("limit=0", "limit=1001", "before=x", f"before={2**70}"):
        assert caller.get(f"/v1/audit?{query}").status_code == 422


def test_a_full_disk_is_503_and_an_existing_key_stays_valid(app: FastAPI):
    caller = client(app, new_key(app, "admin"))
    writer = app.state.service.state._writer
    (n_pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count = {n_pages}")
    answers = [caller.post("/v1/keys", json={"role": "read", "label": "a" * 100}) for _ in range(60)]
    assert answers[-1].status_code == 503
    assert answers[-1].json()["code"] == "store_unavailable"
    assert "make room" in answers[-1].json()["detail"]
    assert "Retry-After" in answers[-1].headers
    assert caller.get("/v1/keys").status_code == 200
    for made in (answer.json()["key"] for answer in answers if answer.status_code == 201):
        assert client(app, made).get("/v1/caller").status_code == 200
