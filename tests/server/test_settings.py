"""Settings and their way into worker processes."""

from __future__ import annotations

import pytest

from facespace.server.settings import SETTINGS_VARIABLE, Settings


def test_they_come_back_from_the_environment(monkeypatch):
    settings = Settings("a.gallery", port=1234, hosts=("faces.example",), unknowns_days=None, rate_per_second=2.5)
    monkeypatch.setenv(SETTINGS_VARIABLE, settings.as_json())
    assert Settings.from_environment() == settings


def test_the_state_is_next_to_the_gallery():
    assert Settings("/data/people.gallery").state == "/data/people.gallery.service"
    assert Settings("qdrant://host").state == "facespace.service"
    assert Settings("a", state="/else").state == "/else"


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_body": 0}, {"queue": -1}, {"workers": 0}, {"request_seconds": 0}, {"request_seconds": float("nan")},
        {"header_seconds": 1e9}, {"rate_per_second": 0}, {"root_path": "faces"}, {"root_path": "/faces/"},
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must"):
        Settings("a", **wrong)


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("10.0.0.1", False)],
)
def test_loopback(host, is_loopback):
    assert Settings("a", host=host).is_loopback == is_loopback


def test_unknown_faces_are_kept_only_if_chosen():
    assert Settings("people.gallery").unknowns_days is None
