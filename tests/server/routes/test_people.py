"""People over HTTP: listed, changed, merged, split, removed and erased."""

from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from facespace.identification import edits
from facespace.server import people as told_people
from support.served_people import add_drawn, entry, names, photos_of, refused, seen
from support.service import running_service, service_behind


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with running_service(tmp_path) as client:
        yield client


@pytest.fixture
def ids(client: TestClient) -> dict[str, str]:
    """Ada with three photos, Bob with two, Eve with one."""
    return add_drawn(client, {"Ada": [1, 2, 3], "Bob": [4, 5], "Eve": [6]})


def events(client: TestClient) -> list[tuple[str, Any]]:
    found = client.get("/v1/events/list").json()["events"]
    return [(one["kind"], one.get("person") or one.get("data", {}).get("person")) for one in found]


def test_pages_are_stable_while_people_come(client):
    add_drawn(client, {f"person {k:02}": [k] for k in range(10)})
    first = client.get("/v1/people", params={"limit": 4}).json()
    assert [one["name"] for one in first["people"]] == [f"person {k:02}" for k in range(4)]
    assert first["total"] == 10
    add_drawn(client, {"a": [20], "person 03b": [21], "z": [22]})
    rest = names(client, limit=4, after=first["next"])
    assert rest == ["person 03b", *(f"person {k:02}" for k in range(4, 10)), "z"]
    for wrong in ("x", "person 03", "!!", "AAAA", "=" * 10, "Zg\0"):
        refused(client.get("/v1/people", params={"after": wrong}), 422, "invalid")


def test_a_part_of_the_name_is_searched(client, monkeypatch):
    add_drawn(client, {"Zoë Müller": [1], "zoe": [2], "STRASSE": [3], "Straße": [4], "Bob": [5], "王小明": [6]})
    assert names(client, search="ZOE") == ["Zoë Müller", "zoe"]
    assert names(client, search="mull") == ["Zoë Müller"]
    assert names(client, search="strasse") == ["STRASSE", "Straße"]
    assert names(client, search="小") == ["王小明"]
    assert names(client, search="%") == names(client, search="' OR 1=1") == []
    assert names(client, search="zoe", limit=1) == ["Zoë Müller", "zoe"]
    monkeypatch.setattr(told_people, "MAX_SCANNED", 2)
    monkeypatch.setattr(told_people, "_BATCH", 2)
    page = client.get("/v1/people", params={"search": "王"}).json()
    assert page["people"] == [] and page["next"], (
        "a request stops after a number of names, and gives the cursor to continue"
    )
    assert names(client, search="王") == ["王小明"]


def test_by_external_id(client, ids):
    answer = client.patch(f"/v1/people/{ids['Ada']}", json={"external_id": "a-1"}, headers=seen(client, ids["Ada"]))
    assert answer.json()["external_id"] == "a-1"
    assert names(client, external_id="a-1") == ["Ada"]
    assert names(client, external_id="a") == names(client, external_id="") == names(client, external_id="\0") == []
    reply = refused(
        client.patch(f"/v1/people/{ids['Bob']}", json={"external_id": "a-1"}, headers={"if-match": "*"}),
        409, "name_taken",
    )  # fmt: skip
    assert reply["other"] == ids["Ada"]


def test_one_person(client, ids):
    answer = client.get(f"/v1/people/{ids['Ada']}")
    reply = answer.json()
    assert answer.headers["etag"] == f'"{reply["etag"]}"'
    assert [photo["source"] for photo in reply["photos"]] == ["1.jpg", "2.jpg", "3.jpg"]
    assert reply["cover"] in [photo["id"] for photo in reply["photos"]] and reply["n_photos"] == 3
    listed = next(one for one in client.get("/v1/people").json()["people"] if one["name"] == "Ada")
    assert listed == {key: value for key, value in reply.items() if key != "photos"}


