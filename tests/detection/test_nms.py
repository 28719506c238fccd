"""Non-maximum suppression against two nested loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

from facespace.detection.nms import non_maximum_suppression, non_maximum_suppressions
from support.mtcnn_reference import overlap_of, slow

BOX = [0.0, 0.0, 9.0, 9.0]  # ten by ten pixels, both ends counted


@st.composite
def candidates(draw) -> tuple[np.ndarray, np.ndarray]:
    """Draw crowded boxes with whole or fractional coordinates, and different scores."""
    n = draw(st.integers(0, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    corner = rng.uniform(-30, 60, (n, 2))
    side = rng.uniform(0.5, 50, (n, 2))
    boxes = np.hstack([corner, corner + side])
    if draw(st.booleans()):
        boxes = np.trunc(boxes)
    return boxes, rng.permutation(n).astype(np.float64) / max(n, 1)


@settings(max_examples=150, deadline=None)
@given(candidates(), st.floats(0.05, 0.95), st.sampled_from(["union", "min"]))
def test_against_two_loops(found, threshold, overlap):
    boxes, scores = found
    values = [overlap_of(a, b, overlap) for a in boxes for b in boxes]
    assume(not any(abs(value - threshold) < 1e-5 for value in values))  # rounding decides such cases
    kept = non_maximum_suppression(boxes, scores, threshold, overlap=overlap)
    assert kept.tolist() == slow(boxes, scores, threshold, overlap)


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_many_boxes(threshold):
    rng = np.random.default_rng(0)
    corner = np.trunc(rng.uniform(0, 500, (250, 2)))
    side = np.trunc(rng.uniform(20, 200, (250, 1)))
    boxes, scores = np.hstack([corner, corner + side]), rng.permutation(250) / 250
    for overlap in ("union", "min"):
        kept = non_maximum_suppression(boxes, scores, threshold, overlap=overlap)
        assert kept.tolist() == slow(boxes, scores, threshold, overlap)


def test_union_is_the_default():
    inner = np.array([BOX, [0, 0, 4, 4]])
    scores = np.array([0.9, 0.8])
    assert non_maximum_suppression(inner, scores, 0.5).tolist() == [0, 1]  # a quarter of the union
    assert non_maximum_suppression(inner, scores, 0.5, overlap="union").tolist() == [0, 1]
    assert non_maximum_suppression(inner, scores, 0.5, overlap="min").tolist() == [0]  # all of the smaller


@pytest.mark.parametrize(
    ("overlap", "other"),
    [("union", [0, 0, 9, 4]), ("min", [5, 0, 14, 9]), ("min", [0, 5, 9, 14])],
)
def test_an_overlap_of_just_the_threshold_is_allowed(overlap, other):
    """Half of the box: 5 of 10 pixels, both ends counted."""
    boxes, scores = np.array([BOX, other], np.float64), np.array([0.9, 0.8])
    assert overlap_of(boxes[0], boxes[1], overlap) == 0.5
    assert non_maximum_suppression(boxes, scores, 0.5, overlap=overlap).tolist() == [0, 1]
    assert non_maximum_suppression(boxes, scores, 0.499, overlap=overlap).tolist() == [0]


@pytest.mark.parametrize("overlap", ["union", "min"])
def test_both_end_pixels_count(overlap):
    """Boxes of one pixel, x1 = x2: an area of 1, not of 0."""
    point = np.array([[5.0, 5, 5, 5], [5, 5, 5, 5], [6, 5, 6, 5]])
    assert non_maximum_suppression(point, np.array([0.1, 0.3, 0.2]), 0.5, overlap=overlap).tolist() == [1, 2]


@settings(max_examples=100, deadline=None)
@given(candidates(), st.floats(0.05, 0.95), st.sampled_from(["union", "min"]))
def test_without_end_pixels_against_two_loops(found, threshold, overlap):
    """Boxes without end pixels are those of the loops minus one pixel."""
    boxes, scores = found
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 0.5)  # no box is empty
    ends = boxes - [0, 0, 1, 1]
    values = [overlap_of(a, b, overlap) for a in ends for b in ends]
    assume(not any(abs(value - threshold) < 1e-5 for value in values))
    before = boxes.copy()
    kept = non_maximum_suppression(boxes, scores, threshold, overlap=overlap, end_pixels=False)
    assert kept.tolist() == slow(ends, scores, threshold, overlap)
    assert (boxes == before).all()


@pytest.mark.parametrize(("overlap", "shift", "at_most"), [("union", 1.0, 1 / 3), ("min", 1.0, 1 / 2)])
def test_end_pixels_decide_over_small_boxes(overlap, shift, at_most):
    """Two boxes of 2 x 2 share half of each; of 3 x 3, as with end pixels, more than that."""
    boxes, scores = np.array([[0.0, 0, 2, 2], [shift, 0, 2 + shift, 2]]), np.array([0.9, 0.8])
    for threshold, expected in ((at_most + 0.01, [0, 1]), (at_most - 0.01, [0])):
        kept = non_maximum_suppression(boxes, scores, threshold, overlap=overlap, end_pixels=False)
        assert kept.tolist() == expected
    kept = non_maximum_suppression(boxes, scores, at_most + 0.01, overlap=overlap)
    assert kept.tolist() == [0], "which is the default"


@pytest.mark.parametrize("overlap", ["union", "min"])
def test_best_first(overlap):
    boxes = np.array([[0.0, 0, 9, 9], [100, 0, 109, 9], [200, 0, 209, 9], [300, 0, 309, 9]])
    scores = np.array([0.2, 0.9, 0.1, 0.5])
    assert non_maximum_suppression(boxes, scores, 0.5, overlap=overlap).tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize("overlap", ["union", "min"])
def test_a_removed_box_removes_no_other(overlap):
    """b hides c but is itself hidden by a, so c stays."""
    boxes = np.array([[0.0, 0, 9, 9], [4, 0, 13, 9], [8, 0, 17, 9]])
    assert non_maximum_suppression(boxes, np.array([0.9, 0.8, 0.7]), 0.4, overlap=overlap).tolist() == [0, 2]


@pytest.mark.parametrize("overlap", ["union", "min"])
def test_none_and_one(overlap):
    none = non_maximum_suppression(np.empty((0, 4)), np.empty(0), 0.5, overlap=overlap)
    assert none.tolist() == []
    assert np.issubdtype(none.dtype, np.integer)
    assert non_maximum_suppression(np.array([BOX]), np.array([0.3]), 0.5, overlap=overlap).tolist() == [0]


@pytest.mark.parametrize("overlap", ["union", "min"])
def test_equal_scores_keep_one_of_each_heap(overlap):
    """The sort decides which one is kept, but each heap must keep exactly one."""
    boxes = np.array([BOX, [50, 50, 59, 59]] * 20, np.float64)
    kept = non_maximum_suppression(boxes, np.ones(40), 0.5, overlap=overlap)
    assert sorted(kept % 2) == [0, 1]


@pytest.mark.parametrize("overlap", ["union", "min"])
def test_arguments_are_left_alone(overlap):
    boxes, scores = np.array([BOX, [1, 0, 10, 9]], np.float64), np.array([0.5, 0.6])
    before = boxes.copy(), scores.copy()
    non_maximum_suppression(boxes, scores, 0.5, overlap=overlap)
    assert (boxes == before[0]).all()
    assert (scores == before[1]).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(candidates(), max_size=5), st.floats(0.05, 0.95))
def test_several_sets_are_independent(sets, threshold):
    boxes, scores = [part[0] for part in sets], [part[1] for part in sets]
    values = [overlap_of(a, b, "union") for part in boxes for a in part for b in part]
    assume(not any(abs(value - threshold) < 1e-5 for value in values))
    found = non_maximum_suppressions(boxes, scores, threshold)
    expected = [slow(part, part_scores, threshold, "union") for part, part_scores in zip(boxes, scores, strict=True)]
    assert [kept.tolist() for kept in found] == expected
