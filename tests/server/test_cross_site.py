from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.datastructures import Headers

from facespace.server.cross_site import check_origin
from facespace.server.settings import Settings
from support.small_service import client, small_app

LOCAL = Settings("people.gallery")
NAMED = Settings("people.gallery", host="192.168.1.7", hosts=("faces.example.com",))
EVERYWHERE = Settings("people.gallery", host="0.0.0.0")
LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


def code(settings: Settings, headers: dict[str, str], *, method: str = "GET", path: str = "/v1/people") -> str | None:
    problem = check_origin(settings, method, path, Headers({"host": "localhost:8000", **headers}))
    return None if problem is None else problem.code


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "127.1.2.3", "[::1]:8000", "localhost."]
)
def test_loopback_names_are_taken(host: str):
    assert code(LOCAL, {"host": host}) is None


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.1.7", "0x7f.1"],
)
def test_other_names_are_refused_as_of_dns_rebinding(host: str):
    assert code(LOCAL, {"host": host}) == "cross_site"
    refusal = check_origin(LOCAL, "GET", "/v1/people", Headers({"host": host}))
    assert refusal is not None and "--host-name" in refusal.detail


@pytest.mark.parametrize(
    "host", ["", "http://localhost", "localhost:80000", "localhost:x", "user@localhost", "localhost/x"]
)
def test_an_invalid_host_is_malformed(host: str):
    assert code(LOCAL, {"host": host}) == "malformed"


def test_no_host_and_two_are_malformed():
    for raw in ([], [(b"host", b"localhost"), (b"host", b"localhost")]):
        problem = check_origin(LOCAL, "GET", "/", Headers(raw=raw))
        assert problem is not None
        assert (problem.status, problem.code) == (400, "malformed")


def test_the_service_may_have_other_names():
    for host in ("192.168.1.7:8000", "faces.example.com", "FACES.example.com:443", "127.0.0.1"):
        assert code(NAMED, {"host": host}) is None
    assert code(NAMED, {"host": "other.example.com"}) == "cross_site"
    assert code(EVERYWHERE, {"host": "anything.example"}) is None


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://localhost:8000", None),
        ("http://localhost:3000", "cross_site"),
        ("http://127.0.0.1:8000", "cross_site"),  # to a browser, another name of this machine is another site
        ("http://evil.example", "cross_site"),
        ("https://localhost", "cross_site"),
        ("null", "cross_site"),
        ("", "cross_site"),
        ("file://", "cross_site"),
        ("moz-extension://12345", "cross_site"),
    ],
)
def test_pages_of_other_origins_are_refused(method: str, origin: str, expected: str | None):
    assert code(LOCAL, {"origin": origin}, method=method) == expected


def test_a_page_behind_a_proxy_that_ends_tls_is_our_own():
    assert code(NAMED, {"host": "faces.example.com", "origin": "https://faces.example.com"}) is None
    assert code(NAMED, {"host": "127.0.0.1:8000", "origin": "https://faces.example.com"}) is None
    assert code(NAMED, {"host": "127.0.0.1:8000", "origin": "https://faces.example.com:8443"}) == "cross_site"
    assert code(NAMED, {"host": "faces.example.com", "origin": "https://evil.example"}) == "cross_site"


@pytest.mark.parametrize(
    ("site", "expected"),
    [
        ("same-origin", None),
        ("none", None),
        ("same-site", "cross_site"),
        ("cross-site", "cross_site"),
        ("?", "cross_site"),
    ],
)
def test_sec_fetch_site_decides(site: str, expected: str | None):
    for method in ("GET", "POST"):
        assert code(LOCAL, {"sec-fetch-site": site}, method=method) == expected


def test_a_link_to_the_page_may_be_followed():
    assert code(LOCAL, LINK, path="/") is None
    assert code(LOCAL, LINK, path="/", method="POST") == "cross_site"
    assert code(LOCAL, LINK, path="/v1/people/1/photos") == "cross_site"
    assert code(LOCAL, {**LINK, "sec-fetch-dest": "iframe"}, path="/") == "cross_site"
    assert code(LOCAL, {**LINK, "sec-fetch-mode": "no-cors"}, path="/") == "cross_site"


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FastAPI]:
    made = small_app(tmp_path)
    yield made
    made.state.service.close()


def test_another_page_cannot_use_a_service_that_is_open(app: FastAPI):
    plain = client(app)
    assert plain.post("/v1/try").status_code == 201
    for headers in (
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "evil.example"},
        {"Origin": "null", "Sec-Fetch-Site": "same-origin"},
    ):
        for method, path in (("POST", "/v1/try"), ("GET", "/v1/try"), ("GET", "/healthz"), ("OPTIONS", "/v1/try")):
            answer = plain.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "cross_site")
            assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    assert plain.post("/v1/try").json()["n"] == 2


def test_a_link_to_the_api_is_refused(app: FastAPI):
    assert client(app).get("/v1/try", headers=LINK).status_code == 403