def test_a_change_needs_the_current_etag(client, ids):
    path, old = f"/v1/people/{ids['Ada']}", seen(client, ids["Ada"])
    changed = client.patch(path, json={"name": " Ada King ", "metadata": {"x": 1}, "templates": "best"}, headers=old)
    assert changed.status_code == 200
    assert changed.headers["etag"] == seen(client, ids["Ada"])["if-match"] != old["if-match"]
    assert (changed.json()["name"], changed.json()["templates"]) == ("Ada King", "best")
    (photo,) = photos_of(client, ids["Ada"])[:1]
    others = {"others": [ids["Bob"]]}
    for call in (
        lambda headers: client.patch(path, json={"name": "X"}, headers=headers),
        lambda headers: client.delete(path, headers=headers),
        lambda headers: client.post(f"{path}/merge", json=others, headers=headers),
        lambda headers: client.post(f"{path}/split", json={"photos": [photo], "to": "X"}, headers=headers),
        lambda headers: client.post(f"{path}/reject", json={"photos": [photo]}, headers=headers),
        lambda headers: client.post(f"{path}/erase", headers=headers),
    ):
        before = client.get(path).json()
        refused(call(old), 412, "stale")
        refused(call({}), 428, "if_match_needed")
        refused(call({"if-match": "no tag"}), 412, "stale")
        refused(call({"if-match": f"W/{changed.headers['etag']}"}), 412, "stale")
        assert client.get(path).json() == before and names(client) == ["Ada King", "Bob", "Eve"]
    several = {"if-match": f'"other", {changed.headers["etag"]}'}
    assert client.patch(path, json={"name": "Ada"}, headers=several).json()["name"] == "Ada"
    assert client.get("/v1/log").json()["changes"][0]["kind"] == "rename"


def test_of_two_changes_of_one_person_one_is_refused(client, ids):
    """Both have read the same state; each time exactly one of them succeeds."""
    path = f"/v1/people/{ids['Ada']}"
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for turn in range(5):
            headers = seen(client, ids["Ada"])
            done = list(
                pool.map(lambda k: client.patch(path, json={"metadata": {"k": [turn, k]}}, headers=headers), (1, 2))  # noqa: B023
            )
            assert sorted(one.status_code for one in done) == [200, 412]
            winner = next(one for one in done if one.status_code == 200)
            assert client.get(path).json()["metadata"] == winner.json()["metadata"]


def test_a_taken_name(client, ids):
    path = f"/v1/people/{ids['Ada']}"
    reply = refused(client.patch(path, json={"name": "Bob"}, headers={"if-match": "*"}), 409, "name_taken")
    assert reply["other"] == ids["Bob"] and "people.gallery" not in reply["detail"]


def test_merge_and_its_undo(client, ids):
    path = f"/v1/people/{ids['Ada']}"
    etag = client.get(f"/v1/people/{ids['Bob']}").json()["etag"]
    body = {"others": [ids["Bob"], ids["Eve"]], "etags": [etag, "old"]}
    refused(client.post(f"{path}/merge", json=body, headers=seen(client, ids["Ada"])), 412, "stale")
    assert names(client) == ["Ada", "Bob", "Eve"]
    merged = client.post(f"{path}/merge", json={"others": [ids["Bob"], ids["Eve"]]}, headers=seen(client, ids["Ada"]))
    assert merged.json()["n_photos"] == 6 and names(client) == ["Ada"]
    refused(client.get(f"/v1/people/{ids['Bob']}"), 404, "no_such_person")
    assert client.post("/v1/undo", json={"number": merged.json()["undo"]}).json()["kind"] == "merge"
    assert names(client) == ["Ada", "Bob", "Eve"]
    refused(client.post("/v1/undo", json={"number": merged.json()["undo"]}), 409, "undo_refused")
    for wrong, status, code in (
        ({"others": [ids["Ada"]]}, 422, "invalid"),
        ({"others": []}, 422, "invalid"),
        ({"others": [ids["Bob"]], "etags": []}, 422, "invalid"),
        ({"others": ["999"]}, 404, "no_such_person"),
        ({"others": ["x"]}, 404, "no_such_person"),
        ({"others": [ids["Bob"]] * 101}, 422, "invalid"),
    ):
        refused(client.post(f"{path}/merge", json=wrong, headers={"if-match": "*"}), status, code)
    assert names(client) == ["Ada", "Bob", "Eve"]


def test_split_and_reject(client, ids):
    path, (first, second, third) = f"/v1/people/{ids['Ada']}", photos_of(client, ids["Ada"])
    split = client.post(f"{path}/split", json={"photos": [first], "to": "Cy"}, headers=seen(client, ids["Ada"])).json()
    assert (split["person"]["n_photos"], split["other"]["name"], split["other"]["n_photos"]) == (2, "Cy", 1)
    rejected = client.post(f"{path}/reject", json={"photos": [second]}, headers=seen(client, ids["Ada"])).json()
    assert rejected["other"] is None and rejected["person"]["n_photos"] == 1
    gallery = service_behind(client).galleries.get()
    with pytest.raises(Exception, match="somebody said that this photo does not show Ada"):
        gallery.store.add("Ada", entry(gallery, 2))
    refused(client.post(f"{path}/reject", json={"photos": [third]}, headers={"if-match": "*"}), 409, "conflict")
    moved = client.post(f"{path}/reject", json={"photos": [third], "to": "Cy"}, headers={"if-match": "*"}).json()
    assert moved["person"] is None and moved["other"]["n_photos"] == 2
    (bobs, _) = photos_of(client, ids["Bob"])
    other = f"/v1/people/{ids['Eve']}"
    refused(
        client.post(f"{other}/split", json={"photos": [bobs], "to": "X"}, headers={"if-match": "*"}),
        404, "no_such_photo",
    )  # fmt: skip


