"""Collections over HTTP: made, changed, exported, imported, erased."""

from __future__ import annotations

import errno
import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from facespace.identification.stores.sqlite import SQLiteStore
from facespace.server import admission
from facespace.server.routes import collections as routes
from support.served_people import add_drawn, names, refused
from support.service import running_service, service_behind

ZIP = {"content-type": "application/zip"}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with running_service(tmp_path) as client:
        yield client


def test_a_collection_is_made_and_seen(client):
    add_drawn(client, {"Ada": [1, 2]})
    made = client.post("/v1/collections", json={"name": "visitors"})
    assert made.status_code == 201
    assert made.json()["model"] == "sface" and made.json()["n_people"] == 0
    listed = client.get("/v1/collections").json()["collections"]
    assert [(one["name"], one["n_people"], one["n_photos"]) for one in listed] == [
        ("default", 1, 2),
        ("visitors", 0, 0),
    ]
    assert client.get("/v1/collections/default").json() == listed[0]
    assert 0 < listed[0]["threshold"] < 1 and listed[0]["strangers_named"] == 0.01
    refused(client.post("/v1/collections", json={"name": "visitors"}), 409, "conflict")
    for wrong in (
        "",
        "a b",
        "../x",
        "a/b",
        "x-unknowns",
        "default-ignored",
        "x" * 81,
        "1a",
        "a'; DROP TABLE person",
        "\0",
    ):
        refused(client.post("/v1/collections", json={"name": wrong}), 422, "invalid")
    for model in ("../../etc/passwd", "/etc/passwd", "no such model", ".hidden", "", "~", "C:\\x"):
        refused(client.post("/v1/collections", json={"name": "other", "model": model}), 422, "invalid")
    assert len(client.get("/v1/collections").json()["collections"]) == 2


def test_a_collection_is_changed(client):
    path = "/v1/collections/default"
    changed = client.patch(path, json={"templates": "best", "rate": 0.001, "retention_days": 30}).json()
    assert (changed["templates"], changed["strangers_named"], changed["retention_days"]) == ("best", 0.001, 30)
    higher = changed["threshold"]
    changed = client.patch(path, json={"rate": 0.1, "retention_days": None}).json()
    assert changed["threshold"] < higher and changed["retention_days"] is None and changed["templates"] == "best"
    for wrong in (
        {"rate": 0},
        {"rate": 1},
        {"retention_days": -1},
        {"retention_days": 1e9},
        {"templates": "x"},
        {"x": 1},
    ):
        refused(client.patch(path, json=wrong), 422, "invalid")
    for name in ("missing", "default-unknowns", "..%2f"):
        refused(client.get(f"/v1/collections/{name}"), 404, "not_found" if "%2f" in name else "no_such_collection")
    refused(client.get("/v1/collections/'"), 422, "invalid")


def test_an_export_is_imported(client, tmp_path):
    add_drawn(client, {"Ada": [1, 2], "Bob": [3]})
    exported = client.get("/v1/collections/default/export")
    assert exported.status_code == 200 and int(exported.headers["content-length"]) == len(exported.content)
    assert "attachment" in exported.headers["content-disposition"]
    assert zipfile.is_zipfile(io.BytesIO(exported.content))
    client.post("/v1/collections", json={"name": "copy"})
    counts = client.post("/v1/collections/copy/import", content=exported.content, headers=ZIP).json()
    assert (counts["new_people"], counts["new_photos"]) == (2, 3)
    again = client.post("/v1/collections/copy/import", content=exported.content, headers=ZIP).json()
    assert (again["new_people"], again["known_people"], again["known_photos"]) == (0, 2, 3)
    assert names(client, collection="copy") == ["Ada", "Bob"]
    state = service_behind(client).state.path.parent
    assert not [one for one in os.listdir(state) if one.startswith(("import-", "export-"))], "nothing is left behind"


