"""Losses against loops that spell the formulas out, and against what the programs of 2018 printed."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from facespace.training.losses.loss import create
from facespace.training.losses.margin import arc_margin, combined_margin
from facespace.training.losses.triplet import choose_triplets, squared_distances

D, C, N = 5, 4, 12
LABELS = [0, 1, 1, 3, 0, 2, 3, 3, 1, 0, 2, 0]


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def cross_entropy(logits: list[list[float]]) -> float:
    total = 0.0
    for row, label in zip(logits, LABELS, strict=True):
        total += math.log(sum(math.exp(value - max(row)) for value in row)) + max(row) - row[label]
    return total / len(LABELS)


def with_margin(features, weight, scale, at_label, n_centers=1) -> float:
    logits = []
    for x, label in zip(features.numpy(), LABELS, strict=True):
        row = []
        for identity in range(C):
            centers = weight[identity * n_centers : (identity + 1) * n_centers]
            cosine = max(float(unit(x) @ unit(center)) for center in centers)
            row.append(scale * (at_label(cosine, x) if identity == label else cosine))
        logits.append(row)
    return cross_entropy(logits)


def arc(cosine: float, margin: float) -> float:
    angle = math.acos(cosine)
    return math.cos(angle + margin) if angle + margin < math.pi else cosine - margin * math.sin(margin)


def combined(cosine: float, factor: float, margin: float, shift: float) -> float:
    angle = factor * math.acos(cosine) + margin
    turns = math.floor(angle / math.pi)
    return (-1) ** turns * math.cos(angle) - 2 * turns - shift


@pytest.mark.parametrize(
    ("name", "options", "scale", "at_label"),
    [
        ("normalised-softmax", {}, 30, lambda c, _: c),
        ("normalised-softmax", {"scale": 7}, 7, lambda c, _: c),
        ("arcface", {}, 64, lambda c, _: arc(c, 0.5)),
        ("arcface", {"margin": 1.2, "scale": 10}, 10, lambda c, _: arc(c, 1.2)),
        ("cosface", {}, 64, lambda c, _: c - 0.35),
        ("combined-margin", {}, 64, lambda c, _: combined(c, 1, 0.3, 0.2)),
        (
            "combined-margin",
            {"factor": 4, "margin": 0.0, "shift": 0.0, "scale": 5},
            5,
            lambda c, _: combined(c, 4, 0, 0),
        ),
        ("sub-center-arcface", {}, 64, lambda c, _: arc(c, 0.5)),
        ("partial-fc", {}, 64, lambda c, _: arc(c, 0.5)),
        ("partial-fc", {"kind": "cosface", "margin": 0.2}, 64, lambda c, _: c - 0.2),
    ],
)
def test_margins(features, name, options, scale, at_label):
    loss = create(name, dimension=D, n_classes=C, **options).double()
    with torch.no_grad():
        loss.weight.copy_(torch.randn(loss.weight.shape, generator=torch.Generator().manual_seed(1)))
    n_centers = len(loss.weight) // C
    expected = with_margin(features, loss.weight.detach().numpy(), scale, at_label, n_centers)
    assert loss(features, torch.tensor(LABELS)).item() == pytest.approx(expected, rel=1e-6)


def test_softmax(features):
    loss = create("softmax", dimension=D, n_classes=C).double()
    with torch.no_grad():
        loss.bias.copy_(torch.arange(C))
    weight = loss.weight.detach().numpy()
    logits = [[float(x @ weight[j]) + j for j in range(C)] for x in features.numpy()]
    assert loss(features, torch.tensor(LABELS)).item() == pytest.approx(cross_entropy(logits), rel=1e-9)
    right = np.mean([np.argmax(row) == label for row, label in zip(logits, LABELS, strict=True)])
    assert loss.facts["accuracy"].item() == pytest.approx(right)


def test_adaface(features):
    loss = create("adaface", dimension=D, n_classes=C).double()
    with torch.no_grad():
        loss.weight.copy_(torch.randn(C, D, generator=torch.Generator().manual_seed(1)))
    norms = np.linalg.norm(features.numpy(), axis=1)
    mean = 20 + 0.01 * (norms.mean() - 20)
    std = 100 + 0.01 * (norms.std(ddof=1) - 100)
    m, h = 0.4, 0.333

    def at_label(cosine: float, x: np.ndarray) -> float:
        z = min(max((np.linalg.norm(x) - mean) / (std + 1e-3) * h, -1), 1)
        return math.cos(math.acos(cosine) - m * z) - (m + m * z)

    expected = with_margin(features, loss.weight.detach().numpy(), 64, at_label)
    assert loss.train()(features, torch.tensor(LABELS)).item() == pytest.approx(expected, rel=1e-6)
    assert (loss.mean_norm.item(), loss.std_norm.item()) == (pytest.approx(mean), pytest.approx(std))


def test_a_larger_angle_is_never_cheaper():
    cosines = torch.linspace(1, -1, 20_001, dtype=torch.float64)
    for values in (
        arc_margin(cosines, 0.5),
        combined_margin(cosines, 4.0, 0.0, 0.0),
        combined_margin(cosines, 1.0, 0.5, 0.1),
    ):
        steps = values.diff()
        assert (steps[(steps.abs() < 0.1)] <= 1e-6).all()


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_features_norm(features, order):
    expected = np.mean([sum((abs(v) + 1e-4) ** order for v in x) ** (1 / order) for x in features.numpy()])
    assert create("features-norm", dimension=D, n_classes=C, order=order)(features, None).item() == pytest.approx(
        expected
    )


# --- center loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
def test_center_loss(features, legacy):
    loss = create("center", dimension=D, n_classes=C, rate=0.3, legacy=legacy).double()
    centers = np.zeros((C, D))
    for step in range(4):
        x = features.numpy() * (step + 1)
        expected = np.mean([(v - centers[label]) ** 2 for v, label in zip(x, LABELS, strict=True)])
        assert loss(torch.from_numpy(x), torch.tensor(LABELS)).item() == pytest.approx(expected)
        old = centers.copy()
        for identity in range(C):
            apart = [old[identity] - v for v, label in zip(x, LABELS, strict=True) if label == identity]
            centers[identity] -= 0.3 * sum(apart) / (1 if legacy else 1 + len(apart))
        np.testing.assert_allclose(loss.centers.numpy(), centers, atol=1e-12)
    loss.eval()(features, torch.tensor(LABELS))
    np.testing.assert_allclose(loss.centers.numpy(), centers, atol=1e-12)


def test_the_update_of_2018_diverges_and_the_papers_does_not():
    labels = torch.zeros(60, dtype=torch.int64)
    x = torch.randn(60, D, generator=torch.Generator().manual_seed(0))
    lengths = {}
    for legacy in (True, False):
        loss = create("center", dimension=D, n_classes=1, rate=0.1, legacy=legacy)
        for _ in range(50):
            loss(x, labels)
        lengths[legacy] = loss.centers.norm().item()
    assert lengths[True] > 1e6
    assert lengths[False] < 1


@pytest.fixture(scope="module")
def golden(shared):
    return json.loads((shared / "golden" / "losses_golden.json").read_text())


@pytest.mark.shared
def test_center_loss_of_2018(golden):
    given = golden["center"]
    features = torch.tensor(given["features"], requires_grad=True)
    labels = torch.tensor(given["labels"])
    rate = 1 - given["alfa"]
    loss = create("center", dimension=features.shape[1], n_classes=given["n_classes"], rate=rate, legacy=True)
    for step in given["steps"]:
        features.grad = None
        value = loss(features, labels)
        value.backward()
        assert value.item() == pytest.approx(step["loss"], rel=1e-5)
        np.testing.assert_allclose(features.grad.numpy(), step["grad_features"], atol=1e-6)
        np.testing.assert_allclose(loss.centers.numpy(), step["centers_after"], atol=1e-5)


@pytest.mark.shared
def test_triplet_loss_of_2018(golden, monkeypatch):
    """Value and gradient on the original's triplets; normalisation removes the gradient along a unit vector."""
    from facespace.training.losses import triplet

    given = golden["triplet"]
    parts = [np.array(given[name], np.float32) for name in ("anchor", "positive", "negative")]
    rows = torch.arange(3 * len(parts[0])).reshape(3, -1)
    monkeypatch.setattr(triplet, "choose_triplets", lambda *_, **__: tuple(rows))
    features = torch.tensor(np.concatenate(parts), requires_grad=True)
    value = create("triplet", dimension=features.shape[1], n_classes=2, margin=given["alpha"])(
        features, torch.zeros(len(features), dtype=torch.int64)
    )
    value.backward()
    assert value.item() == pytest.approx(given["loss"], rel=1e-5)
    x = np.concatenate(parts)
    expected = np.concatenate([given[f"grad_{name}"] for name in ("anchor", "positive", "negative")])
    expected = expected - (expected * x).sum(1, keepdims=True) * x
    np.testing.assert_allclose(features.grad.numpy(), expected, atol=1e-6)


