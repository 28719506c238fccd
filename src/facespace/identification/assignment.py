"""Each person at most once among the faces of one photo."""

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
    """The predictions, of which only the most similar keeps a name that several have; the others are unknown.

    >>> from facespace.identification.classifier import Prediction
    >>> twice = [Prediction("Ada", 0.5, 0.4, "Ada", None), Prediction("Ada", 0.6, 0.4, "Ada", None)]
    >>> [prediction.name for prediction in keep_each_name_once(twice)]
    [None, 'Ada']
    """
    best: dict[str, int] = {}
    for k, prediction in enumerate(predictions):
        if prediction.name is not None:
            held = best.get(prediction.name)
            if held is None or (prediction.similarity or 0.0) > (predictions[held].similarity or 0.0):
                best[prediction.name] = k
    kept = set(best.values())
    return [
        prediction if k in kept or prediction.name is None else _without_name(prediction)
        for k, prediction in enumerate(predictions)
    ]


def _without_name(prediction: Any) -> Any:
    return dataclasses.replace(prediction, name=None)


def one_face_each(similarity: npt.NDArray[np.floating], thresholds: npt.NDArray[np.floating]) -> Integers:
    """For each face (N,) the person it is given, or −1; `similarity` and `thresholds` are (N,P).

    Of all ways to give faces the people whose threshold they reach, each person once, this is the one with the largest
    sum of similarities (linear assignment).

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
    # Who reaches no threshold is worth nothing, and similarities may be negative where a threshold is.
    worth = np.where(reached[part], similarity[part] + 2.0, 0.0)
    if len(rows) == 1:
        chosen[rows[0]] = columns[worth[0].argmax()]
        return chosen
    from scipy.optimize import linear_sum_assignment

    for row, column in zip(*linear_sum_assignment(worth, maximize=True), strict=True):
        if worth[row, column] > 0:
            chosen[rows[row]] = columns[column]
    return chosen
