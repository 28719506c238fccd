"""The dataset before training begins: its record, a sample of crops, their embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from facespace.backbones.registry import create  # noqa: E402
from facespace.datasets.opening import open_dataset  # noqa: E402
from facespace.errors import ImageError, RecipeError, TrainingError  # noqa: E402
from facespace.faces.crops import CropRecord  # noqa: E402
from facespace.faces.input_spec import InputSpec  # noqa: E402
from facespace.training import recipe as recipes, setup  # noqa: E402
from facespace.training.data_loading import TrainingImages, fingerprint  # noqa: E402
from facespace.training.recipe import Recipe  # noqa: E402


def recipe(*overrides: str) -> Recipe:
    return recipes.parse("", overrides)


# A sample of crops


class Grays:
    """Images of one gray each (their number modulo 256) with a white border of one pixel; some cannot be read."""

    names = ("nobody", "Anna", "Ben")

    def __init__(self, n: int, *, damaged: tuple[int, ...] = ()) -> None:
        self.labels = np.array([0, *([1, 2] * n)[: n - 1]])
        self._damaged = damaged

    def read(self, index: int) -> np.ndarray:
        if index in self._damaged:
            raise ImageError(str(index), "damaged")
        return np.pad(np.full((16, 16, 3), index % 256, np.uint8), ((1, 1), (1, 1), (0, 0)), constant_values=255)


def sampled(dataset: Any) -> tuple[list[int], list[str]]:
    """Return the grays of a sample and their people; the first image is left out, as its person has only one."""
    images = TrainingImages(dataset, min_images=2)
    crops, names = setup.sample(images, recipe("crop=random", "rotate=30", "color=1"), InputSpec(16, "box"))
    assert crops.dtype == np.uint8 and crops.shape == (len(names), 16, 16, 3)
    assert (crops == crops[:, :1, :1, :1]).all()  # neither border nor augmentation
    return crops[:, 0, 0, 0].tolist(), names


def test_a_sample_is_spread_over_the_images(monkeypatch):
    assert sampled(Grays(5)) == ([1, 2, 3, 4], ["Anna", "Ben", "Anna", "Ben"])
    monkeypatch.setattr(setup, "_N_SAMPLE", 4)
    assert sampled(Grays(32)) == ([1, 11, 21, 31], ["Anna"] * 4)
    assert sampled(Grays(32, damaged=(11,))) == ([1, 21, 31], ["Anna"] * 3)


def test_a_sample_has_at_most_256_crops():
    assert len(sampled(Grays(602))[0]) == 256


def test_a_sample_is_cut_as_the_recipe_says():
    images = TrainingImages(Grays(5), min_images=2)
    (first, *_), _ = setup.sample(images, recipe("crop_size=18"), InputSpec(16, "box"))
    assert first.shape == (16, 16, 3)
    assert first[0, 0, 0] > first[8, 8, 0] == 1  # the crop includes the border


def test_a_dataset_without_a_readable_image_gives_no_sample():
    with pytest.raises(TrainingError, match="facespace dataset check"):
        sampled(Grays(9, damaged=tuple(range(9))))


def test_embeddings_are_unit_features_of_preprocessed_crops():
    torch.manual_seed(0)
    backbone = create("tiny", dimension=8).train()
    spec = InputSpec(112, "box", channel_order="BGR", mean=100.0, std=50.0)
    crops = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3)).astype(np.uint8)
    found = setup.embeddings(backbone, crops, spec, torch.device("cpu"))
    assert not backbone.training
    pixels = torch.from_numpy((crops[..., ::-1].astype(np.float32) - 100) / 50).permute(0, 3, 1, 2)
    with torch.no_grad():
        features = backbone(pixels)
    expected = features / features.square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# The record


@pytest.fixture
def people(tmp_path: Path) -> Path:
    for name in ("Anna/0", "Anna/1", "Ben/0", "Ben/1", "Cleo/0"):
        file = tmp_path / "people" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(file)
    return tmp_path / "people"


def recorded(people: Path, spec: InputSpec) -> dict[str, Any]:
    images = TrainingImages(open_dataset(people), min_images=2)
    return setup.record_of(recipe(f"data={people}"), images, spec)


def test_the_record_of_a_dataset(people):
    record = recorded(people, InputSpec(16, "box"))
    images = TrainingImages(open_dataset(people), min_images=2)
    assert record == {
        "sources": [str(people)],
        "fingerprint": fingerprint(images, [str(people)]),
        "n_images": 4,
        "n_people": 2,
        "n_people_left_out": 1,
    }


def test_crops_made_for_another_kind_of_network_are_refused(people):
    CropRecord(112, 0, "arcface").write(people)
    assert recorded(people, InputSpec(112, "arcface"))["n_images"] == 4
    with pytest.raises(RecipeError, match=f"^{people}: .*arcface crops.*box crops.*align --template box"):
        recorded(people, InputSpec(112, "box"))