# --- triplets -----------------------------------------------------------------------------------------------------------


def slow_triplets(d: np.ndarray, labels: list[int], margin: float, miner: str) -> list[tuple[int, int, int]]:
    n, chosen = len(labels), []
    for a in range(n):
        others = [k for k in range(n) if labels[k] != labels[a]]
        positives = [p for p in range(n) if p != a and labels[p] == labels[a]]
        if miner == "batch-hard" and positives and others:
            chosen.append((a, max(positives, key=lambda p: d[a, p]), min(others, key=lambda k: d[a, k])))
        for p in positives if miner != "batch-hard" else []:
            if miner == "all":
                chosen += [(a, p, k) for k in others]
            elif miner == "hard":
                chosen += [(a, p, k) for k in others if d[a, k] < d[a, p]]
            elif miner == "semi-hard":
                band = [k for k in others if d[a, p] < d[a, k] < d[a, p] + margin]
                chosen += [(a, p, min(band, key=lambda k: d[a, k]))] if band else []
            elif a < p:
                chosen += [(a, p, k) for k in others if d[a, k] - d[a, p] < margin]  # one of these is drawn
    return chosen


@pytest.mark.parametrize("miner", ["all", "hard", "semi-hard", "batch-hard", "vgg"])
@pytest.mark.parametrize("margin", [0.05, 0.5])
def test_miners(features, miner, margin):
    d = squared_distances(torch.nn.functional.normalize(features))
    torch.manual_seed(0)
    found = list(
        zip(*(x.tolist() for x in choose_triplets(d, torch.tensor(LABELS), margin=margin, miner=miner)), strict=True)
    )
    expected = slow_triplets(d.numpy(), LABELS, margin, miner)
    if miner != "vgg":
        assert sorted(found) == sorted(expected)
        return
    assert set(found) <= set(expected)
    assert sorted(t[:2] for t in found) == sorted({t[:2] for t in expected})
    seen = set(found)
    for _ in range(300):
        seen |= set(
            zip(
                *(x.tolist() for x in choose_triplets(d, torch.tensor(LABELS), margin=margin, miner=miner)), strict=True
            )
        )
    assert seen == set(expected)  # each one is drawn at some point


