"""The registry of networks: known names, refused ones, and that a new network needs only a file in the folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import facespace.backbones
from facespace.backbones import backbone, registry
from facespace.backbones.registry import create, known, register
from facespace.errors import ModelError

NAMES = {
    "inception-resnet-v1",
    "inception-resnet-v2",
    "squeezenet",
    "resnet50",
    "iresnet18",
    "iresnet34",
    "iresnet50",
    "iresnet100",
    "mobilefacenet",
    "tiny",
}


def test_the_names() -> None:
    assert set(known()) >= NAMES
    assert list(known()) == sorted(known())


@pytest.mark.parametrize(
    ("name", "close"),
    [("iresnet5", "iresnet50"), ("Inception_ResNet_v1", "inception-resnet-v1"), ("SqueezeNet", "squeezenet")],
)
def test_the_error_for_an_unknown_name_names_the_closest(name: str, close: str) -> None:
    with pytest.raises(ModelError, match=f"no network is called '{name}', the closest is {close}; there are .*tiny$"):
        create(name)


def test_the_error_for_an_unknown_name_without_a_close_one() -> None:
    with pytest.raises(ModelError) as caught:
        create("\n" + "x" * 500)
    assert "closest" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"colour": 1}, TypeError, "squeezenet takes the options dimension, keep_probability, batch_norm_scale; got colour"),
        ({"dimension": 0}, ValueError, "dimension must be 1 to 4096, got 0"),
        ({"dimension": 10**12}, ValueError, "dimension must be 1 to 4096, got 1000000000000"),
        ({"dimension": "512"}, TypeError, "dimension must be a whole number, got '512'"),
        ({"dimension": True}, TypeError, "dimension must be a whole number, got True"),
        ({"dimension": 8.0}, TypeError, "dimension must be a whole number, got 8.0"),
        ({"keep_probability": 0}, ValueError, "keep_probability must be more than 0 and at most 1, got 0"),
        ({"keep_probability": 1.5}, ValueError, "keep_probability must be more than 0 and at most 1, got 1.5"),
        ({"keep_probability": float("nan")}, ValueError, "keep_probability must be more than 0 and at most 1, got nan"),
        ({"keep_probability": None}, TypeError, "keep_probability must be a number, got None"),
        ({"batch_norm_scale": 1}, TypeError, "batch_norm_scale must be True or False, got 1"),
    ],
)  # fmt: skip
def test_wrong_options(options: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        create("squeezenet", **options)
    assert str(caught.value) == text


def test_keep_probability_is_what_dropout_keeps() -> None:
    network = create("squeezenet", dimension=4, keep_probability=0.8)
    (dropout,) = [module for module in network.modules() if isinstance(module, torch.nn.Dropout)]
    assert dropout.p == pytest.approx(0.2)


def test_new_weights_follow_torch_s_seed() -> None:
    def first_weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return next(create("tiny", dimension=4).parameters())

    assert torch.equal(first_weights(3), first_weights(3))
    assert not torch.equal(first_weights(3), first_weights(4))


@pytest.fixture
def a_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "newcomer.py").write_text(
        "from facespace.backbones.backbone import Backbone\n"
        "from facespace.backbones.registry import register\n"
        "@register('newcomer')\n"
        "class Newcomer(Backbone):\n"
        "    def __init__(self, *, dimension=512):\n"
        "        super().__init__(dimension=dimension)\n"
        "    def compute(self, images):\n"
        "        return images.mean((2, 3))\n"
    )
    monkeypatch.setattr(facespace.backbones, "__path__", [*facespace.backbones.__path__, str(tmp_path)])
    monkeypatch.setattr(registry._NETWORKS, "_filled", False)
    yield
    registry._NETWORKS._classes.pop("newcomer", None)
    sys.modules.pop("facespace.backbones.newcomer", None)


def test_a_file_in_the_folder_is_enough(a_new_file: None) -> None:
    assert "newcomer" in known()
    assert create("newcomer", dimension=3)(torch.ones(2, 3, 4, 4)).shape == (2, 3)


def test_two_of_one_name() -> None:
    known()
    with pytest.raises(ValueError, match="two networks are called tiny: Tiny and Other"):

        @register("tiny")
        class Other(backbone.Backbone):
            pass
