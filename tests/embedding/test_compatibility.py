"""Tests which stored vectors can be compared with an embedder's: only those of the same weights and input spec."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from facespace.embedding.compatibility import model_of, other_model, represented
from facespace.embedding.vectors import Embeddings
from facespace.faces.input_spec import InputSpec
from support.calibrations import CALIBRATION, StubEmbedder

EMBEDDER = StubEmbedder(name="mine")


def test_a_model_is_its_weights_its_input_and_its_mean():
    assert model_of(EMBEDDER) == {
        "model": "mine",
        "fingerprint": "f" * 64,
        "dimension": 8,
        "input_spec": {
            "size": 16, "template": "box", "crop_margin": 0, "channel_order": "RGB", "standardization": "fixed",
            "mean": 127.5, "std": 128.0,
        },
        "centered": True,
    }  # fmt: skip
    assert model_of(StubEmbedder(calibration=None))["centered"] is False


def test_the_same_model_can_be_compared_after_a_round_trip_through_json():
    assert other_model(json.loads(json.dumps(model_of(EMBEDDER))), EMBEDDER) is None


@pytest.mark.parametrize(
    "change",
    [
        {"name": "renamed"},
        {"runtime": "torch"},
        {"precision": "int8"},
        {"calibration": dataclasses.replace(CALIBRATION, similarity=(0.0, 0.1, 0.2, 0.3, 0.4))},
    ],
)
def test_differences_that_do_not_change_vectors_are_ignored(change):
    assert other_model(model_of(EMBEDDER), dataclasses.replace(EMBEDDER, **change)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "0" * 64},
        {"dimension": 16},
        {"calibration": None},
        {"spec": InputSpec(size=32, template="box")},
        {"spec": InputSpec(size=16, template="arcface")},
        {"spec": InputSpec(size=16, template="box", crop_margin=4)},
        {"spec": InputSpec(size=16, template="box", channel_order="BGR")},
        {"spec": InputSpec(size=16, template="box", standardization="per-image")},
        {"spec": InputSpec(size=16, template="box", mean=127.0)},
        {"spec": InputSpec(size=16, template="box", std=127.5)},
    ],
)
def test_other_weights_or_another_input_cannot_be_compared(change):
    held = model_of(EMBEDDER)
    same_name = other_model(held, dataclasses.replace(EMBEDDER, **change))
    assert same_name is not None
    assert "other weights or another input spec" in same_name
    other_name = other_model(held, dataclasses.replace(EMBEDDER, name="theirs", **change))
    assert other_name is not None
    assert "'mine'" in other_name
    assert "'theirs'" in other_name
    assert "--model mine" in other_name, "the remedy is the model that made the vectors"
    assert "other weights" not in other_name


@pytest.mark.parametrize("held", [None, "mine", 7, [], {}, {"model": "mine"}, {**model_of(EMBEDDER), "extra": 1}])
def test_a_record_that_is_not_a_model_cannot_be_compared(held):
    reason = other_model(held, EMBEDDER)
    assert reason is not None
    assert "cannot be compared" in reason


@pytest.mark.parametrize("field", ["fingerprint", "dimension", "input_spec", "centered"])
def test_a_record_that_lacks_a_field_cannot_be_compared(field):
    held = model_of(EMBEDDER)
    del held[field]
    assert other_model(held, EMBEDDER) is not None


@pytest.mark.parametrize("name", ["a\nb\x1b[31m", ["a\nb"], None, 3])
def test_a_hostile_name_stays_on_one_line(name):
    reason = other_model({**model_of(EMBEDDER), "model": name, "dimension": 9}, EMBEDDER)
    assert reason is not None
    assert len(reason.splitlines()) == 1
    assert "\x1b" not in reason


def vectors(made_by: str, embedder: StubEmbedder = EMBEDDER) -> Embeddings:
    return Embeddings(np.eye(2, 8, dtype=np.float32), made_by=made_by, model=model_of(embedder))


def test_vectors_of_represent_are_taken_as_a_plain_array():
    for given in (vectors("represent"), list(vectors("represent")), np.asarray(vectors("represent"))):
        taken = represented(given, model_of(EMBEDDER))
        assert type(taken) is np.ndarray
        np.testing.assert_array_equal(taken, np.eye(2, 8))
    assert represented(vectors("represent")[0]).shape == (8,)
    assert represented([]).shape == (0, 0)
    assert represented(vectors("represent"), model_of(StubEmbedder(name="renamed"))).shape == (2, 8)


@pytest.mark.parametrize("form", [lambda v: v, lambda v: v[0], list, lambda v: [np.zeros(8, np.float32), v[1]]])
def test_vectors_of_embed_are_refused(form):
    with pytest.raises(ValueError, match=r"^these vectors come from Embedder\.embed; only those of"):
        represented(form(vectors("embed")))


def test_vectors_of_another_model_are_refused():
    other = StubEmbedder(name="theirs", fingerprint="0" * 64)
    with pytest.raises(ValueError, match=r"^these vectors were made by the model 'theirs' and cannot be compared"):
        represented(vectors("represent", other), model_of(EMBEDDER))
    assert represented(vectors("represent", other)).shape == (2, 8), "no model is expected"