def test_removed_until_undone_or_erased(client, ids):
    path = f"/v1/people/{ids['Ada']}"
    gone = client.delete(path, headers=seen(client, ids["Ada"])).json()
    refused(client.get(path), 404, "no_such_person")
    client.post("/v1/undo", json={"number": gone["undo"]})
    assert client.get(path).json()["n_photos"] == 3
    client.delete(path, headers={"if-match": "*"})
    assert client.post(f"{path}/erase").json() == {"erased": 3}
    refused(client.post(f"{path}/erase"), 404, "no_such_person")
    refused(client.post("/v1/undo", json={"number": gone["undo"]}), 409, "undo_refused")
    assert client.post(f"/v1/people/{ids['Bob']}/erase", headers={"if-match": "*"}).json() == {"erased": 2}
    reply = json.dumps(client.get("/v1/log").json())
    assert "Ada" not in reply and "Bob" not in reply and "somebody" in reply
    store = service_behind(client).galleries.get().store
    data = Path(store.name).read_bytes()
    assert b"Ada" not in data and b"Bob" not in data and b"Eve" in data


def test_invalid_ids(client, ids):
    for wrong in ("0", "-1", "1.0", "1e3", "x", "999999999", "9" * 19, "9" * 30, "١", "%00", "1%20", "..%2f..%2fetc",
                  "1'%20OR%20'1'='1", "1;DROP TABLE person"):  # fmt: skip
        for method in ("GET", "DELETE"):
            answer = client.request(method, f"/v1/people/{wrong}", headers={"if-match": "*"})
            refused(answer, 404, "no_such_person" if "%2f" not in wrong else "not_found")
    assert names(client) == ["Ada", "Bob", "Eve"]


def test_people_of_another_collection_are_not_there(client, ids):
    there = add_drawn(client, {"Zoë": [7]}, "visitors")
    (photo,) = [one["id"] for one in client.get(f"/v1/people/{there['Zoë']}?collection=visitors").json()["photos"]]
    for path in (f"/v1/people/{there['Zoë']}", f"/v1/people/{there['Zoë']}/photos",
                 f"/v1/people/{there['Zoë']}/photos/{photo}/crop", f"/v1/people/{ids['Ada']}?collection=visitors"):  # fmt: skip
        refused(client.get(path), 404, "no_such_person")
    refused(client.get(f"/v1/people/{ids['Ada']}/photos/{photo}/crop"), 404, "no_such_photo")
    refused(client.post(f"/v1/people/{there['Zoë']}/erase", headers={"if-match": "*"}), 404, "no_such_person")
    body = {"others": [there["Zoë"]]}
    refused(
        client.post(f"/v1/people/{ids['Ada']}/merge", json=body, headers={"if-match": "*"}), 404, "no_such_person"
    )  # fmt: skip
    for hidden in ("default-unknowns", "default-ignored", "missing", "../people", "a b", "'"):
        assert client.get("/v1/people", params={"collection": hidden}).status_code in (404, 422)
    assert names(client, collection="visitors") == ["Zoë"]


