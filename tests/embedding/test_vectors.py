"""Tests vectors that record how they were made, and the results of NumPy's functions on them."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest

from facespace.embedding.vectors import Embeddings

MODEL = {"model": "m", "fingerprint": "0" * 64}


def vectors(made_by: str = "embed", model: dict | None = None) -> Embeddings:
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    return Embeddings(rows, made_by=made_by, model=MODEL if model is None else model)


KEPT = {
    "a row": lambda v: v[1],
    "a slice": lambda v: v[1:],
    "chosen rows": lambda v: v[[2, 0]],
    "a mask": lambda v: v[np.array([True, False, True])],
    "a copy": lambda v: v.copy(),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "a pickle": lambda v: pickle.loads(pickle.dumps(v)),
    "iterated": lambda v: list(v)[2],
    "stacked rows": lambda v: np.stack([v[0], v[2]]),
    "concatenated": lambda v: np.concatenate([v, v[:1]]),
    "split": lambda v: np.split(v, [1])[1],
    "at least 2-D": lambda v: np.atleast_2d(v[0]),
}
BARE = {
    "a sum": lambda v: v + v,
    "scaled": lambda v: 2 * v,
    "a product": lambda v: v @ v.T,
    "a dot product": lambda v: v.dot(v.T),
    "joined side by side": lambda v: np.concatenate([v, v], axis=1),
    "another product": lambda v: np.ones((2, 3)) @ v,
    "a mean": lambda v: v.mean(axis=0),
    "lengths": lambda v: np.linalg.norm(v, axis=1),
    "einsum": lambda v: np.einsum("nd,nd->n", v, v),
    "asarray": np.asarray,
    "a comparison": lambda v: v == v,
    "joined with a bare array": lambda v: np.concatenate([v, np.zeros((1, 4), np.float32)]),
    "joined with the other kind": lambda v: np.concatenate([v, vectors("represent")]),
    "joined with another model's": lambda v: np.concatenate([v, vectors(model={"model": "other"})]),
    "an output": lambda v: np.add(v, 1, out=v.copy()),
}


@pytest.mark.parametrize("how", KEPT)
def test_the_attributes_of_vectors_are_kept(how):
    found = KEPT[how](vectors())
    assert isinstance(found, Embeddings)
    assert (found.made_by, found.model) == ("embed", MODEL)
    np.testing.assert_array_equal(np.asarray(found), KEPT[how](np.asarray(vectors())))


@pytest.mark.parametrize("how", BARE)
def test_results_of_computations_are_plain_arrays(how):
    found = BARE[how](vectors())
    assert type(found) is np.ndarray
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(found, BARE[how](np.asarray(vectors())))


def test_embeddings_are_a_view_of_their_array():
    rows = np.zeros((2, 4), np.float32)
    assert np.shares_memory(Embeddings(rows, made_by="embed", model={}), rows)
    assert type(rows) is np.ndarray


def test_a_file_contains_a_plain_array(tmp_path: Path):
    np.savez(tmp_path / "a.npz", vectors=vectors())
    with np.load(tmp_path / "a.npz") as file:
        assert type(file["vectors"]) is np.ndarray
    assert vectors()[0].tolist() == [0, 1, 2, 3]
