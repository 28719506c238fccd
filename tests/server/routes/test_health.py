"""Health, readiness and metrics."""

from __future__ import annotations

from facespace.errors import GalleryError
from support.service import running_service, service_behind


def test_health_and_readiness(tmp_path, monkeypatch):
    with running_service(tmp_path) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/readyz").json() == {"status": "ok"}
        service = service_behind(client)

        def away(*_: object) -> int:
            raise GalleryError("/secret/people.gallery: the disk went away")

        monkeypatch.setattr(type(service.galleries.get().store), "count", away)
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        assert answer.headers["retry-after"]
        assert client.get("/healthz").status_code == 200
        monkeypatch.undo()
        assert client.get("/readyz").status_code == 200


def test_figures_are_text(tmp_path):
    with running_service(tmp_path) as client:
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "facespace_photos_total 0.0" in answer.text
