"""Tests a classifier's rates on other photos against shares counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from facespace.identification.classifier import Classifier, Prediction
from facespace.identification.classifier_evaluation import ClassifierEvaluation, evaluate_classifier
from facespace.metrics.bootstrap import share
from support.sphere import people


def evaluation(*faces: tuple[str, str | None, str, bool]) -> ClassifierEvaluation:
    """Return the evaluation of faces (true name, predicted name, nearest person, whether the true name was learned)."""
    return ClassifierEvaluation(
        tuple(true for true, *_ in faces),
        tuple(Prediction(name, 0.5, 0.4, nearest, None) for _, name, nearest, _ in faces),
        tuple(known for *_, known in faces),
    )


FACES = evaluation(
    ("Anna", "Anna", "Anna", True),
    ("Anna", "Anna", "Anna", True),
    ("Anna", "Ben", "Ben", True),
    ("Ben", None, "Ben", True),
    ("Ben", None, "Anna", True),
    ("Zoe", None, "Anna", False),
    ("Zoe", "Ben", "Ben", False),
    ("Yan", None, "Ben", False),
)


def test_each_face_is_right_or_wrong():
    assert [FACES.right(k) for k in range(8)] == [True, True, False, False, False, True, False, True]


def test_a_stranger_called_by_its_own_name_is_wrong():
    """A closed set may name a stranger; a name that was not learned can never be the right answer."""
    assert not evaluation(("Zoe", "Zoe", "Zoe", False)).right(0)


def test_rates_by_hand():
    found = FACES.rates()
    assert list(found) == [
        "closed_set_accuracy", "known_named_right", "known_named_wrong", "known_rejected", "strangers_named"
    ]  # fmt: skip
    assert {name: (rate["share"], rate["n"]) for name, rate in found.items()} == {
        "closed_set_accuracy": (3 / 5, 5),
        "known_named_right": (2 / 5, 5),
        "known_named_wrong": (1 / 5, 5),
        "known_rejected": (2 / 5, 5),
        "strangers_named": (1 / 3, 3),
    }


def test_intervals_are_over_people_and_not_over_faces():
    faces = [(name, name if name < "c" else None, name, True) for name in "abcd" for _ in range(25)]
    found = evaluation(*faces).rates()["known_named_right"]
    assert found == share(np.repeat([True, True, False, False], 25), np.repeat(np.arange(4), 25))
    assert found["high"] - found["low"] > 0.9, "four people give a wider interval than a hundred faces"


def test_known_people_alone_and_strangers_alone():
    nothing = {"share": None, "low": None, "high": None, "n": 0}
    assert evaluation(("Anna", "Anna", "Anna", True)).rates()["strangers_named"] == nothing
    found = evaluation(("Zoe", None, "Anna", False)).rates()
    assert found.pop("strangers_named")["share"] == 0
    assert list(found.values()) == [nothing] * 4
    assert list(evaluation().rates().values()) == [nothing] * 5


@pytest.mark.parametrize("seed", range(3))
def test_faces_are_matched_by_name_in_any_order(seed):
    embeddings, owners = people(8, 4, similarity=0.7)
    names = np.array([f"person {k}" for k in owners])
    learned = owners >= 2
    classifier = Classifier().fit(embeddings[learned], names[learned].tolist())
    order = np.random.default_rng(seed).permutation(len(owners))
    found = evaluate_classifier(classifier, embeddings[order], names[order].tolist())
    assert found.names == tuple(names[order])
    assert found.known == tuple(learned[order].tolist())
    assert found.predictions == tuple(classifier.predict(embeddings[order]))
    assert found.rates()["known_named_right"]["share"] == 1.0
    assert found.rates()["known_named_right"]["n"] == 24
    assert found.rates()["strangers_named"]["n"] == 8
