"""Tests the plan that several processes share."""

from __future__ import annotations

import pytest

from facespace.alignment.face_table import Row
from facespace.alignment.journal import BATCH, Journal
from facespace.errors import DatasetError

PHOTOS = [f"A/{k}.jpg" for k in range(2 * BATCH + 3)]


def rows(photos):
    return [Row(photo, "", "no face", "no face found", 9, 9) for photo in photos]


def test_every_batch_is_claimed_once_and_done_once(tmp_path):
    one = Journal.start(tmp_path / ".align", PHOTOS)
    two = Journal(tmp_path / ".align")
    claimed = [one.claim(), two.claim(), one.claim()]
    assert [batch.number for batch in claimed] == [0, 1, 2]
    assert one.claim() is None and two.claim() is None
    assert [photo for batch in claimed for photo in batch.photos] == PHOTOS
    one.finish(claimed[2], rows(claimed[2].photos))
    assert (one.n_done(), two.n_done()) == (3, 3)
    two.abandon()  # its batch is free again
    again = one.claim()
    assert again.number == 1 and not one.is_complete()
    one.finish(again, rows(again.photos))
    one.finish(claimed[0], rows(claimed[0].photos))
    assert two.is_complete() and two.claim() is None and two.n_done() == len(PHOTOS)
    assert [row.input for row in two.read_rows()] == PHOTOS


def test_a_replaced_plan_gives_no_batches(tmp_path):
    old = Journal.start(tmp_path / ".align", PHOTOS)
    new = Journal.start(tmp_path / ".align", PHOTOS)
    assert old.claim() is None and not old.is_current()
    assert new.claim() is not None
    new.abandon()
    new.remove()
    assert not Journal.exists(tmp_path / ".align") and not (tmp_path / ".align").exists()
    assert new.claim() is None


@pytest.mark.parametrize("damage", ["", "{}", '{"id": 1, "photos": 3}'])
def test_damaged_plan(tmp_path, damage):
    Journal.start(tmp_path / ".align", PHOTOS)
    (tmp_path / ".align" / "plan.json").write_text(damage)
    with pytest.raises(DatasetError, match="remove this folder"):
        Journal(tmp_path / ".align")


@pytest.mark.parametrize("damage", ["", "{}", "[[1]]", "[3]"])
def test_damaged_rows(tmp_path, damage):
    journal = Journal.start(tmp_path / ".align", PHOTOS[:1])
    journal.finish(journal.claim(), [])
    (tmp_path / ".align" / "0000000.json").write_text(damage)
    with pytest.raises(DatasetError, match="remove it and run again"):
        journal.read_rows()
