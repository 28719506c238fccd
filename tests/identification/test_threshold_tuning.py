"""Thresholds tuned on labelled photos, against a slow loop over probes and people."""

from __future__ import annotations

import numpy as np
import pytest

from facespace.identification import threshold_tuning
from facespace.identification.open_set import offset
from facespace.identification.threshold_tuning import calibrate
from support.sphere import people, unit

EMBEDDINGS, OWNERS = people(12, 6, dimension=24, similarity=0.4, seed=2)
NAMES = [f"person {k:02}" for k in OWNERS]
# The first eight people are enrolled with two photos each, not in alphabetical order.
ORDER = [5, 2, 7, 0, 1, 6, 3, 4]
ENROLLED = (np.arange(72) % 6 < 2) & (OWNERS < 8)
TEMPLATES = np.concatenate([unit(EMBEDDINGS[ENROLLED & (k == OWNERS)].mean(axis=0, keepdims=True)) for k in ORDER])
PEOPLE = [f"person {k:02}" for k in ORDER]
WANTED = np.linspace(0.1, 0.3, 8)


def tune(probes=EMBEDDINGS, names=NAMES, *, enrolled=EMBEDDINGS[ENROLLED], rate=0.1, table=False):
    return calibrate(probes, names, TEMPLATES, PEOPLE, WANTED, enrolled=enrolled, rate=rate, table=table)


def margins(vector: np.ndarray) -> list[float]:
    """Return the similarity of a probe minus the threshold for each person."""
    return [float(person @ vector) - threshold for person, threshold in zip(TEMPLATES, WANTED, strict=True)]


def slow_stranger_margins(rows: np.ndarray) -> list[float]:
    """Return the largest margin of each probe; for a known person the largest over all others."""
    found = []
    for k in rows:
        over = margins(EMBEDDINGS[k])
        found.append(max(value for value, name in zip(over, PEOPLE, strict=True) if name != NAMES[k]))
    return found


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5])
def test_the_offset_names_that_share_of_strangers(rate, table):
    found = tune(rate=rate, table=table)
    strangers = slow_stranger_margins(np.flatnonzero(~ENROLLED))
    assert found.rate == rate
    assert found.offset == pytest.approx(offset(np.array(strangers), rate, table=table), abs=1e-6)
    if not table:
        assert sum(margin > found.offset + 1e-6 for margin in strangers) == int(rate * len(strangers))


def test_the_evidence_against_a_loop():
    found = tune()
    known = np.flatnonzero(~ENROLLED & (OWNERS < 8))
    nearest, right, accepted = [], [], []
    for k in known:
        best = int(np.argmax([float(person @ EMBEDDINGS[k]) for person in TEMPLATES]))
        nearest.append(PEOPLE[best])
        right.append(PEOPLE[best] == NAMES[k])
        accepted.append(margins(EMBEDDINGS[k])[best] >= found.offset)
    evidence = found.evidence
    assert evidence["rate"] == 0.1
    assert (evidence["n_known"], evidence["n_strangers"], evidence["n_enrolled_left_out"]) == (32, 24, 16)
    assert evidence["closed_set_accuracy"]["share"] == pytest.approx(np.mean(right))
    assert evidence["known_named_right"]["share"] == pytest.approx(np.mean(np.array(right) & accepted))
    assert evidence["known_rejected"]["share"] == pytest.approx(1 - np.mean(accepted))
    assert 0 < np.mean(accepted) < 1
    assert 0.5 < np.mean(right) < 1
    assert evidence["unknown_detected"]["n"] == 56, "known people also count as strangers to all others"
    assert 0.7 < evidence["unknown_detected"]["share"] < 1


def test_blocks_of_probes_are_compared_alike(monkeypatch):
    expected = tune()
    monkeypatch.setattr(threshold_tuning, "_BLOCK_ROWS", 5)
    assert tune() == expected


def test_the_order_of_photos_does_not_matter():
    order = np.random.default_rng(0).permutation(72)
    again = tune(EMBEDDINGS[order], [NAMES[k] for k in order])
    assert again.offset == pytest.approx(tune().offset, abs=1e-6)
    assert again.evidence["closed_set_accuracy"]["share"] == tune().evidence["closed_set_accuracy"]["share"]


