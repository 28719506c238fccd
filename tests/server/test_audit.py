from __future__ import annotations

import time

import pytest

from facespace.server import audit as audit_module
from facespace.server.audit import Audit
from facespace.server.state import State


@pytest.fixture
def audit(state: State) -> Audit:
    return Audit(state)


def test_an_entry_says_who_did_what_and_when(audit: Audit):
    audit.record(
        "ada (key 3f)", "revoke_key", key="3f", collection="staff", path="/v1/keys/9b", status=204, address="127.0.0.1",
        request="r1", details={"label": "door"},
    )  # fmt: skip
    (entry,) = audit.entries()
    assert abs(entry.at - time.time()) < 60
    assert (entry.actor, entry.action, entry.key, entry.collection, entry.path) == (
        "ada (key 3f)", "revoke_key", "3f", "staff", "/v1/keys/9b",
    )  # fmt: skip
    assert (entry.status, entry.address, entry.request, entry.details) == (204, "127.0.0.1", "r1", {"label": "door"})


def test_pages_of_entries_come_latest_first(audit: Audit):
    for k in range(5):
        audit.record("ada", f"a{k}", collection="staff" if k % 2 else "default")
    first = audit.entries(limit=2)
    assert [one.action for one in first] == ["a4", "a3"]
    assert [one.action for one in audit.entries(before=first[-1].id, limit=2)] == ["a2", "a1"]
    assert [one.action for one in audit.entries(collection="staff")] == ["a3", "a1"]


def test_the_log_is_bounded_and_numbers_are_not_used_again(audit: Audit, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(audit_module, "MAX_ENTRIES", 3)
    for k in range(5):
        audit.record("ada", f"a{k}")
    assert [(one.id, one.action) for one in audit.entries()] == [(5, "a4"), (4, "a3"), (3, "a2")]


def test_texts_from_outside_are_bounded_and_made_plain(audit: Audit):
    audit.record("a\nb" * 1000, "x", path="/\x00" * 1000, details={"a": "b" * 10_000})
    (entry,) = audit.entries()
    assert entry.actor.startswith("a\\nb")
    assert max(len(entry.actor), len(entry.path)) <= 200
    assert entry.details == {}
