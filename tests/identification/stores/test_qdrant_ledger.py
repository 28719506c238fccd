"""Changes at Qdrant are atomic: interrupted at every request, repeated late, and mixed with another change."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable
from typing import Any

import pytest

from facespace.errors import GalleryError
from facespace.identification import edits
from facespace.identification.stores import qdrant_ledger
from facespace.identification.stores.protocol import Conflict
from facespace.identification.stores.qdrant import QdrantStore
from facespace.identification.stores.qdrant_ledger import Intent
from facespace.identification.stores.qdrant_points import Head
from support.gallery_states import DIMENSION, entry, state_of
from support.qdrant import Killed, SharedClient

CHANGES: dict[str, Callable[[QdrantStore], Any]] = {
    "add": lambda store: store.add("Eve", entry(50, crop=b"png")),
    "add a photo": lambda store: store.add("Ada", entry(51)),
    "rename": lambda store: edits.rename(store, "Ada", "Zoë"),
    "edit": lambda store: edits.edit(store, "Ada", external_id="a-1", metadata={"team": 1}, templates="best"),
    "remove": lambda store: edits.remove(store, "Ada"),
    "remove photos": lambda store: edits.remove_photos(store, "Ada", [1], reject=True),
    "merge": lambda store: edits.merge(store, ["Ada", "Bob"], "Cid"),
    "split": lambda store: edits.move(store, "Ada", [1, 4], "Dora"),
    "undo": lambda store: edits.undo(store),
    "erase": lambda store: store.erase(),
    "templates": lambda store: store.set("templates", "best"),
    "setting": lambda store: store.set("rate", 0.5),
}  # fmt: skip


def opened(client: SharedClient) -> QdrantStore:
    return QdrantStore("qdrant://memory", client=client, create=True)


def prepared() -> SharedClient:
    """Return a new gallery with a few people."""
    client = SharedClient()
    client.client._client.collections = copy.deepcopy(_prepared().client._client.collections)
    return client


@functools.cache
def _prepared() -> SharedClient:
    client = SharedClient()
    store = opened(client)
    for k in range(9):
        store.add(("Ada", "Bob", "Cid")[k % 3], entry(k))
    store.add("Gone", entry(20))
    edits.remove(store, "Gone")
    edits.remove_photos(store, "Bob", [2])
    return client


def seen(store: QdrantStore) -> dict[str, Any]:
    """Return the state of a store, after checking that its counts and rows match its photos."""
    found = state_of(store)
    assert found["count"] == len(found["people"])
    for one in found["people"]:
        assert one.n_photos == len(found["photos"][one.id])
    rows = [one.payload for one in store._server.scroll("facespace-default-people", None)]
    live = [(one["person"], one["n_photos"]) for one in rows if one["state"] == "live"]
    default = store.setting("templates")
    for one in found["people"]:
        best = (one.state.templates or default) == "best" or one.n_photos == 1
        expected = [(one.id, 1)] * one.n_photos if best else [(one.id, one.n_photos)]
        assert [row for row in live if row[0] == one.id] == expected
    assert {person for person, _ in live} == {one.id for one in found["people"]}
    return found | {"rate": store.setting("rate"), "templates": default}


def outcome(kind: str) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Return the states before and after a change, and the number of write requests."""
    client = prepared()
    store = opened(client)
    before = seen(store)
    client.n_writes = 0
    CHANGES[kind](store)
    n = client.n_writes
    return before, seen(store), n


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qdrant_ledger, "_WAIT_SECONDS", 0.0)


@pytest.mark.parametrize("late", [False, True], ids=["not sent", "sent, not answered"])
@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_that_is_stopped_is_whole_or_not_at_all(kind: str, late: bool) -> None:
    before, after, n_writes = outcome(kind)
    assert n_writes >= 1 and before != after
    outcomes = []
    for stop in range(1, n_writes + 1):
        client = prepared()
        store = opened(client)
        client.n_writes, client.kill_at, client.late = 0, stop, late
        with pytest.raises(Killed):
            CHANGES[kind](store)
        client.kill_at = None
        found = seen(opened(client))
        assert found in (before, after), f"stopped at request {stop}"
        outcomes.append(found == after)
        if found == before:
            CHANGES[kind](opened(client))
            assert seen(opened(client)) == after, f"repeated after it was stopped at request {stop}"
    assert outcomes == sorted(outcomes), "after a certain request it is always done"
    assert outcomes[-1] or not late


