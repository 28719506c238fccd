"""The order of training: endless, each image once a pass, a function of seed and step alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from facespace.training.sampling import Order, Stream, by_people, shuffled

UNEVEN = np.repeat([3, 5, 9, 11, 40], [1, 2, 7, 1, 12])
labels_of = st.lists(st.integers(0, 6), min_size=1, max_size=40).map(np.array)


def joined(order: Order, n_passes: int) -> list[int]:
    return [number for k in range(n_passes) for number in order(k).tolist()]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n_images=st.integers(1, 30), seed=st.integers(0, 2**31 - 1))
def test_any_part_is_a_slice_of_the_passes_end_to_end(data: st.DataObject, n_images: int, seed: int) -> None:
    whole = joined(shuffled(n_images, seed=seed), 8)
    stream = Stream(shuffled(n_images, seed=seed))
    for _ in range(4):  # in any order: there is no state between calls
        start = data.draw(st.integers(0, len(whole)))
        n = data.draw(st.integers(0, len(whole) - start))
        part = stream.part(start, n)
        assert part.tolist() == whole[start : start + n]
        assert part.dtype == np.int64


@pytest.mark.parametrize("n_images", [1, 2, 7, 100])
def test_each_image_once_a_pass(n_images: int) -> None:
    stream = Stream(shuffled(n_images, seed=4))
    for k in range(5):
        assert sorted(stream.part(k * n_images, n_images).tolist()) == list(range(n_images))


def test_passes_seeds_and_kinds_differ() -> None:
    labels = np.arange(50)
    orders = [shuffled(50, seed=0), shuffled(50, seed=1), by_people(labels, 1, seed=0), by_people(labels, 1, seed=1)]
    passes = {tuple(order(k).tolist()) for order in orders for k in range(4)}
    assert len(passes) == 16
    assert joined(shuffled(50, seed=0), 4) == joined(shuffled(50, seed=0), 4)


def test_it_does_not_end() -> None:
    stream = Stream(shuffled(3, seed=0))
    far = 10**15
    assert sorted(stream.part(3 * far, 3).tolist()) == [0, 1, 2]
    assert stream.part(far, 1000).tolist()[500:] == stream.part(far + 500, 500).tolist()
    assert stream.part(5, 0).tolist() == stream.part(5, -2).tolist() == []


def test_a_pass_without_images() -> None:
    for order in (shuffled(0, seed=0), by_people(np.empty(0, np.int64), 2, seed=0)):
        with pytest.raises(ValueError, match="at least one image"):
            Stream(order)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        by_people(UNEVEN, 0, seed=0)


@settings(max_examples=80, deadline=None)
@given(labels=labels_of, per_person=st.integers(1, 9), seed=st.integers(0, 2**31 - 1), number=st.integers(0, 5))
def test_a_pass_by_people(labels: np.ndarray, per_person: int, seed: int, number: int) -> None:
    order = by_people(labels, per_person, seed=seed)
    images = order(number)
    assert len(set(images.tolist())) == len(images)  # no image twice
    counts = Counter(labels[images].tolist())
    assert counts == {person: min(per_person, n) for person, n in Counter(labels.tolist()).items()}
    changes = np.flatnonzero(np.diff(labels[images]))
    assert len(changes) == len(counts) - 1  # a person's images are consecutive
    assert order(number).tolist() == by_people(labels, per_person, seed=seed)(number).tolist()
    assert len(Stream(order).part(0, 3 * len(images) + 1)) == 3 * len(images) + 1


def test_each_pass_draws_people_and_images_again() -> None:
    order = by_people(UNEVEN, 3, seed=2)
    firsts, images = Counter(), Counter()
    for k in range(600):
        chosen = order(k)
        firsts[int(UNEVEN[chosen[0]])] += 1
        images.update(chosen.tolist())
    assert firsts.keys() == set(UNEVEN.tolist())
    assert max(firsts.values()) < 170  # 120 of 600 are expected of each
    counts = Counter(UNEVEN.tolist())
    for image, times in images.items():
        share = min(1.0, 3 / counts[int(UNEVEN[image])])
        assert abs(times - 600 * share) < 5 * np.sqrt(600 * share * (1 - share)) + 1e-9
    assert len(images) == len(UNEVEN)


def test_a_batch_has_all_drawn_images_of_its_people() -> None:
    labels = np.repeat(np.arange(12), 5)
    stream = Stream(by_people(labels, 4, seed=0))
    for step in range(30):
        counts = Counter(labels[stream.part(step * 16, 16)].tolist())
        assert list(counts.values()) == [4] * 4


def test_fewer_people_than_a_batch_needs() -> None:
    labels = np.array([0, 0, 0, 1])
    stream = Stream(by_people(labels, 2, seed=0))
    assert stream.length == 3
    for step in range(20):  # two passes in a batch, so everybody appears twice
        assert Counter(labels[stream.part(step * 6, 6)].tolist()) == {0: 4, 1: 2}