def test_only_the_same_photo_is_left_out():
    """A photo at a cosine of 0.999 is a different photo; one that differs only in the last digits is the same."""
    photo = EMBEDDINGS[ENROLLED][:1]
    beside = unit(photo + 0.0447 * unit(EMBEDDINGS[70:71] - (EMBEDDINGS[70] @ photo[0]) * photo))
    assert 0.9985 < float((photo @ beside.T)[0, 0]) < 0.9995
    probes = np.concatenate([EMBEDDINGS[~ENROLLED], unit(photo + 1e-6), beside])
    names = [name for name, enrolled in zip(NAMES, ENROLLED, strict=True) if not enrolled] + ["person 00"] * 2
    found = tune(probes, names)
    assert (found.evidence["n_enrolled_left_out"], found.evidence["n_known"]) == (1, 33)


def test_nothing_enrolled_leaves_nothing_out():
    assert tune(enrolled=np.empty((0, 24), np.float32)).evidence["n_enrolled_left_out"] == 0


def test_strangers_alone_are_enough():
    strangers = OWNERS >= 8
    found = tune(EMBEDDINGS[strangers], [NAMES[k] for k in np.flatnonzero(strangers)])
    assert found.offset == pytest.approx(
        offset(np.array(slow_stranger_margins(np.flatnonzero(strangers))), 0.1, table=False), abs=1e-6
    )
    assert found.evidence["known_named_right"]["n"] == 0
    assert found.evidence["n_strangers"] == 24


def test_a_single_person_is_not_enough_to_calibrate():
    own = OWNERS == 0
    with pytest.raises(ValueError, match=r"2 of 6 photos are enrolled"):
        calibrate(
            EMBEDDINGS[own], ["Anna"] * 6, TEMPLATES[3:4], ["Anna"], np.zeros(1),
            enrolled=EMBEDDINGS[ENROLLED], rate=0.1, table=False,
        )  # fmt: skip
    with_stranger = calibrate(
        EMBEDDINGS[own | (OWNERS == 9)], ["Anna"] * 6 + ["Ben"] * 6, TEMPLATES[3:4], ["Anna"], np.zeros(1),
        enrolled=EMBEDDINGS[ENROLLED], rate=0.5, table=False,
    )  # fmt: skip
    cosines = sorted(float(TEMPLATES[3] @ vector) for vector in EMBEDDINGS[OWNERS == 9])
    assert cosines[2] + 1e-4 < cosines[3]
    assert with_stranger.offset == pytest.approx(cosines[2], abs=1e-6), "three of the six strangers are named"
    assert with_stranger.evidence["unknown_detected"]["n"] == 6, "Anna alone has no stranger trials"


@pytest.mark.parametrize(
    ("probes", "names", "n_photos", "n_enrolled"),
    [(EMBEDDINGS[ENROLLED], [NAMES[k] for k in np.flatnonzero(ENROLLED)], 16, 16), (EMBEDDINGS[:0], [], 0, 0)],
)
def test_no_new_photos_are_not_enough_to_calibrate(probes, names, n_photos, n_enrolled):
    with pytest.raises(ValueError, match=f"{n_enrolled} of {n_photos} photos are enrolled"):
        tune(probes, names)


def test_an_empty_gallery_cannot_be_calibrated():
    with pytest.raises(ValueError, match="0 of 72 photos are enrolled"):
        calibrate(
            EMBEDDINGS, NAMES, np.empty((0, 24), np.float32), [], np.empty(0),
            enrolled=np.empty((0, 24), np.float32), rate=0.1, table=False,
        )  # fmt: skip


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.5, float("nan")])
def test_a_rate_is_a_share(rate):
    with pytest.raises(ValueError, match=f"between 0 and 1.*{rate}"):
        tune(rate=rate)
    with pytest.raises(ValueError, match="between 0 and 1"):
        tune(EMBEDDINGS[:0], [], rate=rate)
