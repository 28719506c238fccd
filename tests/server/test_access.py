"""Access to every route of the application with every role, read from its own table of routes."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from facespace.server.access import Needs, allowed
from facespace.server.keys import ROLES, Role
from support.small_service import client, new_key, small_app

# Routes that need no key: health, the description of the API, and the page, which asks for a key itself.
PUBLIC = re.compile(r"/healthz|/readyz|/v1/openapi\.json|/|/page(/.*)?|/favicon\.ico|/robots\.txt")
# POST routes that need less than `enroll`, because they change no people.
ASKING = {"detect", "embed", "identify", "identify_batch", "verify", "search_unknowns"}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    made = small_app(tmp_path_factory.mktemp("access"))
    new_key(made, "admin")  # so the service is not open
    yield made
    made.state.service.close()


def routes_of(app: FastAPI) -> list[APIRoute]:
    """Return all operations, including those of included routers."""
    found: list[APIRoute] = []
    todo: list[Any] = list(app.routes)
    while todo:
        route = todo.pop()
        if isinstance(route, APIRoute):
            found.append(route)
        else:
            router = getattr(route, "original_router", None) or getattr(route, "router", None)
            todo += list(getattr(router, "routes", None) or getattr(route, "routes", None) or ())
    return found


def needs_of_route(route: APIRoute) -> list[Needs]:
    found, todo = [], list(route.dependant.dependencies)
    while todo:
        one = todo.pop()
        todo += one.dependencies
        needs = getattr(one.call, "needs", None)
        if isinstance(needs, Needs):
            found.append(needs)
    return found


def path_of(route: APIRoute) -> str:
    return re.sub(r"\{[^}]*\}", "1", route.path)


def test_the_table_has_the_routes_of_all_routers(app: FastAPI):
    paths = {route.path for route in routes_of(app)}
    assert {"/healthz", "/v1/detect", "/v1/keys", "/v1/keys/{id}", "/v1/settings", "/v1/audit", "/v1/try"} <= paths
    described = set(app.openapi()["paths"])
    assert described <= paths


def test_every_route_says_which_role_it_needs(app: FastAPI):
    for route in routes_of(app):
        needs = needs_of_route(route)
        if PUBLIC.fullmatch(route.path):
            assert not needs, f"{route.path} is public but asks for a key"
        else:
            assert len(needs) == 1, f"{route.path} must have one dependency allowed(role), got {len(needs)}"


def test_changes_need_more_than_the_role_read(app: FastAPI):
    for route in routes_of(app):
        for needs in needs_of_route(route):
            if not route.methods & {"GET", "HEAD"} and route.operation_id not in ASKING:
                assert set(needs.roles) <= {"enroll", "admin"}, f"{route.path} changes something with {needs.roles}"


@pytest.mark.parametrize("word", ["keys", "audit", "webhooks", "erase", "export", "import"])
def test_routes_for_administrators_only(app: FastAPI, word: str):
    for route in routes_of(app):
        if f"/{word}" in route.path:
            assert [needs.roles for needs in needs_of_route(route)] == [("admin",)], route.path


def cases() -> list[tuple[Role | None, str]]:
    return [(role, method) for role in (None, *ROLES) for method in ("GET", "POST", "PATCH", "PUT", "DELETE")]


@pytest.mark.parametrize(("role", "method"), cases())
def test_every_route_refuses_callers_without_the_role(app: FastAPI, role: Role | None, method: str):
    """Without a key 401, with a lesser role 403, for any body. The route does not run."""
    key = None if role is None else new_key(app, role)
    caller = client(app, key)
    for route in routes_of(app):
        if method not in route.methods or PUBLIC.fullmatch(route.path):
            continue
        (needs,) = needs_of_route(route)
        record = app.state.service.keys.check(key) if key else None
        if record is not None and any(record.may(one) for one in needs.roles):
            continue
        answer = caller.request(method, path_of(route))
        expected = (401, "unauthorized") if role is None else (403, "forbidden")
        assert (answer.status_code, answer.json()["code"]) == expected, (
            f"{method} {route.path} as {role}: {answer.text}"
        )


@pytest.mark.parametrize("role", ROLES)
def test_a_key_of_another_collection_is_refused_by_every_route(app: FastAPI, role: Role):
    key = new_key(app, role, "staff")
    caller = client(app, key)
    for route in routes_of(app):
        if PUBLIC.fullmatch(route.path):
            continue
        (needs,) = needs_of_route(route)
        record = app.state.service.keys.check(key)
        if needs.scope == "callers" or not any(record.may(one) for one in needs.roles):
            continue
        for method, query in itertools.product(sorted(route.methods), ("", "?collection=default", "?collection=1")):
            answer = caller.request(method, path_of(route) + query)
            expected = (403, "other_collection")
            assert (answer.status_code, answer.json()["code"]) == expected, (
                f"{method} {route.path}{query}: {answer.text}"
            )


def test_a_key_of_a_collection_may_use_that(app: FastAPI):
    caller = client(app, new_key(app, "admin", "staff"))
    assert caller.get("/v1/try?collection=staff").status_code == 200
    assert caller.get("/v1/collections/staff/try-export").status_code == 200
    assert caller.get("/v1/collections/default/try-export?collection=staff").json()["code"] == "other_collection"
    twice = caller.get("/v1/try?collection=staff&collection=default")
    assert (twice.status_code, twice.json()["code"]) == (400, "malformed")
    assert caller.get("/v1/try?collection=STAFF").json()["code"] == "other_collection"


def test_both_headers_carry_a_key_and_a_wrong_one_is_not_ignored(app: FastAPI):
    key = new_key(app, "read")
    plain = client(app)
    assert plain.get("/v1/try", headers={"X-API-Key": key}).status_code == 200
    assert plain.get("/v1/try", headers={"Authorization": f"bearer {key}"}).status_code == 200
    for headers in (
        {"Authorization": f"Basic {key}"},
        {"Authorization": "Bearer"},
        {"Authorization": ""},
        {"X-API-Key": ""},
        {"Authorization": f"Bearer {key}x"},
        {"Authorization": f"Bearer {key[:-1]}", "X-API-Key": key},
        {"Authorization": "Bearer \xe4\xf6".encode("latin-1")},
    ):
        answer = plain.get("/v1/try", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), headers
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="facespace"'
        assert key not in answer.text
    assert plain.get(f"/v1/try?key={key}&api_key={key}").status_code == 401
    assert plain.get("/v1/try", headers={"Cookie": f"key={key}"}).status_code == 401


def test_a_revoked_key_is_refused_at_once(app: FastAPI):
    key = new_key(app, "read")
    caller = client(app, key)
    assert caller.get("/v1/try").status_code == 200
    app.state.service.keys.revoke(key.split("_")[1])
    assert caller.get("/v1/try").status_code == 401


def test_the_gallerys_log_names_the_key(app: FastAPI):
    key = new_key(app, "read")
    assert client(app, key).get("/v1/try").json()["actor"] == f"for read (key {key.split('_')[1]})"


def test_bodies_of_callers_without_a_key_are_not_read(app: FastAPI):
    async def endless() -> AsyncIterator[bytes]:
        pytest.fail("the body was read")
        yield b""

    for path in ("/v1/keys", "/v1/try", "/v1/nothing"):
        assert client(app, "fsk_wrong").post(path, content=endless()).status_code == 401


def test_a_service_without_keys_is_open_only_on_loopback(tmp_path: Path):
    for name, settings, is_open in (
        ("a", {}, True),
        ("b", {"host": "::1"}, True),
        ("c", {"host": "0.0.0.0"}, False),
        ("d", {"host": "192.168.1.7"}, False),
        ("e", {"forwarded_from": ("10.0.0.1",)}, False),
        ("f", {"root_path": "/faces"}, False),
    ):
        (tmp_path / name).mkdir()
        app = small_app(tmp_path / name)
        app.state.service.settings = dataclasses.replace(app.state.service.settings, **settings)
        answer = client(app).get("/v1/try")
        assert answer.status_code == (200 if is_open else 401), settings
        if is_open:
            assert answer.json()["actor"].endswith(" over HTTP")
            assert client(app, "fsk_wrong").get("/v1/try").status_code == 401
            for name in ("X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "Via", "X-Real-IP"):
                assert client(app).get("/v1/try", headers={name: "1.2.3.4"}).status_code == 401
            new_key(app, "identify")
            assert client(app).get("/v1/try").status_code == 401
        app.state.service.close()


def test_a_route_must_name_known_roles():
    for roles in ((), ("root",)):
        with pytest.raises(ValueError, match="one or more of the roles identify, read, enroll, admin"):
            allowed(*roles)  # type: ignore[arg-type]
