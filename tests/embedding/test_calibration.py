"""Tests thresholds against slow methods: bisection, and random strangers."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from facespace.defaults import DEFAULT_FMR, DEFAULT_RANDOM_FMR, DEFAULT_RATE
from facespace.embedding import calibration
from facespace.embedding.calibration import Calibration, LookAlikes
from facespace.errors import ModelError
from facespace.models.zoo import MODELS

STEEPNESS = 20.0


def survival(similarity: float) -> float:
    """Return the share of strangers that reach a similarity, in a world where it is known: half of them reach 0.

    Beyond one in 10,000 the tail is that of a normal distribution with the right rates there and at one in 100.
    """
    rate = 0.5 * math.exp(-STEEPNESS * similarity)
    two, four = (-math.log(2 * value) / STEEPNESS for value in (1e-2, 1e-4))
    return rate if rate >= 1e-4 else normal_tail(similarity, (1e-2, two), (1e-4, four))


def normal_tail(similarity: float, one: tuple[float, float], other: tuple[float, float]) -> float:
    """Return the share above a similarity in the normal distribution through these two (rate, similarity) points."""
    scale = (other[1] - one[1]) / (norm.isf(other[0]) - norm.isf(one[0]))
    return float(norm.sf(similarity, one[1] - scale * norm.isf(one[0]), scale))


def known_world(shift: tuple[tuple[int, float], ...] = ((1, 0.0), (2, 0.02), (4, 0.05))) -> Calibration:
    fmr = (0.5, 0.1, 0.01, 1e-3, 1e-4)
    similarity = tuple(-math.log(2 * value) / STEEPNESS for value in fmr)
    return Calibration(
        model="known world", fingerprint="0" * 64, runtime="onnxruntime", precision="float32",
        fmr=fmr, similarity=similarity, template_shift=shift,
        center=np.zeros(4, np.float32), n_photos=1, n_people=1,
    )  # fmt: skip


def per_person_rate(rate: float, n_people: int) -> float:
    """Return f with 1 − (1 − f)^P = rate, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - (1 - middle) ** n_people < rate else (low, middle)
    return low


@pytest.fixture(scope="module")
def shipped() -> Calibration:
    found = calibration.find(MODELS["casia-webface"].sha256, runtime="openvino", precision="float32")
    assert found is not None
    return found


# Match thresholds


@pytest.mark.parametrize("fmr", [0.5, 0.3, 0.1, 0.02, 1e-3, 2.5e-4, 1e-4, 3e-5, 1e-5])
def test_match_threshold_where_the_truth_is_known(fmr: float) -> None:
    """At the table's points, between them, and beyond the rarest (the last two)."""
    threshold = known_world().match_threshold(fmr)
    assert survival(threshold) == pytest.approx(fmr, rel=1e-9)


def test_match_threshold_ends_at_one() -> None:
    assert known_world().match_threshold(1e-30) == 1.0


def test_match_threshold_at_the_points_of_the_table(shipped: Calibration) -> None:
    for fmr, similarity in zip(shipped.fmr, shipped.similarity, strict=True):
        assert shipped.match_threshold(fmr) == pytest.approx(similarity)


def test_match_threshold_is_monotone(shipped: Calibration) -> None:
    thresholds = [shipped.match_threshold(fmr) for fmr in np.logspace(math.log10(0.5), -9, 300)]
    assert (np.diff(thresholds) >= 0).all()
    assert thresholds[0] < 0.1 < thresholds[-1] <= 1


def test_the_default_rates() -> None:
    assert (DEFAULT_RATE, DEFAULT_FMR, DEFAULT_RANDOM_FMR) == (0.01, 0.01, 1e-3)


@pytest.mark.parametrize("fmr", [0, -1e-3, 0.51, 1, math.nan, math.inf])
def test_match_threshold_refuses_other_rates(shipped: Calibration, fmr: float) -> None:
    with pytest.raises(ValueError, match=r"a false match rate must be above 0 and at most 0.5"):
        shipped.match_threshold(fmr)


# Identification thresholds


