"""The tally differs between states of a collection, and is right after every kind of change."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from facespace.errors import GalleryError
from facespace.identification import edits
from facespace.identification.stores import tally
from facespace.identification.stores.sqlite import SQLiteStore
from support.galleries import entry


def test_a_sum_of_parts_in_any_order() -> None:
    chance = random.Random(1)
    pairs = [(chance.randrange(2**62), chance.randrange(2**62)) for _ in range(50)]
    whole = tally.of_photos([a for a, _ in pairs], [b for _, b in pairs])
    chance.shuffle(pairs)
    assert whole == tally.added(0, *(tally.of_photos([a], [b]) for a, b in pairs))
    assert 0 <= whole < 2**62 and tally.of_photos([], []) == 0
    assert tally.added(whole, *(-tally.of_photos(np.array([a]), np.array([b])) for a, b in pairs)) == 0


def test_no_two_small_sets_have_one_number() -> None:
    """Sums of plain products would be equal, for example if two people exchange a photo."""
    seen = {
        tally.of_photos([a, b], [x, y])
        for a in range(6)
        for b in range(a)
        for x in range(6)
        for y in range(6)
        if (a, x) != (b, y)
    }
    assert len(seen) == 15 * 36


def test_it_is_kept_by_every_kind_of_change(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "a", create=True)
    store._connection.execute("PRAGMA synchronous = OFF")
    chance = random.Random(2)

    def name() -> str:
        return chance.choice(store.people()).state.name if store.count() else "nobody"

    for k in range(150):
        steps = (
            lambda k=k: store.add(f"person {k}", entry(k)),
            lambda k=k: store.add(name(), entry(chance.randrange(k + 1))),
            lambda k=k: edits.rename(store, name(), f"renamed {k}"),
            lambda: edits.merge(store, [name(), name()], name()),
            lambda: edits.remove(store, name()),
            lambda k=k: edits.move(
                store, who := name(), [store.photos(edits.person_called(store, who).id)[0].id], f"split {k % 9}"
            ),
            lambda: edits.undo(store),
            lambda: edits.undo(store, chance.choice(store.log()).id),
            lambda: store.erase() if chance.random() < 0.3 else None,
        )
        try:
            chance.choice(steps[:2] if k < 10 else steps)()
        except (GalleryError, ValueError):
            continue
        kept = store._connection.execute("SELECT n_people, n_photos, tally FROM collection").fetchall()
        with store._write() as cursor:
            tally.count_again(cursor, 1)
        assert store._connection.execute("SELECT n_people, n_photos, tally FROM collection").fetchall() == kept, k
    assert len(store.log(1000)) > 60
    store.close()
