"""Events in a state file: written, read, listened to, forgotten and pruned, also by two workers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from facespace.server import events as module
from facespace.server.events import Event, EventFilter, Events, event_body
from facespace.server.state import State
from support.waiting import wait_until

ANNA = {"id": "7", "name": "Anna", "external_id": None}
BEN = {"id": "8", "name": "Ben", "external_id": None}


def kinds(found: list[Event]) -> list[str]:
    return [event.kind for event in found]


def test_a_change_is_there_when_emit_returns(events: Events, state: State) -> None:
    begin = events.newest()
    events.emit("enrolled", "staff", {"person": ANNA, "photo_id": "3", "actor": "key 1"})
    (body,) = state.rows("SELECT body FROM event")[0]
    assert "Anna" in body
    (event,) = wait_until(lambda: events.after(begin))
    found = json.loads(event.json)
    at = found.pop("at")
    assert at.endswith("Z") and abs(time.time() - _seconds(at)) < 60
    assert found == {
        "id": str(event.number), "kind": "enrolled", "collection": "staff", "source": "api", "person": ANNA, "photo_id": "3",
        "actor": "key 1",
    }  # fmt: skip
    assert event.person == "7"


def _seconds(at: str) -> float:
    import datetime

    return datetime.datetime.fromisoformat(at.replace("Z", "+00:00")).timestamp()


def test_an_event_has_no_image_and_no_embedding(events: Events) -> None:
    face = {
        "box": [1, 2, 3, 4], "score": 0.9, "name": None, "person": None, "similarity": 0.1, "embedding": [0.5] * 512,
        "crop": "abc", "landmarks": [[1, 2]], "unknown": {"reason": "stranger"}, "unknown_id": "u1",
    }  # fmt: skip
    found = json.loads(event_body("unknown", "default", face))
    assert set(found) == {"at", "kind", "collection", "source", "box", "similarity", "reason", "unknown_id"}
    with pytest.raises(ValueError, match="kind must be one of"):
        event_body("seen", "default", {})
    with pytest.raises(ValueError, match="at most"):
        event_body("known", "default", {"reason": "x" * 100_000})
    with pytest.raises(ValueError, match="JSON compliant"):
        event_body("known", "default", {"similarity": float("nan")})


def test_people_seen_are_written_only_with_a_listener(events: Events) -> None:
    begin = events.newest()
    events.emit("known", "default", {"person": ANNA})
    events.set_listening("test", time.time() + 60)
    events.emit("known", "default", {"person": BEN})
    events.emit("unknown", "default", {"unknown": {"reason": "ignored"}})  # these are not events
    events.emit("enrolled", "default", {"person": BEN})
    wait_until(lambda: len(events.after(begin)) >= 2)
    time.sleep(0.3)
    assert sorted(kinds(events.after(begin))) == ["enrolled", "known"]
    events.set_listening("test", None)
    assert not events.has_listeners()


def test_filters_select_events() -> None:
    event = Event(1, "known", "staff", "7", "{}")
    for event_filter in (
        EventFilter(),
        EventFilter(("known", "unknown")),
        EventFilter(collection="staff"),
        EventFilter(person="7"),
    ):
        assert event_filter.takes(event)
    for event_filter in (EventFilter(("enrolled",)), EventFilter(collection="default"), EventFilter(person="8")):
        assert not event_filter.takes(event)


@pytest.mark.parametrize("in_memory", [True, False])
def test_reading_from_a_number(events: Events, in_memory: bool) -> None:
    begin = events.newest()
    for k in range(6):
        events.emit("enrolled" if k % 2 else "removed", "staff" if k < 3 else "default", {"person": ANNA if k else BEN})
    wait_until(lambda: events.newest() == begin + 6)
    if not in_memory:
        events._recent_after = begin + 100  # as if the events had left the memory
    assert (events.recent(begin, 10, None) is not None) is in_memory
    assert [event.number - begin for event in events.after(begin + 2)] == [3, 4, 5, 6]
    found, last = events.read(begin, 2)
    assert [event.number - begin for event in found] == [1, 2] and last == begin + 2
    found, last = events.read(begin, 10, EventFilter(("enrolled",)))
    assert [event.number - begin for event in found] == [2, 4, 6] and last == begin + 6
    found, last = events.read(begin, 10, EventFilter(collection="staff", person="8"))
    assert [event.number - begin for event in found] == [1]
    assert last == begin + 6, "events that were filtered out are not read again"
    assert events.read(begin + 6, 10) == ([], begin + 6)


def test_a_listener_is_woken(events: Events) -> None:
    async def listen() -> list[Event]:
        listener = events.listen()
        assert events.has_listeners()
        number = events.newest()
        await asyncio.to_thread(events.emit, "known", "default", {"person": ANNA})
        end = time.monotonic() + 5
        found: list[Event] = []
        while not found and time.monotonic() < end:
            await listener.wait(1)
            found, number = await listener.read(number, 10, EventFilter())
        listener.close()
        return found

    assert kinds(asyncio.run(listen())) == ["known"]
    wait_until(lambda: not events._listeners)


def test_a_worker_sees_its_own_events_at_once(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLL", 30.0)  # only events of other workers wait for the poll
    events = Events(state)
    begin = events.newest()
    events.emit("enrolled", "default", {"person": ANNA})
    wait_until(lambda: events.newest() > begin, seconds=5)
    events.close()


def test_too_many_listeners(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LISTENERS", 2)

    async def listen() -> None:
        for _ in range(2):
            events.listen()
        with pytest.raises(RuntimeError, match="2 event streams are open already"):
            events.listen()
        events.end_streams()
        with pytest.raises(RuntimeError, match="closed"):
            events.listen()

    asyncio.run(listen())


def test_one_key_does_not_take_all_streams(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LISTENERS_OF_ONE", 2)

    async def listen() -> None:
        first = events.listen("ada")
        events.listen("ada")
        with pytest.raises(RuntimeError, match="this key has 2 open event streams already"):
            events.listen("ada")
        events.listen("ben")
        first.close()
        events.listen("ada")

    asyncio.run(listen())


def test_two_workers_see_each_others_events(events: Events, tmp_path: Path) -> None:
    begin = events.newest()
    code = (
        "import sys\nfrom facespace.server.events import Events\nfrom facespace.server.state import State\n"
        "events = Events(State(sys.argv[1]))\n"
        "assert events.has_listeners(), 'the other worker has a listener'\n"
        "events.emit('known', 'default', {'person': {'id': '7', 'name': 'Anna', 'external_id': None}})\n"
        "events.emit('removed', 'default', {})\nevents.close()\n"
    )
    events.set_listening("stream", time.time() + 60)
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "state")], check=True, timeout=60)
    wait_until(lambda: len(events.after(begin)) == 2, seconds=5)
    assert sorted(kinds(events.after(begin))) == ["known", "removed"]


def test_numbers_continue_in_a_new_file(tmp_path: Path) -> None:
    numbers = []
    for folder in ("a", "b"):
        state = State(tmp_path / folder)
        events = Events(state)
        events.emit("removed", "default", {})
        numbers.append(state.rows("SELECT max(number) FROM event")[0][0])
        events.close()
        state.close()
        time.sleep(0.01)
    assert numbers[1] > numbers[0] > 1_000_000_000_000


def test_what_waits_is_written_at_the_end(state: State) -> None:
    events = Events(state)
    events.set_listening("test", time.time() + 60)
    events.emit("known", "default", {"person": ANNA})
    events.close()
    assert state.rows("SELECT kind FROM event") == [("known",)]


def test_a_person_who_is_erased_is_forgotten(events: Events, state: State) -> None:
    events.set_listening("test", time.time() + 60)
    begin = events.newest()
    for person in (ANNA, BEN):
        events.emit("enrolled", "default", {"person": person})
        events.emit("enrolled", "staff", {"person": person})  # person 7 of another collection is a different person
        events.emit("known", "default", {"person": person})
    events.forget("default", "7")
    wait_until(lambda: len(events.after(begin)) == 4)
    time.sleep(0.4)  # so that waiting events would have been written
    assert state.rows("SELECT count(*) FROM event WHERE collection = 'default' AND person = '7'") == [(0,)]
    found = [(event.collection, event.person) for event in events.after(begin)]
    assert sorted(found) == [("default", "8"), ("default", "8"), ("staff", "7"), ("staff", "8")]


def test_other_workers_forget_too(events: Events, tmp_path: Path) -> None:
    begin = events.newest()
    for person in (ANNA, BEN):
        events.emit("enrolled", "default", {"person": person})
    wait_until(lambda: events.newest() == begin + 2)
    code = (
        "import sys\nfrom facespace.server.events import Events\nfrom facespace.server.state import State\n"
        "Events(State(sys.argv[1])).forget('default', '7')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "state")], check=True, timeout=60)
    wait_until(lambda: [event.person for event in events.after(begin)] == ["8"])


def test_an_event_that_is_just_read_does_not_outlive_its_person(
    events: Events, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, opened = events.newest(), events._event

    def read_slowly(row: tuple[object, ...]) -> Event:
        time.sleep(0.3)
        return opened(row)

    monkeypatch.setattr(events, "_event", read_slowly)
    events.emit("enrolled", "default", {"person": ANNA})
    time.sleep(0.1)  # the background thread has read the row by now
    events.forget("default", "7")
    time.sleep(0.5)
    assert events.after(begin) == []


def test_old_events_are_deleted(events: Events, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = events.newest()
    for _ in range(5):
        events.emit("removed", "default", {})
    with state.transaction() as connection:
        connection.execute("UPDATE event SET at = ? WHERE number = ?", (time.time() - 31 * 86_400, begin + 1))
    events._prune()
    assert state.rows("SELECT min(number) FROM event") == [(begin + 2,)]
    monkeypatch.setattr(module, "MAX_EVENTS", 2)
    events._prune()
    assert state.rows("SELECT count(*) FROM event") == [(2,)]
    assert events.missed_before(begin + 2)
    assert not events.missed_before(begin + 3)


def test_people_seen_wait_in_bounded_memory(events: Events) -> None:
    events.set_listening("test", time.time() + 60)
    with events._writing:  # a slow disk
        for k in range(module.MAX_WAITING + 5):
            events.emit("known", "default", {"person": {**ANNA, "id": str(k)}})
        assert len(events._waiting) == module.MAX_WAITING
        assert events._waiting[-1][3] == str(module.MAX_WAITING + 4), "the oldest are dropped"
