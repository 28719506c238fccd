"""The four naming methods: one contract for all, and tests of each."""

from __future__ import annotations

import numpy as np
import pytest

from facespace.identification import classifier_methods as naming
from support.sphere import people, unit

N_PEOPLE = 7


@pytest.mark.parametrize("method", naming.METHODS)
@pytest.mark.parametrize("n_people", [1, 2, N_PEOPLE])
def test_every_method_names_new_photos(method, n_people):
    embeddings, owners = people(n_people, 8)
    train = np.arange(len(owners)) % 2 == 0
    namer = naming.fit(method, embeddings[train], owners[train], n_people)
    assert (namer.nearest(embeddings[~train]) == owners[~train]).all()
    assert namer.nearest(embeddings[:0]).shape == (0,)
    restored = naming.restore(method, embeddings[train], owners[train], n_people, namer.arrays())
    np.testing.assert_array_equal(restored.nearest(embeddings), namer.nearest(embeddings))


@pytest.mark.parametrize("method", naming.METHODS)
def test_every_method_takes_uneven_people_and_one_photo(method):
    embeddings, owners = people(N_PEOPLE, 8)
    kept = (owners > 0) | (np.arange(len(owners)) == 0)
    namer = naming.fit(method, embeddings[kept], owners[kept], N_PEOPLE)
    assert (namer.nearest(embeddings[owners > 0]) == owners[owners > 0]).all()


@pytest.mark.parametrize("method", naming.METHODS)
def test_blocks_change_nothing(method, monkeypatch):
    embeddings, owners = people(N_PEOPLE, 8, similarity=0.2)
    namer = naming.fit(method, embeddings, owners, N_PEOPLE)
    whole = namer.nearest(embeddings)
    monkeypatch.setattr("facespace.identification.classifier_methods._BLOCK_ROWS", 5)
    np.testing.assert_array_equal(namer.nearest(embeddings), whole)


def test_neighbours_vote_with_their_similarity():
    axes = np.eye(4, dtype=np.float32)
    # One very near photo of person 0 against two far ones of person 1; all three are among the five neighbours.
    photos = np.stack([axes[0], unit(axes[0] * 0.1 + axes[1]), unit(axes[0] * 0.1 + axes[2])])
    namer = naming.NearestNeighbors(photos, np.array([0, 1, 1]), 2)
    assert namer.nearest(axes[:1]).tolist() == [1]  # 2.2 against 2
    namer = naming.NearestNeighbors(photos[:2], np.array([0, 1]), 2)
    assert namer.nearest(axes[:1]).tolist() == [0]


def test_weights_that_do_not_fit_are_refused():
    embeddings, owners = people(3, 2)
    for arrays in ({}, {"weights": np.zeros((2, 64), np.float32), "bias": np.zeros(3, np.float32)}):
        with pytest.raises(ValueError, match="do not fit 3 people"):
            naming.restore("svm", embeddings, owners, 3, arrays)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method must be one of centroid, knn, logistic, svm, got 'forest'"):
        naming.fit("forest", *people(3, 2), 3)  # type: ignore[arg-type]