def test_large_batches_are_processed_in_parts(features, monkeypatch):
    from facespace.training.losses import triplet

    d = squared_distances(torch.nn.functional.normalize(features))
    whole = choose_triplets(d, torch.tensor(LABELS), margin=0.5, miner="semi-hard")
    monkeypatch.setattr(triplet, "_rows", lambda n: 3)
    parts = choose_triplets(d, torch.tensor(LABELS), margin=0.5, miner="semi-hard")
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


@pytest.mark.parametrize("miner", ["all", "hard", "semi-hard", "batch-hard", "vgg"])
@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], [7]])
def test_batches_without_a_triplet(miner, labels):
    loss = create("triplet", dimension=D, n_classes=C, miner=miner)
    x = torch.randn(len(labels), D, requires_grad=True)
    value = loss(x, torch.tensor(labels))
    value.backward()
    assert value.item() == 0
    assert not x.grad.any()
    assert loss.facts["triplets"] == 0
    assert loss.facts["active"] == 0


def test_facts_about_triplets(features):
    loss = create("triplet", dimension=D, n_classes=C, miner="all", margin=0.3)
    value = loss(features, torch.tensor(LABELS))
    e = np.array([unit(x) for x in features.numpy()])
    d = np.array([[((a - b) ** 2).sum() for b in e] for a in e])
    all_of_them = slow_triplets(d, LABELS, 0.3, "all")
    parts = np.array([max(0, d[a, p] - d[a, k] + 0.3) for a, p, k in all_of_them])
    assert value.item() == pytest.approx(parts.mean())
    assert loss.facts["triplets"] == len(all_of_them)
    assert loss.facts["active"].item() == pytest.approx((parts > 0).mean())
    assert loss.facts["spread"].item() == pytest.approx(d.sum() / (N * (N - 1)))
    loss(torch.ones(N, D), torch.tensor(LABELS))
    assert loss.facts["spread"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("triplet", {"miner": "easy"}, "miner must be one of all, hard"),
        ("triplet", {"margin": 0}, "margin must be more than 0"),
        ("center", {"rate": 0}, "rate must be more than 0"),
        ("combined-margin", {"factor": 0.5}, "factor must be at least 1"),
        ("partial-fc", {"sample_rate": 0}, "sample_rate must be"),
        ("partial-fc", {"kind": "sphere"}, "kind must be one of arcface, cosface"),
    ],
)
def test_options_out_of_range(name, options, message):
    with pytest.raises(ValueError, match=message):
        create(name, dimension=D, n_classes=C, **options)
