"""The search index against a loop over all rows, and against an index that is rebuilt after each change."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from facespace.identification import people_index
from facespace.identification.people_index import Nearest, PeopleIndex, Rows

DIMENSION = 64


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def rows_of(ids: object, dimension: int = DIMENSION, seed: int = 0) -> Rows:
    """Return a row for each of `ids`; its values depend on the id, its position among the person's rows, and the seed."""
    ids = np.asarray(ids, np.int64)
    rngs = [np.random.default_rng([seed, abs(int(one)), n]) for n, one in enumerate(ids - ids.min(initial=0))]
    vectors = np.array([rng.standard_normal(dimension) for rng in rngs]).reshape(len(ids), dimension)
    return Rows(
        ids, unit(vectors).astype(np.float16),
        np.array([rng.integers(1, 9) for rng in rngs], np.int32).reshape(len(ids)),
        np.array([rng.random() for rng in rngs], np.float32).reshape(len(ids)),
    )  # fmt: skip


def drawn(ids: object, dimension: int = DIMENSION, seed: int = 0) -> Rows:
    """Return rows like `rows_of`, many at once."""
    ids, rng = np.asarray(ids, np.int64), np.random.default_rng(seed)
    vectors = unit(rng.standard_normal((len(ids), dimension), np.float32)).astype(np.float16)
    return Rows(ids, vectors, rng.integers(1, 9, len(ids)).astype(np.int32), rng.random(len(ids), np.float32))


