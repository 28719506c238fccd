"""Thresholds against slow answers: bisection, and strangers drawn at random."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from facespace.defaults import DEFAULT_FMR, DEFAULT_MODEL, DEFAULT_RATE
from facespace.embedding import calibration
from facespace.embedding.calibration import Calibration
from facespace.errors import ModelError
from facespace.models.zoo import MODELS

STEEPNESS = 20.0


def survival(similarity: float) -> float:
    """The share of strangers that reaches a similarity, in a world where it is known: half of them reach 0."""
    return 0.5 * math.exp(-STEEPNESS * similarity)


def known_world(shift: tuple[tuple[int, float], ...] = ((1, 0.0), (2, 0.02), (4, 0.05))) -> Calibration:
    fmr = (0.5, 0.1, 0.01, 1e-3, 1e-4)
    similarity = tuple(-math.log(2 * value) / STEEPNESS for value in fmr)
    return Calibration(
        model="known world", fingerprint="0" * 64, runtime="onnxruntime", precision="float32",
        fmr=fmr, similarity=similarity, template_shift=shift,
        center=np.zeros(4, np.float32), n_photos=1, n_people=1,
    )  # fmt: skip


def per_person_rate(rate: float, n_people: int) -> float:
    """f with 1 − (1 − f)^P = rate, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - (1 - middle) ** n_people < rate else (low, middle)
    return low


@pytest.fixture(scope="module")
def shipped() -> Calibration:
    found = calibration.find(MODELS[DEFAULT_MODEL].sha256, runtime="openvino", precision="float32")
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


def test_the_default_rate_is_taken(shipped: Calibration) -> None:
    assert shipped.match_threshold() == shipped.match_threshold(DEFAULT_FMR) == shipped.match_threshold(1e-3)
    assert DEFAULT_RATE == 0.01


@pytest.mark.parametrize("fmr", [0, -1e-3, 0.51, 1, math.nan, math.inf])
def test_match_threshold_wants_a_rate(shipped: Calibration, fmr: float) -> None:
    with pytest.raises(ValueError, match="a false match rate wants"):
        shipped.match_threshold(fmr)


# Identification thresholds


@pytest.mark.parametrize("n_people", [1, 2, 7, 100, 5000])
@pytest.mark.parametrize("rate", [1e-4, 0.01, 0.2])
def test_identification_thresholds_against_bisection(rate: float, n_people: int) -> None:
    thresholds = known_world().identification_thresholds(rate, [1] * n_people)
    assert thresholds.shape == (n_people,)
    wanted = per_person_rate(rate, n_people)
    assert [survival(t) for t in thresholds[:3]] == pytest.approx([wanted] * min(3, n_people), rel=1e-6)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
def test_strangers_are_named_at_the_rate_asked_for(rate: float) -> None:
    """200,000 strangers meet 20 people, some with several photos, whose similarities lie higher by the shift."""
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


def test_more_people_want_more_similarity(shipped: Calibration) -> None:
    first = [shipped.identification_thresholds(0.01, [1] * n)[0] for n in (1, 2, 10, 1000, 100_000)]
    assert (np.diff(first) > 0).all()


def test_a_stricter_rate_wants_more_similarity(shipped: Calibration) -> None:
    first = [shipped.identification_thresholds(rate, [1] * 5)[0] for rate in (0.9, 0.1, 0.01, 0.001)]
    assert (np.diff(first) > 0).all()


def test_more_photos_of_a_person_want_more_similarity(shipped: Calibration) -> None:
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


def test_nobody_enrolled() -> None:
    assert known_world().identification_thresholds(0.01, []).shape == (0,)


@pytest.mark.parametrize("rate", [0, 1, -0.1, 2, math.nan])
@pytest.mark.parametrize("n_photos", [[], [1, 1]])
def test_identification_wants_a_rate(rate: float, n_photos: list[int]) -> None:
    with pytest.raises(ValueError, match="a rate of strangers named wants"):
        known_world().identification_thresholds(rate, n_photos)


# The shipped tables


def test_every_shipped_table_is_whole() -> None:
    folder = Path(calibration.__file__).parent / "calibrations"
    files = sorted(folder.glob("*.json"))
    assert files
    for file in files:
        table = json.loads(file.read_text())
        card = MODELS[table["model"]]
        assert table["fingerprint"] == card.sha256
        assert len(table["center"]) == card.dimension
        assert 0 < np.linalg.norm(table["center"]) < 1
        assert {"float32", "bfloat16", "int8"} == {entry["precision"] for entry in table["measured"]}
        for entry in table["measured"]:
            assert len(entry["fmr"]) == len(entry["similarity"]) >= 10
            assert (np.diff(entry["fmr"]) < 0).all()
            assert entry["fmr"][0] == 0.5  # what match_threshold accepts at most
            assert (np.diff(entry["similarity"]) > 0).all()
            counts, shifts = zip(*entry["template_shift"], strict=True)
            assert counts[0] == 1
            assert shifts[0] == 0
            assert (np.diff(counts) > 0).all()
            assert (np.diff(shifts) > 0).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_find_prefers_the_precision(runtime: str, precision: str) -> None:
    found = calibration.find(MODELS[DEFAULT_MODEL].sha256, runtime=runtime, precision=precision)
    assert found is not None
    assert found.precision == precision
    assert found.center.shape == (512,)
    assert found.center.dtype == np.float32


def test_find_takes_the_runtime_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr(calibration, "_tables", lambda: [table])
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


def test_weights_nobody_measured() -> None:
    assert calibration.find("0" * 64, runtime="openvino", precision="float32") is None
    error = calibration.missing("mine.onnx")
    assert isinstance(error, ModelError)
    assert "mine.onnx" in str(error)
    assert "--threshold" in str(error)
