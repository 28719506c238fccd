"""Assigns names so that each person is named at most once in a photo."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from facespace.metrics.distances import Integers


class _Named(Protocol):
    @property
    def name(self) -> str | None: ...

    @property
    def similarity(self) -> float | None: ...


N = TypeVar("N", bound=_Named)


def keep_each_name_once(predictions: Sequence[N]) -> list[N]:
    """Return the predictions with each name kept only by its most similar face; the other faces become unknown.

    >>> from facespace.identification.classifier import Prediction
    >>> twice = [Prediction("Ada", 0.5, 0.4, "Ada", None), Prediction("Ada", 0.6, 0.4, "Ada", None)]
    >>> [prediction.name for prediction in keep_each_name_once(twice)]
    [None, 'Ada']
    """
    best: dict[str, int] = {}
    for k, prediction in enumerate(predictions):
        if prediction.name is not None:
            previous = best.get(prediction.name)
            if previous is None or (prediction.similarity or 0.0) > (predictions[previous].similarity or 0.0):
                best[prediction.name] = k
    kept = set(best.values())
    return [
        prediction if k in kept or prediction.name is None else _without_name(prediction)
        for k, prediction in enumerate(predictions)
    ]


def _without_name(prediction: Any) -> Any:
    return dataclasses.replace(prediction, name=None)


def one_face_each(similarity: npt.NDArray[np.floating], thresholds: npt.NDArray[np.floating]) -> Integers:
    """Return the person of each face (N,), or −1 for unknown; `similarity` and `thresholds` are (N,P).

    A face may get a person only if it reaches that person's threshold, and each person goes to at most one face. Among
    all such assignments, linear assignment finds the one with the largest sum of similarities.

    >>> similarity = np.array([[0.9, 0.5], [0.8, 0.1], [0.2, 0.6]])
    >>> one_face_each(similarity, np.full((3, 2), 0.4)).tolist()
    [0, -1, 1]
    """
    chosen: Integers = np.full(len(similarity), -1, np.int64)
    reached = similarity >= thresholds
    rows, columns = np.flatnonzero(reached.any(axis=1)), np.flatnonzero(reached.any(axis=0))
    if not len(rows):
        return chosen
    part = np.ix_(rows, columns)
    # A pair below its threshold scores 0. Adding 2 keeps all other scores positive, because a similarity may be negative
    # if its threshold is.
    score = np.where(reached[part], similarity[part] + 2.0, 0.0)
    if len(rows) == 1:
        chosen[rows[0]] = columns[score[0].argmax()]
        return chosen
    from scipy.optimize import linear_sum_assignment

    for row, column in zip(*linear_sum_assignment(score, maximize=True), strict=True):
        if score[row, column] > 0:
            chosen[rows[row]] = columns[column]
    return chosen