def joined(*parts: Rows) -> Rows:
    return Rows(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def near(rows: Rows, places: object, noise: float = 0.5, seed: int = 1) -> np.ndarray:
    """Return a probe for each of some rows, at a similarity of about 1 / sqrt(1 + noise²)."""
    vectors = rows.vectors[places].astype(np.float32)
    return unit(vectors + noise * unit(np.random.default_rng(seed).standard_normal(vectors.shape))).astype(np.float32)


def by_hand(rows: Rows, probes: np.ndarray, k: int) -> list[list[tuple[int, float, int, float]]]:
    answers = []
    for probe in probes:
        best: dict[int, tuple[float, int]] = {}
        similarities = np.einsum("ij,j->i", rows.vectors.astype(np.float32), np.ascontiguousarray(probe))
        for n, (person, similarity) in enumerate(zip(rows.ids.tolist(), similarities.tolist(), strict=True)):
            if person not in best or similarity > best[person][0]:
                best[person] = (similarity, n)
        order = sorted(best, key=lambda person: (-best[person][0], person))[:k]
        found = [(p, best[p][0], int(rows.n_photos[best[p][1]]), float(rows.qualities[best[p][1]])) for p in order]
        answers.append(found + [(-1, -np.inf, 0, 0.0)] * (k - len(found)))
    return answers


def as_lists(found: Nearest) -> list[list[tuple[int, float, int, float]]]:
    return [list(zip(*(values.tolist() for values in row), strict=True)) for row in zip(*found, strict=True)]


def in_batches(rows: Rows, *sizes: int) -> Iterator[Rows]:
    start = 0
    for size in [*sizes, len(rows.ids)]:
        yield Rows(*(values[start : start + size] for values in rows))
        start += size


@pytest.fixture(autouse=True)
def _sketches_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people_index, "_COMPARED_BEFORE_SKETCHES", -1)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use blocks of 16 rows, so that a few hundred people have many; always use sketches, with every row a candidate."""
    monkeypatch.setattr(people_index, "_BLOCK", 16)
    monkeypatch.setattr(people_index, "_MANY_PROBES", 1 << 30)
    monkeypatch.setattr(people_index, "_CANDIDATES", 1_000_000)


@pytest.mark.parametrize("n_people", [1, 5, 300])
@pytest.mark.parametrize("k", [1, 3, 7])
def test_a_small_gallery_is_compared_in_full(n_people: int, k: int) -> None:
    rows = rows_of(np.arange(n_people) * 3 - 2)
    probes = unit(np.random.default_rng(2).standard_normal((9, DIMENSION))).astype(np.float32)
    index = PeopleIndex.build(DIMENSION, in_batches(rows, 1, 0, 2))
    assert len(index) == index.n_rows == n_people
    assert as_lists(index.nearest(probes, k)) == by_hand(rows, probes, k)


@pytest.mark.parametrize(("dimension", "n_probes"), [(48, 15), (48, 50), (192, 16), (512, 50)])
def test_a_large_gallery_finds_who_is_near(dimension: int, n_probes: int) -> None:
    rows = drawn(np.arange(9000) * 2, dimension)
    index = PeopleIndex.build(dimension, in_batches(rows, 4096, 17, 4000))
    places = np.arange(0, 9000, 180)[:n_probes]
    probes = near(rows, places)
    found = index.nearest(probes, 1)
    assert as_lists(found) == by_hand(rows, probes, 1)
    assert found.people[:, 0].tolist() == (places * 2).tolist()
    assert (len(index), index.n_rows) == (9000, 9000)


def test_many_probes_of_few_numbers_are_compared_with_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PeopleIndex, "_estimated", None)
    people = np.repeat(np.arange(2500), 3)
    rows = drawn(people, 16)
    rows.vectors[::5] = rows.vectors[0]
    index = PeopleIndex.build(16, [rows])
    probes = near(rows, np.arange(0, 80, 4), noise=1.0)
    for k in (1, 30):
        assert as_lists(index.nearest(probes, k)) == by_hand(rows, probes, k)


def test_products_rounded_to_a_neighbouring_step_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = drawn(np.arange(500))
    index = PeopleIndex.build(DIMENSION, [rows])
    probes = near(rows, np.arange(40))
    rounded = PeopleIndex._rounded

    def wrong(self: PeopleIndex, *given: object) -> np.ndarray:
        far = rounded(self, *given)
        far[np.arange(40), np.arange(40)] = np.partition(far, 3, axis=1)[:, 3]
        return np.where(np.arange(500) % 2 == 0, far + 1, far).astype(np.uint8)

    monkeypatch.setattr(PeopleIndex, "_rounded", wrong)
    assert index.nearest(probes, 3).people[:, 0].tolist() == list(range(40))


def test_sketches_choose_few_candidates_and_seldom_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people_index, "_MANY_PROBES", 1 << 30)
    rows = drawn(np.arange(20_000), 128)
    index = PeopleIndex.build(128, [rows])
    probes = near(rows, np.arange(30), noise=1.0)
    compared = []
    whole = PeopleIndex._similarities
    monkeypatch.setattr(PeopleIndex, "_similarities", lambda *a: compared.append(len(a[2])) or whole(*a))
    found = index.nearest(probes, 10)
    exact = by_hand(rows, probes, 10)
    assert found.people[:, 0].tolist() == [row[0][0] for row in exact]
    hits = [
        len({one[0] for one in row} & set(people)) for row, people in zip(exact, found.people.tolist(), strict=True)
    ]
    assert np.mean(hits) > 9.5
    assert len(compared) == 30 and max(compared) < 4000


def test_probes_of_any_layout_and_number(small_blocks: None) -> None:
    rows = rows_of(range(100))
    index = PeopleIndex.build(DIMENSION, [rows])
    probes = near(rows, np.arange(20))
    whole = as_lists(index.nearest(probes, 2))
    assert as_lists(index.nearest(np.asfortranarray(probes), 2)) == whole
    assert as_lists(index.nearest(np.repeat(probes, 2, axis=0)[::2], 2)) == whole
    assert [as_lists(index.nearest(probe[None], 2))[0] for probe in probes] == whole
    none = index.nearest(probes[:0], 2)
    assert [values.shape for values in none] == [(0, 2)] * 4
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        index.nearest(probes, 0)


@pytest.mark.parametrize("n_people", [40, 5000])
def test_memory_is_bounded_by_searching_a_few_probes_at_a_time(n_people: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = drawn(range(n_people))
    index = PeopleIndex.build(DIMENSION, [rows])
    probes = near(rows, np.arange(30))
    whole = as_lists(index.nearest(probes, 3))
    chunks = []
    rank = PeopleIndex._rank
    monkeypatch.setattr(
        PeopleIndex, "_rank", lambda self, *a, **b: chunks.append(len(a[1].base)) or rank(self, *a, **b)
    )
    monkeypatch.setattr(people_index, "_SCANNED_BYTES", 7 * n_people)
    monkeypatch.setattr(people_index, "_PIECE", 50 * DIMENSION)
    assert as_lists(index.nearest(probes, 3)) == whole
    assert max(chunks) <= 7


def test_an_empty_gallery_finds_no_people() -> None:
    index = PeopleIndex.build(DIMENSION, [])
    found = index.nearest(np.zeros((2, DIMENSION), np.float32), 3)
    assert as_lists(found) == [[(-1, -np.inf, 0, 0.0)] * 3] * 2
    assert [values.dtype for values in found] == [np.int64, np.float32, np.int32, np.float32]
    assert (len(index), index.n_rows) == (0, 0)
    index = index.changed(np.array([1, 2]), rows_of([]))
    assert len(index) == 0
    assert len(index.changed(np.array([], np.int64), rows_of([4, 4, 9]))) == 2


def test_a_person_of_several_rows_is_found_once_by_the_best(small_blocks: None) -> None:
    rows = rows_of(np.repeat(np.arange(60), np.tile([1, 2, 5, 20], 15)))
    index = PeopleIndex.build(DIMENSION, in_batches(rows, 10, 3, 200))
    assert (len(index), index.n_rows) == (60, 420)
    probes = near(rows, np.arange(0, 420, 7))
    for k in (1, 4, 70):
        assert as_lists(index.nearest(probes, k)) == by_hand(rows, probes, k)


@pytest.mark.parametrize("n_rows", [3000, 6000])
def test_one_person_of_very_many_photos_does_not_hide_the_others(n_rows: int) -> None:
    rows = joined(drawn(np.zeros(n_rows)), drawn(np.arange(1, 50), seed=3))
    rows.vectors[:n_rows] = rows.vectors[0]
    index = PeopleIndex.build(DIMENSION, [rows])
    probes = rows.vectors[:1].astype(np.float32)
    found = index.nearest(probes, 60)
    assert as_lists(found) == by_hand(rows, probes, 60)
    assert len(index) == 50


@pytest.mark.parametrize("n_rows", [500, 9000])
def test_equally_similar_people_are_sorted_by_id(n_rows: int) -> None:
    rows = drawn(np.arange(n_rows))
    twins = [3, 250, n_rows - 1, 77]
    rows.vectors[twins] = rows.vectors[3]
    index = PeopleIndex.build(DIMENSION, [rows])
    probes = near(rows, np.repeat([3], 33))
    # The twins are added again at the end, in another order.
    again = index.changed(np.array([3, 77]), Rows(*(values[[77, 3]] for values in rows)))
    for one in (index, again):
        found = one.nearest(probes, 4)
        assert (found.people == sorted(twins)).all()
        assert (found.similarities == found.similarities[:, :1]).all()


def test_a_changed_index_equals_one_built_from_the_same_rows(small_blocks: None) -> None:
    rng = np.random.default_rng(5)
    held = {person: rows_of([person] * rng.integers(1, 4), seed=1) for person in range(0, 150, 2)}
    index = PeopleIndex.build(DIMENSION, [held[person] for person in sorted(held)])
    for turn in range(60):
        gone = rng.integers(-5, 170, rng.choice([0, 1, 2, 30]))
        put = np.unique(rng.integers(0, 170 + turn, rng.choice([0, 1, 5, 40])))
        rows = joined(rows_of([]), *(rows_of([person] * rng.integers(1, 4), seed=turn) for person in put))
        index = index.changed(gone, rows)
        for person in gone.tolist():
            held.pop(person, None)
        for person in put.tolist():
            held[person] = Rows(*(values[rows.ids == person] for values in rows))
        ordered = joined(rows_of([]), *(held[person] for person in sorted(held)))
        assert (len(index), index.n_rows) == (len(held), len(ordered.ids))
        probes = unit(rng.standard_normal((4, DIMENSION))).astype(np.float32)
        assert as_lists(index.nearest(probes, 3)) == by_hand(ordered, probes, 3)
        sizes = [block.n_rows for block in index._blocks]
        assert all(0 < size <= 16 for size in sizes) and sum(size < 8 for size in sizes) <= 1


def test_all_may_leave_and_others_come(small_blocks: None) -> None:
    rows = rows_of(range(50))
    index = PeopleIndex.build(DIMENSION, [rows]).changed(np.arange(50), rows_of([]))
    assert (len(index), index.n_rows, len(index._blocks)) == (0, 0, 0)
    index = index.changed(np.arange(50), rows)
    probes = near(rows, np.arange(50))
    assert as_lists(index.nearest(probes, 2)) == by_hand(rows, probes, 2)


def test_a_small_gallery_grows_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people_index, "_CANDIDATES", 1_000_000)
    rows = drawn(range(6000))
    first, rest = in_batches(rows, 100)
    small = PeopleIndex.build(DIMENSION, [first])
    large = small.changed(np.array([], np.int64), rest)
    probes = near(rows, np.arange(0, 6000, 300))
    assert as_lists(large.nearest(probes, 2)) == by_hand(rows, probes, 2)
    assert all(block.sketches is not None for block in large._blocks)
    again = large.changed(np.arange(100, 6000), rows_of([]))
    assert as_lists(again.nearest(probes, 2)) == as_lists(small.nearest(probes, 2)) == by_hand(first, probes, 2)


def test_slow_sketches_are_computed_after_some_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people_index, "_COMPARED_BEFORE_SKETCHES", 3)
    made: list[int] = []
    sketch = people_index.Sketcher.sketch
    monkeypatch.setattr(people_index.Sketcher, "sketch", lambda self, x: made.append(len(x)) or sketch(self, x))
    rows = drawn(np.arange(6000))
    index = PeopleIndex.build(DIMENSION, [rows])
    probes = near(rows, np.arange(6))
    expected = by_hand(rows, probes, 2)
    assert [as_lists(index.nearest(probes[n : n + 1], 2)) for n in range(2)] == [[answer] for answer in expected[:2]]
    assert made == []
    later = index.changed(np.array([5999]), drawn([7000]))  # keeps the count of two probes
    assert as_lists(later.nearest(probes[2:3], 2)) == expected[2:3]
    assert made == []
    assert as_lists(later.nearest(probes[3:4], 2)) == expected[3:4]
    assert sorted(made) == [1, 1904, 4096]  # the probe, and all 6,000 rows
    made.clear()
    assert as_lists(later.nearest(probes[4:], 2)) == expected[4:]
    assert made == [2]
    later.changed(np.array([], np.int64), drawn([8000]))
    assert made == [2, 1]
    # Sketches of vectors with 512 numbers take no longer than comparing one probe, so they are computed at once.
    assert PeopleIndex.build(512, [drawn(np.arange(5000), 512)])._has_sketches


def test_a_change_copies_only_the_blocks_it_touches() -> None:
    rows = drawn(np.arange(20_000))
    index = PeopleIndex.build(DIMENSION, [rows])
    later = index.changed(np.array([5000, 30_000]), drawn([40_000]))
    assert later._blocks[0] is index._blocks[0] and later._blocks[2] is index._blocks[2]
    assert later._blocks[1] is not index._blocks[1]
    assert len(later._blocks) == len(index._blocks) == 5  # the new row went into the last one, which is not full
    assert later._sketcher is index._sketcher
    assert (len(index), len(later), later.n_rows) == (20_000, 20_000, 20_000)
    probes = near(rows, [5000])
    assert index.nearest(probes, 1).people.tolist() == [[5000]] != later.nearest(probes, 1).people.tolist()


def test_the_index_shares_no_memory_with_what_it_was_made_of() -> None:
    rows, more = rows_of(range(20)), rows_of([50])
    index = PeopleIndex.build(DIMENSION, [rows])
    later = index.changed(np.array([], np.int64), more)
    probes = near(rows, np.arange(3))
    before = as_lists(later.nearest(probes, 2))
    for values in (*rows, *more):
        values[:] = 0
    assert as_lists(later.nearest(probes, 2)) == before


def test_threads_search_one_snapshot_while_another_is_made() -> None:
    rows = drawn(np.arange(9000))
    index = PeopleIndex.build(DIMENSION, [rows])
    probes = near(rows, np.arange(12))
    expected = as_lists(index.nearest(probes, 2))
    answers: list[object] = []
    threads = [threading.Thread(target=lambda: answers.append(as_lists(index.nearest(probes, 2)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    index.changed(np.arange(6), rows_of([]))
    for thread in threads:
        thread.join()
    assert answers == [expected] * 4


def test_expanded_numbers_are_those_of_numpy() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    out = np.empty(len(finite), np.float32)
    people_index._expand(finite, out=out)
    assert np.array_equal(out.view(np.uint32), finite.astype(np.float32).view(np.uint32))


def test_invalid_rows_are_refused() -> None:
    assert len(PeopleIndex.build(DIMENSION, [rows_of([5, 1]), rows_of([1, 4])])) == 3
    with pytest.raises(ValueError, match="the rows of a person must be consecutive"):
        PeopleIndex.build(DIMENSION, [rows_of([1, 5]), rows_of([1])])
    with pytest.raises(ValueError, match=r"vectors must be \(2, 64\), got \(2, 32\)"):
        PeopleIndex.build(DIMENSION, [rows_of([1, 5], 32)])
    index = PeopleIndex.build(DIMENSION, [rows_of([1, 5])])
    with pytest.raises(ValueError, match=r"vectors must be \(1, 64\), got \(1, 32\)"):
        index.changed(np.array([1]), rows_of([9], 32))


def test_a_change_sketches_only_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = drawn(range(6001))
    before = rows.ids < 6000
    index = PeopleIndex.build(DIMENSION, [Rows(*(values[before] for values in rows))])
    sketch, sketched = people_index.Sketcher.sketch, []
    monkeypatch.setattr(people_index.Sketcher, "sketch", lambda self, x: sketched.append(len(x)) or sketch(self, x))
    new = np.isin(rows.ids, [3, 6000])
    later = index.changed(np.array([7, 5999]), Rows(*(values[new] for values in rows)))
    assert sketched == [2]
    left = ~np.isin(rows.ids, [7, 5999])
    whole = PeopleIndex.build(DIMENSION, [Rows(*(values[left] for values in rows))])
    probes = rows.vectors[[3, 8, 4500, 6000]].astype(np.float32)
    assert later.nearest(probes, 1).people.ravel().tolist() == [3, 8, 4500, 6000]
    assert whole.nearest(probes, 1).people.ravel().tolist() == [3, 8, 4500, 6000]