HOSTILE = [
    "Robert'); DROP TABLE person;--", "<script>alert(1)</script>", "../../etc/passwd", "\u202egnp.exe", "a\0b", "{{7*7}}",
    "=cmd|' /C calc'!A0", "x" * 200, "‮‏", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text(client, ids, name):
    body = json.dumps({"name": name, "metadata": {name: [name]}, "external_id": "x"})
    answer = client.patch(
        f"/v1/people/{ids['Ada']}", content=body, headers={"if-match": "*", "content-type": "application/json"}
    )
    assert answer.status_code in (200, 422), answer.text
    if answer.status_code == 200:
        assert answer.headers["content-type"] == "application/json"
        there = client.get(f"/v1/people/{ids['Ada']}").json()
        assert there["name"] == answer.json()["name"] and names(client, search=there["name"][:3]) != []
        if name.isprintable():
            assert there["name"] == name and there["metadata"] == {name: [name]}
    assert len(names(client)) == 3


def test_excessive_bodies(client, ids):
    path, headers = f"/v1/people/{ids['Ada']}", {"if-match": "*", "content-type": "application/json"}
    deep = "[" * 100_000 + "]" * 100_000
    bodies = [
        '{"name": "' + "x" * 1_000_000 + '"}', '{"metadata": ' + deep + "}", '{"metadata": {"a": ' + deep + "}}",
        '{"metadata": {"a": "' + "x" * 20_000 + '"}}', '{"metadata": {"a": NaN}}', '{"metadata": {"a": 1' + "0" * 6000 + "}}",
        '{"metadata": [1]}', '{"name": ""}', '{"name": "  "}', '{"name": 1}', '{"nome": "x"}', "[]", '"x"', "{", "\0", "",
        '{"external_id": "a\\u0000b"}', '{"templates": "worst"}', '{"external_id": "' + "x" * 201 + '"}',
    ]  # fmt: skip
    before = client.get(path).json()
    for body in bodies:
        answer = client.patch(path, content=body, headers=headers)
        assert answer.status_code in (400, 413, 422), (body[:60], answer.text)
        assert len(answer.content) < 3000
    assert client.patch(path, content='{"name": "' + "x" * 2**20 + '"}', headers=headers).status_code == 413
    assert client.get(path).json() == before
    large = client.patch(path, content='{"metadata": {"a": 1' + "0" * 4000 + "}}", headers=headers)
    assert large.status_code in (200, 400, 422) and client.get(path).status_code == 200


def test_changes_are_events_and_logged(client, ids):
    client.patch(f"/v1/people/{ids['Ada']}", json={"name": "Ada King"}, headers={"if-match": "*"})
    client.delete(f"/v1/people/{ids['Bob']}", headers={"if-match": "*"})
    kinds = [kind for kind, _ in events(client)]
    assert "changed" in kinds and "removed" in kinds
    assert client.get("/v1/log").json()["changes"][0]["actor"].endswith("over HTTP")


def test_two_services_on_one_gallery(client, ids, tmp_path):
    (tmp_path / "other").mkdir()
    with running_service(tmp_path / "other", gallery=str(tmp_path / "people.gallery")) as other:
        old = seen(client, ids["Ada"])
        assert other.patch(f"/v1/people/{ids['Ada']}", json={"name": "Ada King"}, headers=old).status_code == 200
        refused(client.delete(f"/v1/people/{ids['Ada']}", headers=old), 412, "stale")
        assert client.get(f"/v1/people/{ids['Ada']}").json()["name"] == "Ada King"
        client.delete(f"/v1/people/{ids['Bob']}", headers={"if-match": "*"})
        assert names(other) == names(client) == ["Ada King", "Eve"]


def test_a_person_without_photos_is_not_made(client):
    refused(client.post("/v1/people", json={"name": "Ada"}), 422, "photo_needed")
    refused(client.post("/v1/people", json={"name": ""}), 422, "invalid")
    refused(client.post("/v1/people", json=[1]), 422, "invalid")
    headers = {"content-type": "application/json"}
    refused(client.post("/v1/people", content="{", headers=headers), 400, "malformed")
    refused(client.post("/v1/people", content='{"name":' * 5000, headers=headers), 400, "malformed")
    refused(client.post("/v1/people", data={"name": "Ada"}), 415, "unsupported_media_type")
    assert names(client) == []


def test_the_etag_is_the_fingerprint(client, ids):
    store = service_behind(client).galleries.get().store
    person = edits.person_called(store, "Ada")
    assert client.get(f"/v1/people/{ids['Ada']}").json()["etag"] == edits.fingerprint(person, store.photos(person.id))


def test_erasing_includes_the_names_of_merged_people(client, ids):
    service = service_behind(client)
    store = service.galleries.get().store
    first = add_drawn(client, {"Erika": [91], "Erika K": [92], "Eric": [93]})
    merges = (("Erika K", "Erika"), ("Bob", "Erika K"), ("Eric", "Erika K"))
    numbers = {**ids, **first}
    for other, into in merges:
        body = {"others": [numbers[other]]}
        done = client.post(f"/v1/people/{numbers[into]}/merge", json=body, headers={"if-match": "*"})
        if other == "Erika K":  # merged in the other direction
            client.post("/v1/undo", json={"number": done.json()["undo"]})
    client.post(
        f"/v1/people/{numbers['Erika K']}/merge", json={"others": [numbers["Erika"]]}, headers={"if-match": "*"}
    )
    client.post(f"/v1/people/{ids['Ada']}/merge", json={"others": [numbers["Erika K"]]}, headers={"if-match": "*"})
    assert client.post(f"/v1/people/{ids['Ada']}/erase", headers={"if-match": "*"}).status_code == 200
    assert not any(name in one.text for one in store.log(1000) for name in ("Ada", "Bob", "Eri"))
    written = Path(service.settings.gallery).read_bytes()
    assert not [name for name in (b"Erika", b"Erika K") if name in written]
    reply = client.get("/v1/events/list", params={"limit": 1000}).text
    assert not [name for name in ("Ada", "Bob", "Eri") if name in reply]