@pytest.mark.parametrize("kind", ["merge", "erase", "add"])
def test_finishing_a_change_can_be_interrupted_too(kind: str) -> None:
    before, after, n_writes = outcome(kind)
    for stop in range(1, n_writes + 1):
        client = prepared()
        store = opened(client)
        client.n_writes, client.kill_at = 0, stop
        with pytest.raises(Killed):
            CHANGES[kind](store)
        for _ in range(8):
            client.n_writes, client.kill_at = 0, 1 + _ % 4
            try:
                opened(client).version()
            except Killed:
                continue
        client.kill_at = None
        assert seen(opened(client)) in (before, after)


def test_a_handle_that_is_open_finishes_what_another_process_left() -> None:
    client = prepared()
    reader, writer = opened(client), opened(client)
    _, after, n_writes = outcome("merge")
    client.n_writes, client.kill_at = 0, n_writes  # the last one, after the change was committed
    with pytest.raises(Killed):
        CHANGES["merge"](writer)
    client.kill_at = None
    assert seen(reader) == after


@pytest.mark.parametrize("kind", CHANGES)
def test_steps_that_come_late_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may pause while it carries out a change, and repeat all steps after later changes."""
    client = prepared()
    store = opened(client)
    late: list[tuple[Head, Intent]] = []
    carry_out = qdrant_ledger.Ledger._carry_out

    def watched(self: Any, head: Head, intent: Intent) -> None:
        late.append((head, intent))
        carry_out(self, head, intent)

    monkeypatch.setattr(qdrant_ledger.Ledger, "_carry_out", watched)
    CHANGES[kind](store)
    monkeypatch.undo()
    edits.merge(store, [one.state.name for one in store.people()], "Cid")
    edits.undo(store)
    edits.rename(store, "Cid", "Ida")
    now = seen(store)
    for one in late:
        carry_out(store._ledger, *one)
    assert seen(store) == now, "what was changed again"
    edits.remove(store, "Ida")
    store.erase()
    store.add("Ada", entry(90))
    now = seen(store)
    for one in late:
        carry_out(store._ledger, *one)
    assert seen(store) == now == seen(opened(client)), "what was erased"


@pytest.mark.parametrize("other", ["add a photo", "rename", "merge", "erase", "templates"])
@pytest.mark.parametrize("kind", ["add a photo", "rename", "merge", "split", "erase", "templates"])
def test_two_changes_at_once_are_one_after_the_other(kind: str, other: str) -> None:
    """Another process makes its change before each request of this one."""

    def attempt(store: QdrantStore, what: str) -> bool:
        """Return whether the change was refused."""
        try:
            CHANGES[what](store)
        except GalleryError:
            return True
        return False

    serial = []
    for order in ((kind, other), (other, kind)):
        client = prepared()
        refused = {what: attempt(opened(client), what) for what in order}
        serial.append((refused, _without_log(seen(opened(client)))))
    client = prepared()
    opened(client)
    client.n_requests = 0
    attempt(opened(client), kind)
    n_requests = client.n_requests
    for moment in range(1, n_requests + 1, 3):
        client = prepared()
        store, others = opened(client), opened(client)
        refused = {}
        client.n_requests, client.interrupt_at = 0, moment
        client.interrupt = lambda others=others, refused=refused: refused.update({other: attempt(others, other)})
        refused[kind] = attempt(store, kind)
        if other not in refused or kind == other:
            continue
        assert (refused, _without_log(seen(opened(client)))) in serial, f"before request {moment}"
        left = opened(client)._ledger.staged_before(2**40)
        assert not any(left.values()), "the staged points of the slower change are deleted"


def _without_log(found: dict[str, Any]) -> dict[str, Any]:
    """Return the state without ids and log, which depend on the order."""
    return {key: found[key] for key in ("count", "names", "qualities", "templates")} | {
        "photos": sorted((one.state.name, sorted(photo.digest for photo in found["photos"][one.id])) for one in found["people"])
    }  # fmt: skip


def test_what_was_staged_and_never_decided_is_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    client = prepared()
    store = opened(client)
    store.erase()
    n_points = _n_points(client)
    client.n_writes, client.kill_at = 0, 4  # photo, row and records are staged, but the head is not written
    with pytest.raises(Killed):
        store.add("Eve", entry(50))
    client.kill_at = None
    assert _n_points(client) == [n_points[0] + 3, n_points[1] + 1, n_points[2] + 1]
    assert opened(client).erase() == 0
    assert _n_points(client) != n_points, "its process may still be running"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 4000)
    assert opened(client).erase() == 0
    found = _n_points(client)
    assert found == [n_points[0] + 1, *n_points[1:]], "the intent of the erasure stays"
    assert store.find("Eve") is None and store.add("Eve", entry(50))


def _n_points(client: SharedClient) -> list[int]:
    return [client.count(f"facespace-default-{one}").count for one in ("records", "photos", "people")]


def test_a_slow_process_whose_staged_points_were_erased_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    client = prepared()
    store, other = opened(client), opened(client)
    now = time.time()

    def erase_later() -> None:
        monkeypatch.setattr(time, "time", lambda: now + 4000)
        other.erase()

    client.n_writes, client.interrupt_before_write, client.interrupt = 0, 4, erase_later
    assert store.add("Eve", entry(50))
    assert [one.n_photos for one in store.people() if one.state.name == "Eve"] == [1]
    assert store.embeddings([photo.id for photo in store.photos(store.find("Eve").id)]).shape == (1, DIMENSION)


def test_old_intents_and_enrolments_of_the_log_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_KEPT_LOG", "_KEPT_INTENTS"):
        monkeypatch.setattr(qdrant_ledger, name, 10)
    monkeypatch.setattr(qdrant_ledger, "_CLEANUP_INTERVAL", 5)
    client = SharedClient()
    store = opened(client)
    for k in range(30):
        store.add("Ada", entry(k))
        if k == 3:
            edits.edit(store, "Ada", external_id="a")
    log = store.log(100)
    assert [one.kind for one in log] == ["enroll"] * (len(log) - 1) + ["edit"]
    assert 10 <= len(log) <= 17
    intents = [
        one for one in store._server.scroll("facespace-default-records", None) if one.payload["kind"] == "change"
    ]
    assert 10 <= len(intents) <= 17 and not any(one.payload["intent"] for one in intents)


def test_a_gallery_that_others_change_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qdrant_ledger, "_BUSY_SECONDS", 0.05)
    client = prepared()
    store = opened(client)
    monkeypatch.setattr(qdrant_ledger.Ledger, "commit", lambda *_: False)
    with pytest.raises(GalleryError, match="other processes changed it for 0 s; try again when fewer do"):
        store.add("Eve", entry(50))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda stored: None, "an intent has the wrong fields"),
        (lambda stored: {**stored, "more": 1}, "an intent has the wrong fields"),
        (lambda stored: {**stored, "logs": ["x"]}, "the points of an intent are not ids"),
        (lambda stored: {**stored, "people": [1]}, "the people of an intent are not pairs"),
        (lambda stored: {**stored, "photos": {}}, "the photos of an intent are not a list"),
        (lambda stored: {**stored, "forgotten": [[1, []]]}, "the forgotten of an intent are not pairs"),
        (lambda stored: {**stored, "erased": {"others": []}}, "of an unknown collection"),
        (lambda stored: {**stored, "erased": {"rows": "all"}}, "the points of an intent are not ids"),
    ],
)
def test_an_intent_is_checked(damage: Callable[[dict[str, Any]], Any], told: str) -> None:
    import json

    stored = json.loads(Intent(Head()).to_json())
    assert Intent.from_json(Head(), stored) == Intent(Head())
    with pytest.raises(ValueError, match=told):
        Intent.from_json(Head(), damage(stored))


def test_conflicts_are_raised_after_the_others_change() -> None:
    client = prepared()
    store, other = opened(client), opened(client)
    person = store.find("Ada")
    edits.rename(other, "Ada", "Zoë")
    from facespace.identification.stores.protocol import Change, PersonChange

    with pytest.raises(Conflict):
        store.apply(Change("remove", "", (PersonChange(person.id, person.state, None),)))
