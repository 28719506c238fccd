"""The application as a whole."""

from __future__ import annotations

import pytest

from facespace.errors import GalleryError
from facespace.server.app import app_from_environment, create_app
from facespace.server.settings import SETTINGS_VARIABLE, Settings
from support.service import running_service


def test_it_answers_while_it_runs_and_not_before(tmp_path):
    from starlette.testclient import TestClient

    app = create_app(Settings(str(tmp_path / "g")))
    answer = TestClient(app, base_url="http://127.0.0.1").get("/healthz")
    assert (answer.status_code, answer.json()["code"]) == (503, "shutting_down")


def test_a_gallery_that_is_damaged_stops_it(tmp_path):
    (tmp_path / "people.gallery").write_bytes(b"no gallery" * 1000)
    with pytest.raises(GalleryError), running_service(tmp_path):
        pass


def test_every_answer_has_its_headers(tmp_path):
    with running_service(tmp_path) as client:
        for answer in (client.get("/healthz"), client.get("/nothing"), client.put("/v1/detect")):
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["content-security-policy"]
            assert answer.headers["x-request-id"]
            assert "access-control-allow-origin" not in answer.headers


def test_a_root_path_is_removed(tmp_path):
    from facespace.server.keys import Keys
    from support.service import service_behind

    with running_service(tmp_path, root_path="/faces") as client:
        key = Keys(service_behind(client).state).create("admin").text
        headers = {"authorization": f"Bearer {key}"}
        assert client.get("/healthz").status_code == 200  # behind a proxy that removes the path itself
        answer = client.get("/faces/v1/settings", headers=headers)
        assert answer.status_code == 200
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def test_settings_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv(SETTINGS_VARIABLE, Settings(str(tmp_path / "g"), log_level="error").as_json())
    monkeypatch.setattr("facespace.server.logs.configure", lambda level: levels.append(level))
    monkeypatch.setattr("facespace.server.app.answer_promptly", lambda: None)
    levels: list[str] = []
    assert app_from_environment().title == "facespace"
    assert levels == ["error"]
