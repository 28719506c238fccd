"""Webhooks in a state file: filters, waiting deliveries and dead letters, without sending anything."""

from __future__ import annotations

import time

import pytest

from facespace.server import webhooks as module
from facespace.server.events import Events
from facespace.server.state import State
from facespace.server.webhook_targets import TargetRefused
from facespace.server.webhooks import Delivery, Webhooks
from support.waiting import wait_until

ANNA = {"id": "7", "name": "Anna", "external_id": None}
BEN = {"id": "8", "name": "Ben", "external_id": None}
URL = "https://example.com/hook"


@pytest.fixture
def webhooks(state: State, events: Events) -> Webhooks:
    return Webhooks(state, events)


def emit(events: Events, kind: str = "enrolled", collection: str = "default", person: dict[str, object] = ANNA) -> None:
    before = events.newest()
    events.emit(kind, collection, {"person": person})
    wait_until(lambda: events.newest() > before)


def waiting(webhooks: Webhooks) -> list[Delivery]:
    """Take all waiting deliveries, one after the other."""
    found = []
    while due := webhooks.due(set()):
        found += due
        for delivery in due:
            webhooks.delivered(delivery)
    return found


def test_each_gets_what_it_asked_for(events: Events, webhooks: Webhooks) -> None:
    emit(events)  # before there is a webhook
    all_ = webhooks.create(URL, label="all").id
    kind = webhooks.create(URL, kinds=["removed"]).id
    collection = webhooks.create(URL, collection="staff").id
    person = webhooks.create(URL, person="8").id
    emit(events)
    emit(events, "removed")
    emit(events, collection="staff")
    emit(events, person=BEN)
    webhooks.spread()
    got: dict[str, int] = {}
    for delivery in waiting(webhooks):
        got[delivery.webhook] = got.get(delivery.webhook, 0) + 1
    assert got == {all_: 4, kind: 1, collection: 1, person: 1}
    assert not webhooks.spread(), "no event is spread twice"
    assert [one.label for one in webhooks.all()] == ["all", "", "", ""]


def test_the_secret_is_shown_once(state: State, webhooks: Webhooks) -> None:
    new = webhooks.create(URL)
    assert len(new.secret) > 40 and new.secret not in repr(new)
    assert new.secret not in repr(webhooks.all())
    assert not any(new.secret in line for line in [repr(delivery) for delivery in webhooks.due(set())])


def test_invalid_webhooks_are_refused(webhooks: Webhooks, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TargetRefused, match="not a public address"):
        webhooks.create("http://10.0.0.1/")
    with pytest.raises(ValueError, match="a kind of event must be one of known, unknown, enrolled"):
        webhooks.create(URL, kinds=["seen"])
    with pytest.raises(ValueError, match=r"label .* at most 100"):
        webhooks.create(URL, label="x" * 101)
    monkeypatch.setattr(module, "MAX_WEBHOOKS", 1)
    webhooks.create(URL)
    with pytest.raises(ValueError, match="there are 1 webhooks already"):
        webhooks.create(URL)


def test_people_seen_are_written_only_for_webhooks_that_select_them(events: Events, webhooks: Webhooks) -> None:
    webhooks.create(URL, kinds=["enrolled"])
    assert not events.has_listeners()
    new = webhooks.create(URL)
    assert events.has_listeners()
    webhooks.remove(new.id)
    assert not events.has_listeners()


def test_retries_and_dead_letters(events: Events, webhooks: Webhooks, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [time.time()]
    new = webhooks.create(URL)
    emit(events)
    webhooks.spread()
    monkeypatch.setattr(module.time, "time", lambda: clock[0])
    clock[0] = time.monotonic() + 2e9
    pauses = []
    while due := webhooks.due(set()):
        webhooks.failed(due[0], "it answered 500")
        after = webhooks.next_due(set())
        if after is None:
            break
        assert webhooks.due(set()) == [], "not before its time"
        pauses.append(round(after - clock[0], 3))
        clock[0] = after
    assert pauses == [1, 5, 30, 300, 1800, 7200]
    (one,) = webhooks.all()
    assert (one.n_waiting, one.n_dead, one.error) == (0, 1, "it answered 500")
    (letter,) = webhooks.dead(new.id)
    assert (letter.attempts, letter.error, letter.event["person"]) == (7, "it answered 500", ANNA)
    assert webhooks.dead(new.id, after=letter.number) == []
    assert not webhooks.retry(new.id, letter.number + 1)
    assert not webhooks.retry("wh_other", letter.number)
    assert webhooks.retry(new.id, letter.number)
    assert not webhooks.retry(new.id, letter.number), "it is no longer dead"
    (again,) = webhooks.due(set())
    assert again.attempts == 0
    webhooks.delivered(again)
    (one,) = webhooks.all()
    assert (one.n_waiting, one.n_dead, one.error, one.delivered) == (0, 0, None, clock[0])


def test_one_at_a_time_and_in_order(events: Events, webhooks: Webhooks) -> None:
    first, second = webhooks.create(URL).id, webhooks.create(URL).id
    for _ in range(3):
        emit(events)
    webhooks.spread()
    assert sorted(one.webhook for one in webhooks.due(set())) == sorted([first, second])
    (one,) = webhooks.due({second})
    assert one.webhook == first
    assert webhooks.next_due({first, second}) is None
    numbers = [one.event for one in waiting(webhooks) if one.webhook == first]
    assert numbers == sorted(numbers) and len(numbers) == 3


def test_waiting_deliveries_are_limited(events: Events, webhooks: Webhooks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DELIVERIES", 2)
    monkeypatch.setattr(module, "MAX_DEAD", 3)
    new = webhooks.create(URL)
    for _ in range(8):
        emit(events)
        webhooks.spread()
    (one,) = webhooks.all()
    assert (one.n_waiting, one.n_dead) == (2, 3)
    letters = webhooks.dead(new.id)
    assert all("were waiting" in letter.error for letter in letters)
    newest = [int(letter.event["id"]) for letter in letters]
    assert newest == [events.newest() - back for back in (4, 3, 2)], "the oldest are deleted"


def test_removing_a_webhook_removes_what_waits(state: State, events: Events, webhooks: Webhooks) -> None:
    new = webhooks.create(URL)
    emit(events)
    webhooks.spread()
    (delivery,) = webhooks.due(set())
    assert webhooks.remove(new.id)
    assert not webhooks.remove(new.id)
    webhooks.failed(delivery, "too late")
    assert state.rows("SELECT count(*) FROM webhook_delivery") == [(0,)]
    assert webhooks.find(new.id) is None


def test_a_person_who_is_erased_is_not_sent(state: State, events: Events, webhooks: Webhooks) -> None:
    webhooks.create(URL)
    emit(events)
    emit(events, person=BEN)
    webhooks.spread()
    events.forget("default", "7")
    assert state.rows("SELECT person FROM webhook_delivery") == [("8",)]
