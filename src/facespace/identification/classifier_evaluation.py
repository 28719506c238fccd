"""Evaluates a classifier on labelled photos that it was not fitted to; people it has not learned count as strangers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from facespace.identification.classifier import Classifier, Prediction
from facespace.identification.open_set import Embeddings
from facespace.metrics.bootstrap import share


@dataclass(frozen=True, slots=True, eq=False)
class ClassifierEvaluation:
    """Holds the true `names` and the `predictions` of N faces; `known` (N,) is True where the name was learned."""

    names: tuple[str, ...]
    predictions: tuple[Prediction, ...]
    known: tuple[bool, ...]

    def right(self, k: int) -> bool:
        """Return whether face k got its true name or, if it shows a stranger, was reported as unknown."""
        return self.predictions[k].name == (self.names[k] if self.known[k] else None)

    def rates(self) -> dict[str, Any]:
        """Return a dict of rates, each with a 95 % interval from resampling people (see `metrics.bootstrap.share`).

        Of the faces of learned people, `closed_set_accuracy` is the share whose most likely person is right, and
        `known_named_right`, `known_named_wrong` and `known_rejected` add up to 1. `strangers_named` is a share of all
        other faces.
        """
        _, people = np.unique(self.names, return_inverse=True)
        known = np.array(self.known, np.bool_)
        same = np.array([p.nearest == name for p, name in zip(self.predictions, self.names, strict=True)], np.bool_)
        named = np.array([p.name is not None for p in self.predictions], np.bool_)
        figures = {
            "closed_set_accuracy": same,
            "known_named_right": same & named,
            "known_named_wrong": ~same & named,
            "known_rejected": ~named,
        }
        return {
            **{name: share(flags[known], people[known]) for name, flags in figures.items()},
            "strangers_named": share(named[~known], people[~known]),
        }


def evaluate_classifier(classifier: Classifier, embeddings: Embeddings, names: Sequence[str]) -> ClassifierEvaluation:
    """Evaluate a classifier on faces (N,D) with their true `names` (N,); people are matched by name, not by position."""
    learned = set(classifier.names_)
    return ClassifierEvaluation(
        tuple(names), tuple(classifier.predict(embeddings)), tuple(name in learned for name in names)
    )
