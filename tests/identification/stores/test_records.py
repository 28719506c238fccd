"""Merging a person with the person of the same name in a store."""

from __future__ import annotations

import pytest

from facespace.identification.stores.protocol import PersonState
from facespace.identification.stores.records import Counts, joined, seconds_of
from support.gallery_people import person, photo


def free(_: str) -> bool:
    return True


def test_a_new_person_is_what_the_record_says() -> None:
    record = person("Ada", 1, 2, external_id="a1", metadata={"x": 1}, rejected=("0" * 64,), templates="best")
    assert joined(record, None, set(), free) == (record.state, record.photos, Counts(1, 0, 2))


def test_an_external_id_of_another_person_is_left_out_with_a_remark() -> None:
    record = person("Ada", 1, external_id="a1")
    plan = joined(record, None, set(), lambda value: value != "a1")
    assert plan.state.external_id == "" and plan.counts.remarks == (
        "Ada: another person has the external id 'a1'; it was left out",
    )
    assert joined(record, PersonState("Ada"), set(), lambda _: False).state.external_id == ""
    assert joined(record, PersonState("Ada", "a1"), set(), lambda _: False).counts.remarks == (), "it is already theirs"
    assert joined(record, PersonState("Ada", "b2"), set(), free).state.external_id == "b2", "the store's value is kept"


def test_a_known_person_gets_new_photos_and_keeps_the_rest() -> None:
    digests = [photo(k).entry.digest for k in range(5)]
    held = PersonState("Ada", "", {"team": "blue"}, (digests[2],), "mean")
    record = person(
        "Ada", 0, 1, 2, external_id="a1", metadata={"team": "red", "x": 1}, rejected=(digests[3], digests[4])
    )
    state, photos, counts = joined(record, held, {digests[0], digests[4]}, free)
    assert [one.entry.digest for one in photos] == [digests[1]]
    assert counts == Counts(0, 1, 1, 1, 1)
    # Digest 4 is enrolled in the store, and the store's state is kept.
    assert state == PersonState("Ada", "a1", {"team": "blue", "x": 1}, (digests[2], digests[3]), "mean")


def test_doing_it_twice_changes_nothing_more() -> None:
    digests = [photo(k).entry.digest for k in range(5)]
    record = person("Ada", 0, 1, external_id="a1", metadata={"x": 1}, rejected=(digests[3],), templates="best")
    once = joined(record, PersonState("Ada", "", {"y": 2}), {digests[4]}, free)
    again = joined(record, once.state, {digests[4], digests[0], digests[1]}, free)
    assert (again.state, again.photos) == (once.state, ())
    assert again.counts == Counts(0, 1, 0, 2)


@pytest.mark.parametrize(
    "text",
    ["", "2026-01-02", "2026-13-02T03:04:05Z", "2026-02-30T03:04:05Z", "1969-12-31T23:59:59Z", "٢٠٢٦-01-02T03:04:05Z"],
)
def test_invalid_times(text: str) -> None:
    with pytest.raises(ValueError, match=r"time must be|month|day"):
        seconds_of(text)