def test_a_full_disk_is_reported(client, monkeypatch):
    add_drawn(client, {"Ada": [1]})
    exported = client.get("/v1/collections/default/export")

    def full(*given: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(routes, "export_gallery", full)
    monkeypatch.setattr(routes, "import_gallery", full)
    refused(client.get("/v1/collections/default/export"), 503, "store_unavailable")
    refused(
        client.post("/v1/collections/default/import", content=exported.content, headers=ZIP), 503, "store_unavailable"
    )


def test_an_empty_collection_is_exported_if_it_has_a_model(client, tmp_path):
    exported = client.get("/v1/collections/default/export")
    assert exported.status_code == 200
    client.post("/v1/collections", json={"name": "copy"})
    counts = client.post("/v1/collections/copy/import", content=exported.content, headers=ZIP)
    assert counts.status_code == 200 and client.get("/v1/collections/copy").json()["n_people"] == 0
    SQLiteStore(tmp_path / "people.gallery", collection="bare", create=True).close()
    refused(client.get("/v1/collections/bare/export"), 409, "conflict")


def bomb(names: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    return stream.getvalue()


def test_invalid_files(client, monkeypatch):
    """Zip bombs, truncated files and others are refused before anything changes."""
    add_drawn(client, {"Ada": [1, 2]})
    good = client.get("/v1/collections/default/export").content
    path = "/v1/collections/default/import"
    parts = dict.fromkeys(("people.jsonl", "vectors.safetensors", "gallery.json"), b"\x00" * 5000000)
    deep = {**parts, "gallery.json": b"[" * 500_000}
    evil = [
        b"", b"x", good[:-100], good[: len(good) // 2], good.replace(b'"Ada"', b'"\\u0000"'), bomb(parts), bomb(parts, zipfile.ZIP_STORED),
        bomb(deep, zipfile.ZIP_STORED), bomb({"../../etc/passwd": b"x"}), bomb({f"{k}": b"" for k in range(2000)}),
    ]  # fmt: skip
    for data in evil:
        reply = refused(client.post(path, content=data, headers=ZIP), 422, "invalid")
        assert str(service_behind(client).state.path.parent) not in reply["detail"], "no paths of this machine"
    refused(client.post(path, content=good), 415, "unsupported_media_type")
    refused(client.post(path, content=good, headers={"content-type": "text/html"}), 415, "unsupported_media_type")
    refused(client.post("/v1/collections/missing/import", content=good, headers=ZIP), 404, "no_such_collection")
    monkeypatch.setattr(admission, "MAX_IMPORT", 1000)
    refused(client.post(path, content=good, headers=ZIP), 413, "too_large")
    refused(client.post(path, content=(good[k : k + 500] for k in range(0, 2000, 500)), headers=ZIP), 413, "too_large")
    assert names(client) == ["Ada"]


def test_an_import_may_be_larger_than_other_bodies(tmp_path):
    with running_service(tmp_path, max_body=2000) as client:
        add_drawn(client, {"Ada": list(range(1, 20))})
        exported = client.get("/v1/collections/default/export").content
        assert len(exported) > 2000
        assert client.post("/v1/collections/default/import", content=exported, headers=ZIP).status_code == 200
        refused(client.post("/v1/detect", content=exported, headers={"content-type": "image/png"}), 413, "too_large")


def test_an_erased_collection_is_gone_for_all(client, tmp_path):
    """Another service on the same gallery notices, and sees the new collection with the same name."""
    ids = add_drawn(client, {"Zoë Secret": [1, 2]}, "visitors")
    path = f"/v1/people/{ids['Zoë Secret']}?collection=visitors"
    client.patch(path, json={"metadata": {"a": 1}}, headers={"if-match": "*"})
    assert "Secret" in client.get("/v1/events/list?collection=visitors").text
    (tmp_path / "other").mkdir()
    with running_service(tmp_path / "other", gallery=str(tmp_path / "people.gallery")) as other:
        assert names(other, collection="visitors") == ["Zoë Secret"]
        assert client.delete("/v1/collections/visitors").status_code == 204
        refused(client.get("/v1/people", params={"collection": "visitors"}), 404, "no_such_collection")
        refused(client.delete("/v1/collections/visitors"), 404, "no_such_collection")
        refused(other.get("/v1/people", params={"collection": "visitors"}), 404, "no_such_collection")
        assert "Secret" not in client.get("/v1/events/list?collection=visitors").text
        assert "Zoë Secret".encode() not in (tmp_path / "people.gallery").read_bytes()
        add_drawn(client, {"Bob": [1]}, "visitors")
        assert names(other, collection="visitors") == names(client, collection="visitors") == ["Bob"]
        assert names(client) == []


def test_a_kept_answer_is_erased_with_the_collection_it_created(client):
    made = {"json": {"name": "made-once"}, "headers": {"Idempotency-Key": "make-it"}}
    assert client.post("/v1/collections", **made).status_code == 201
    again = client.post("/v1/collections", **made)
    assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")
    assert client.delete("/v1/collections/made-once").status_code == 204
    assert client.post("/v1/collections", **made).json()["code"] == "conflict"