@pytest.mark.parametrize("n_people", [1, 2, 7, 100, 5000])
@pytest.mark.parametrize("rate", [1e-4, 0.01, 0.2])
def test_identification_thresholds_against_bisection(rate: float, n_people: int) -> None:
    thresholds = known_world().identification_thresholds(rate, [1] * n_people)
    assert thresholds.shape == (n_people,)
    expected = per_person_rate(rate, n_people)
    assert [survival(t) for t in thresholds[:3]] == pytest.approx([expected] * min(3, n_people), rel=1e-6)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
def test_strangers_are_named_at_the_requested_rate(rate: float) -> None:
    """200,000 strangers are compared with 20 people, some with several photos, whose similarities are higher by the
    shift.
    """
    rng = np.random.default_rng(3)
    n_photos, n_strangers = [1] * 10 + [2] * 6 + [4] * 4, 200_000
    shift = {1: 0.0, 2: 0.02, 4: 0.05}
    thresholds = known_world().identification_thresholds(rate, n_photos)
    named = np.zeros(n_strangers, bool)
    for n, threshold in zip(n_photos, thresholds, strict=True):
        similarity = -np.log(2 * (1 - rng.random(n_strangers))) / STEEPNESS + shift[n]
        named |= similarity >= threshold
    margin = 4 * math.sqrt(rate * (1 - rate) / n_strangers)
    assert named.mean() == pytest.approx(rate, abs=margin)


def test_more_people_need_more_similarity(shipped: Calibration) -> None:
    first = [shipped.identification_thresholds(0.01, [1] * n)[0] for n in (1, 2, 10, 1000, 100_000)]
    assert (np.diff(first) > 0).all()


def test_a_stricter_rate_needs_more_similarity(shipped: Calibration) -> None:
    first = [shipped.identification_thresholds(rate, [1] * 5)[0] for rate in (0.9, 0.1, 0.01, 0.001)]
    assert (np.diff(first) > 0).all()


def test_more_photos_of_a_person_need_more_similarity(shipped: Calibration) -> None:
    thresholds = shipped.identification_thresholds(0.01, [1, 2, 3, 4, 6])
    assert (np.diff(thresholds) > 0).all()
    shifts = [shift for n, shift in shipped.template_shift if n in (1, 2, 3, 4, 6)]
    assert thresholds - thresholds[0] == pytest.approx(np.array(shifts) - shifts[0])


def test_the_shift_between_and_beyond_its_points() -> None:
    one, three, four, many = known_world().identification_thresholds(0.01, [1, 3, 4, 500])
    between = 0.02 + 0.03 * (math.log(3) - math.log(2)) / (math.log(4) - math.log(2))
    assert three - one == pytest.approx(between)
    assert four - one == pytest.approx(0.05)
    assert many == four


def test_thresholds_never_pass_one() -> None:
    thresholds = known_world(((1, 0.0), (2, 0.9))).identification_thresholds(1e-4, [1, 2])
    assert thresholds[0] < 1
    assert thresholds[1] == 1


def test_an_empty_gallery_has_no_thresholds() -> None:
    assert known_world().identification_thresholds(0.01, []).shape == (0,)


@pytest.mark.parametrize("rate", [0, 1, -0.1, 2, math.nan])
@pytest.mark.parametrize("n_photos", [[], [1, 1]])
def test_identification_refuses_other_rates(rate: float, n_photos: list[int]) -> None:
    with pytest.raises(ValueError, match="a rate of strangers named must be between 0 and 1"):
        known_world().identification_thresholds(rate, n_photos)


# The shipped tables


