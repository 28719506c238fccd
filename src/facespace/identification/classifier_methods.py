"""Ranks the known people by similarity to a face, by one of four methods. Rejecting strangers happens in `open_set`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from facespace.identification.open_set import Embeddings, templates
from facespace.metrics.distances import Integers

MethodName = Literal["centroid", "knn", "logistic", "svm"]
METHODS: tuple[MethodName, ...] = get_args(MethodName)

_NEIGHBOURS = 5
_BLOCK_ROWS = 1024
# Inverse regularisation strengths for unit vectors: scikit-learn's default of 1 is far too strong for logistic regression.
_C_SVM, _C_LOGISTIC = 1.0, 100.0


class Method(Protocol):
    """A fitted method that maps embeddings (M,D) to indices of known people (M,)."""

    def nearest(self, embeddings: Embeddings) -> Integers:
        """Return the most likely person of each face (M,)."""
        ...

    def arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return the arrays that `restore` needs in addition to the training embeddings; often empty."""
        ...


class NearestCentroid:
    """Chooses the person whose mean embedding is nearest ("nearest centroid")."""

    def __init__(self, people: Embeddings) -> None:
        self._people = people

    def nearest(self, embeddings: Embeddings) -> Integers:
        """Return the person with the largest cosine for each face (M,)."""
        return np.concatenate([(block @ self._people.T).argmax(axis=1) for block in _blocks(embeddings)])

    def arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return nothing: templates are made from the training embeddings."""
        return {}


class NearestNeighbors:
    """Chooses the person with the most weight among the five nearest photos; a photo has the weight 1 + cosine."""

    def __init__(self, embeddings: Embeddings, owners: Integers, n_people: int) -> None:
        self._embeddings, self._owners, self._n_people = embeddings, owners, n_people
        self._k = min(_NEIGHBOURS, len(embeddings))

    def nearest(self, embeddings: Embeddings) -> Integers:
        """Return the person with the most weight among the neighbours of each face (M,)."""
        found = [np.empty(0, np.int64)]
        for block in _blocks(embeddings):
            similarity = block @ self._embeddings.T
            near = np.argpartition(similarity, -self._k, axis=1)[:, -self._k :]
            votes = np.zeros((len(block), self._n_people), np.float32)
            # Weights are positive, so that a face far from all people still has a nearest person.
            np.add.at(
                votes, (np.arange(len(block))[:, None], self._owners[near]), 1 + np.take_along_axis(similarity, near, 1)
            )
            found.append(votes.argmax(axis=1))
        return np.concatenate(found)

    def arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return nothing: the neighbours are the training embeddings."""
        return {}


class Linear:
    """Chooses the person with the largest score x·w + b of a one-vs-rest support vector machine or logistic regression."""

    def __init__(self, weights: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]) -> None:
        self._weights, self._bias = weights, bias

    def nearest(self, embeddings: Embeddings) -> Integers:
        """Return the person with the largest score for each face (M,)."""
        scores = [(block @ self._weights.T + self._bias).argmax(axis=1) for block in _blocks(embeddings)]
        return np.concatenate(scores)

    def arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return the weights (P,D) and bias (P,)."""
        return {"weights": self._weights, "bias": self._bias}


def fit(method: MethodName, embeddings: Embeddings, owners: Integers, n_people: int) -> Method:
    """Fit `method` to embeddings (N,D); `owners` (N,) are their people, and contain every number below `n_people`."""
    if method == "centroid" or n_people == 1:  # with one person all methods give the same answer
        return NearestCentroid(templates(owners, embeddings, n_people))
    if method == "knn":
        return NearestNeighbors(embeddings, owners, n_people)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    model = LinearSVC(C=_C_SVM, random_state=0) if method == "svm" else LogisticRegression(C=_C_LOGISTIC, max_iter=1000)
    model.fit(embeddings, owners)
    weights, bias = np.asarray(model.coef_, np.float32), np.asarray(model.intercept_, np.float32)
    if n_people == 2:  # scikit-learn keeps only the second person's scores
        weights, bias = np.concatenate([-weights, weights]), np.concatenate([-bias, bias])
    return Linear(weights, bias)


def restore(
    method: MethodName,
    embeddings: Embeddings,
    owners: Integers,
    n_people: int,
    arrays: Mapping[str, npt.NDArray[np.float32]],
) -> Method:
    """Rebuild a fitted method from its `arrays` and the arguments of `fit`; raise `ValueError` for wrong shapes."""
    if method in ("centroid", "knn") or n_people == 1:
        return fit(method, embeddings, owners, n_people)
    weights, bias = arrays.get("weights"), arrays.get("bias")
    if weights is None or bias is None or weights.shape != (n_people, embeddings.shape[1]) or bias.shape != (n_people,):
        raise ValueError(f"the weights of {method} do not fit {n_people} people")
    return Linear(weights, bias)


def _blocks(embeddings: Embeddings) -> list[Embeddings]:
    """Return the rows in blocks; for no rows, one empty block, so that the callers can concatenate their results."""
    return [embeddings[start : start + _BLOCK_ROWS] for start in range(0, max(len(embeddings), 1), _BLOCK_ROWS)]
