"""The files of the page: how they are served, and properties that can be checked without a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi", reason="the page is served by FastAPI")

from fastapi import FastAPI
from starlette.testclient import TestClient

from facespace.server.problems import add_problem_handlers
from facespace.server.routes import page
from facespace.server.settings import Settings

SCRIPTS = sorted(page.FOLDER.glob("*.js"))


def client_of(*, shown: bool) -> TestClient:
    app = FastAPI()
    app.include_router(page.router)
    add_problem_handlers(app, (page.router,))
    app.state.service = SimpleNamespace(settings=Settings("people.gallery", page=shown))
    return TestClient(app)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with client_of(shown=True) as client:
        yield client


def texts(language: str) -> dict[str, str]:
    written = (page.FOLDER / f"{language}.js").read_text("utf-8")
    found: dict[str, str] = json.loads(written.removeprefix("export default ").rstrip().rstrip(";"))
    return found


def test_the_page_and_its_files_come_under_a_strict_policy(client: TestClient) -> None:
    reply = client.get("/")
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    for name in page.page_files():
        answer = client.get(f"/page/{name}")
        policy = answer.headers["content-security-policy"]
        assert answer.status_code == 200
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/page/app.js").headers["content-type"].startswith("text/javascript")


def test_a_file_that_the_browser_has_is_not_sent_again(client: TestClient) -> None:
    etag = client.get("/page/style.css").headers["etag"]
    again = client.get("/page/style.css", headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")
    head = client.head("/")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("name", ["nothing.js", "..%2f__init__.py", "%2e%2e/page.py", "index.html%00", ".", "con"])
def test_nothing_but_the_files_of_the_page_is_served(client: TestClient, name: str) -> None:
    assert client.get(f"/page/{name}").status_code == 404


def test_the_page_can_be_turned_off() -> None:
    with client_of(shown=False) as client:
        assert client.get("/").status_code == 404
        assert client.get("/page/app.js").status_code == 404


def test_both_languages_have_the_same_texts_with_the_same_placeholders() -> None:
    english, chinese = texts("en"), texts("zh")
    assert english.keys() == chinese.keys()

    def placeholders(text: str) -> set[str]:
        return set(re.findall(r"\{(\w+)\}", text))

    assert [key for key in english if placeholders(english[key]) != placeholders(chinese[key])] == []
    assert [key for key, text in chinese.items() if not text.strip()] == []


def test_every_text_exists_and_is_used() -> None:
    english = texts("en")
    code = "\n".join(script.read_text("utf-8") for script in SCRIPTS if script.stem not in ("en", "zh"))
    quoted = set(re.findall(r'"([a-z_]+(?:\.[a-z_]+)*)"', code))
    patterns = [re.sub(r"\$\{[^}]*\}", ".+", one) for one in re.findall(r"`([a-z_]+\.[^`\s]*\$\{[^`]*)`", code)]
    asked = set(re.findall(r'\bt\(\s*"([^"]+)"', code))
    assert asked - english.keys() == set()
    unused = {
        key
        for key in english
        if key.removesuffix(".one") not in quoted and not any(re.fullmatch(one, key) for one in patterns)
    }
    assert unused == set()


def test_no_script_makes_markup_or_calls_other_hosts() -> None:
    for script in SCRIPTS:
        code = script.read_text("utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", code), (
            script
        )
        assert set(re.findall(r"https?://[^\s\"')]+", code)) <= {"http://www.w3.org/2000/svg"}, script
    html = (page.FOLDER / "index.html").read_text("utf-8")
    assert "style=" not in html
    assert "<style" not in html
    assert re.findall(r"<script(?![^>]*\bsrc=)", html) == []
    assert not re.search(r"\son\w+=", html)


def test_scripts_are_small() -> None:
    assert {script.name for script in SCRIPTS if len(script.read_text("utf-8").splitlines()) > 450} == set()
    assert sum(path.stat().st_size for path in Path(page.FOLDER).iterdir()) < 250_000