def test_every_shipped_table_is_complete() -> None:
    folder = Path(calibration.__file__).parent / "calibrations"
    files = sorted(folder.glob("*.json"))
    assert files
    for file in files:
        table = json.loads(file.read_text())
        card = MODELS[table["model"]]
        assert table["fingerprint"] == card.sha256
        assert len(table["center"]) == card.dimension
        assert 0 < np.linalg.norm(table["center"]) < 1
        # Models that always run in float32 have no other table.
        expected = {"float32"} if table["model"] == "sface" else {"float32", "bfloat16", "int8"}
        assert expected == {entry["precision"] for entry in table["measured"]}
        assert table.get("detector", "mtcnn") == card.detector
        for name in ("pairs", "people") if "look_alikes" in table else ():
            rates, similarities = zip(*table["look_alikes"][name], strict=True)
            assert (np.diff(rates) < 0).all() and (np.diff(similarities) > 0).all()
        for entry in table["measured"]:
            assert len(entry["fmr"]) == len(entry["similarity"]) >= 10
            assert (np.diff(entry["fmr"]) < 0).all()
            assert entry["fmr"][0] == 0.5  # the largest rate that match_threshold accepts
            assert (np.diff(entry["similarity"]) > 0).all()
            counts, shifts = zip(*entry["template_shift"], strict=True)
            assert counts[0] == 1
            assert shifts[0] == 0
            assert (np.diff(counts) > 0).all()
            assert (np.diff(shifts) > 0).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_find_prefers_the_precision(runtime: str, precision: str) -> None:
    found = calibration.find(MODELS["casia-webface"].sha256, runtime=runtime, precision=precision)
    assert found is not None
    assert found.precision == precision
    assert found.center.shape == (512,)
    assert found.center.dtype == np.float32


def test_find_prefers_the_runtime_if_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(runtime: str, precision: str, at: float) -> dict[str, object]:
        return {
            "runtime": runtime, "precision": precision, "fmr": [0.5, 0.1],
            "similarity": [at, at + 0.1], "template_shift": [[1, 0.0]],
        }  # fmt: skip

    table = {
        "model": "m", "fingerprint": "f", "center": [0.0], "n_photos": 2, "n_people": 1,
        "measured": [
            measured("openvino", "bfloat16", 0.1),
            measured("openvino", "float32", 0.2),
            measured("onnxruntime", "float32", 0.3),
        ],
    }  # fmt: skip
    monkeypatch.setattr(calibration, "json_tables", lambda *_: [table])
    for runtime, precision, at in (
        ("openvino", "bfloat16", 0.1),
        ("openvino", "float32", 0.2),
        ("onnxruntime", "float32", 0.3),
        ("onnxruntime", "bfloat16", 0.1),
        ("elsewhere", "bfloat16", 0.1),
    ):
        found = calibration.find("f", runtime=runtime, precision=precision)
        assert found is not None
        assert found.match_threshold(0.5) == at


def test_weights_without_a_calibration() -> None:
    assert calibration.find("0" * 64, runtime="openvino", precision="float32") is None
    error = calibration.missing("mine.onnx")
    assert isinstance(error, ModelError)
    assert "mine.onnx" in str(error)
    assert "--threshold" in str(error)


# People who resemble each other, and poor faces

ALIKE = LookAlikes(
    pairs=((0.1, 0.30), (0.01, 0.40), (0.001, 0.50)),
    people=((0.1, 0.28), (0.01, 0.38), (0.001, 0.48)),
    slope=0.25,
    n_photos=19,
    n_faces=500,
)


def look_alike_world() -> Calibration:
    return dataclasses.replace(known_world(), look_alikes=ALIKE)


@pytest.mark.parametrize(("fmr", "base"), [(0.1, 0.30), (0.01, 0.40), (0.001, 0.50), (math.sqrt(1e-5), 0.45)])
def test_pairs_within_a_photo_set_the_threshold(fmr: float, base: float) -> None:
    """At the table's points and between them."""
    assert look_alike_world().match_threshold(fmr, 1.0) == pytest.approx(base)
    assert look_alike_world().match_threshold(fmr, 0.4) == pytest.approx(base + 0.15)


def test_beyond_the_rarest_rate_thresholds_follow_the_normal_distribution() -> None:
    world = look_alike_world()
    for rate in (1e-4, 1e-6, 1e-9):
        assert normal_tail(world.match_threshold(rate, 1.0), (0.1, 0.30), (0.001, 0.50)) == pytest.approx(
            rate, rel=1e-6
        )
    assert world.match_threshold(0.00099, 1.0) == pytest.approx(0.50, abs=1e-3)  # no step


def test_the_slope_beyond_rests_on_two_decades(shipped: Calibration) -> None:
    """The rarest two points, which rest on few pairs, may lie anywhere between their neighbours."""
    shaken = dataclasses.replace(
        shipped, similarity=(*shipped.similarity[:-2], shipped.similarity[-1] - 1e-4, shipped.similarity[-1])
    )
    assert shaken.match_threshold(1e-8) == shipped.match_threshold(1e-8)


def test_shipped_tables_end_where_pairs_are_too_few(shipped: Calibration) -> None:
    assert min(shipped.fmr) * shipped.n_photos**2 / 2 > 100


def test_a_face_of_unknown_quality_counts_as_average() -> None:
    world = look_alike_world()
    assert world.match_threshold(0.01) == world.match_threshold(0.01, calibration.UNKNOWN_QUALITY)
    unknown = world.identification_thresholds(0.01, [1, 1])
    known = world.identification_thresholds(0.01, [1, 1], qualities=[0.75, 0.75], probe_qualities=[0.75])[0]
    np.testing.assert_allclose(unknown, known)


@pytest.mark.parametrize("n_people", [1, 2, 35, 1000])
@pytest.mark.parametrize("rate", [0.001, 0.01, 0.05])
def test_one_look_alike_and_the_others_random_give_the_rate(rate: float, n_people: int) -> None:
    threshold = look_alike_world().identification_thresholds(
        rate, [1] * n_people, qualities=[1.0] * n_people, probe_qualities=[1.0]
    )[0, 0]
    # The look-alikes' table is linear in the logarithm, 0.1 of similarity per factor of ten, then normal.
    alike = 10 ** (-1 - (threshold - 0.28) / 0.1)
    alike = alike if alike >= 1e-3 else normal_tail(threshold, (0.1, 0.28), (0.001, 0.48))
    among = alike + 1 - (1 - survival(threshold)) ** (n_people - 1)
    if survival(threshold) <= 0.5 and alike <= 0.1:
        assert among == pytest.approx(rate, rel=1e-3)
    else:
        assert among <= rate


def test_several_photos_reach_more_as_random_people_do() -> None:
    one, four = look_alike_world().identification_thresholds(0.01, [1, 4])
    assert one < four < one + 0.05


def test_thresholds_follow_the_quality_of_both_faces() -> None:
    expected = look_alike_world().identification_thresholds(
        0.01, [1, 1], qualities=[1.0, 0.6], probe_qualities=[1.0, 0.2]
    )
    assert expected.shape == (2, 2)
    np.testing.assert_allclose(expected - expected[0, 0], [[0, 0.05], [0.1, 0.15]], atol=1e-9)
    empty = look_alike_world().identification_thresholds(0.01, [], probe_qualities=[1.0, 0.2])
    assert empty.shape == (2, 0)


def test_without_look_alikes_quality_changes_nothing() -> None:
    plain = known_world()
    assert plain.match_threshold(0.01, 0.1) == plain.match_threshold(0.01)
    expected = plain.identification_thresholds(0.01, [1, 2], probe_qualities=[0.1, 1.0])
    assert expected.shape == (2, 2) and (expected[0] == expected[1]).all()
    np.testing.assert_array_equal(expected[0], plain.identification_thresholds(0.01, [1, 2]))


def test_the_default_rate_and_the_conditions_say_what_was_measured() -> None:
    assert (
        known_world().default_rate == DEFAULT_RANDOM_FMR and "not measured on small faces" in known_world().conditions
    )
    assert look_alike_world().default_rate == DEFAULT_FMR and "19 group photos" in look_alike_world().conditions


def test_random_pairs_and_pairs_of_one_photo_differ() -> None:
    assert look_alike_world().random_threshold(0.01, 1.0) == pytest.approx(known_world().match_threshold(0.01))
    assert look_alike_world().random_threshold(0.01, 0.6) == pytest.approx(known_world().match_threshold(0.01) + 0.1)
