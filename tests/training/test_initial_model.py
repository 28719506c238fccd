"""The initial model: new networks and existing models, frozen parts, and groups of parameters."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from facespace.backbones.backbone import Backbone
from facespace.backbones.registry import create, known, skeleton
from facespace.errors import ModelError, RecipeError
from facespace.faces.input_spec import INPUT_SPECS, InputSpec
from facespace.formats.torch_files import as_safetensors
from facespace.models.folder import WEIGHTS, ModelRecord, write_model
from facespace.training.initial_model import freeze, parameter_groups, start
from facespace.training.losses.loss import create as create_loss
from facespace.training.recipe import Recipe, parse

SPEC = InputSpec(112, "arcface", channel_order="BGR")


def no_crops(spec: InputSpec) -> np.ndarray:
    raise AssertionError("no test here needs crops")


def begun(*overrides: str, text: str = "") -> Backbone:
    torch.manual_seed(0)
    return start(parse(text, overrides), no_crops).backbone


def folder_of(path: Path, backbone: Backbone, spec: InputSpec = SPEC, **about: dict) -> Path:
    data = as_safetensors(backbone)
    record = ModelRecord(
        name=path.name,
        fingerprint=hashlib.sha256(data).hexdigest(),
        dimension=backbone.dimension,
        input_spec=spec,
        backbone=backbone.name,
        options=backbone.options,
        **about,
    )
    write_model(path, record, {WEIGHTS: data})
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    torch.manual_seed(7)
    return folder_of(tmp_path / "model", create("tiny", dimension=8))


def equal(a: Backbone, b: Backbone) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in a.state_dict().items())


# --- new --------------------------------------------------------------------------------------------------------------


def test_a_new_network():
    recipe = parse('backbone = "tiny"\ndimension = 16\ninput_spec = "arcface-112"')
    torch.manual_seed(3)
    begin = start(recipe, no_crops)
    assert (begin.backbone.name, begin.backbone.options) == ("tiny", {"dimension": 16})
    assert begin.spec == INPUT_SPECS["arcface-112"] and begin.remarks == []
    torch.manual_seed(3)
    assert equal(begin.backbone, create("tiny", dimension=16))
    assert not equal(start(recipe, no_crops).backbone, begin.backbone)


def test_a_new_network_with_dropout():
    assert begun("backbone=squeezenet", "keep_probability=0.4").options["keep_probability"] == 0.4
    assert begun("backbone=squeezenet").options["keep_probability"] == 1.0


def test_an_input_spec_of_its_own():
    recipe = parse('backbone = "tiny"\ninput_spec = { size = 112, template = "box", crop_margin = 32, std = 127.5 }')
    assert start(recipe, no_crops).spec == InputSpec(112, "box", 32, std=127.5)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["backbone=tinyy"], "backbone: no network is called 'tinyy', the closest is tiny"),
        (["backbone=tiny", "keep_probability=0.5"], "backbone: tiny takes the options dimension; got keep_probability"),
        (["input_spec=facenet"], "input_spec: no preset 'facenet'; there are facenet-2018, "),
        (['input_spec={size=112,template="arc"}'], "input spec: template cannot be 'arc'"),
        (['input_spec={size=112,template="box",margin=3}'], "input spec: unknown field 'margin'"),
        (["input_spec={size=112}"], "input spec: the field 'template' is missing"),
        (["backbone=tiny"], "input_spec: tiny takes crops of 112 px; got 160 px"),
        (
            ["backbone=squeezenet", 'input_spec={size=16,template="box"}'],
            "input_spec: squeezenet takes crops of ",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_does_not_fit_together(overrides, words):
    with pytest.raises(RecipeError) as caught:
        begun(*overrides)
    assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


# --- from a model -----------------------------------------------------------------------------------------------------


def test_a_model_folder(tiny):
    recipe = parse("backbone = 'squeezenet'\ndimension = 99", [f"init={tiny}"])
    begin = start(recipe, no_crops)
    torch.manual_seed(7)
    assert equal(begin.backbone, create("tiny", dimension=8))
    assert begin.spec == SPEC
    assert begin.remarks == ["starts from model: tiny, embeddings of 8 numbers, its own preprocessing"]
    assert all(parameter.requires_grad for parameter in begin.backbone.parameters())


def test_a_model_whose_embeddings_are_all_alike(tmp_path):
    torch.manual_seed(7)
    backbone = create("tiny", dimension=8)
    with torch.no_grad():
        backbone.norm.bias.fill_(100.0)
    folder = folder_of(tmp_path / "model", backbone)
    begin = start(parse("backbone = 'squeezenet'", [f"init={folder}"]), no_crops)
    assert begin.remarks[-1].startswith("model: its embeddings are all alike: of pictures that have nothing in common")
    assert equal(begin.backbone, backbone), "it is accepted nevertheless"


def test_a_model_in_the_users_folder(tiny, monkeypatch):
    monkeypatch.setenv("HOME", str(tiny.parent))
    assert begun("init=~/model").dimension == 8


@pytest.mark.parametrize("keep", [1.0, 0.4])
def test_dropout_is_the_recipes(tmp_path, keep):
    before = create("squeezenet", dimension=8, keep_probability=0.8)
    folder = folder_of(tmp_path / "model", before, INPUT_SPECS["facenet-2018"])
    after = begun(f"init={folder}", f"keep_probability={keep}")
    assert after.options == {**before.options, "keep_probability": keep}
    assert after.dropout.p == pytest.approx(1 - keep)
    assert equal(after, before)


def test_dropout_of_a_network_without(tiny):
    with pytest.raises(RecipeError, match=r"keep_probability: .*model is a tiny, which has no dropout; leave it at 1"):
        begun(f"init={tiny}", "keep_probability=0.5")


def test_a_model_whose_batch_norms_are_lost(tmp_path):
    training = {"batch_norms": "folded into the weights"}
    folder = folder_of(tmp_path / "model", create("tiny", dimension=8), training=training)
    with pytest.raises(ModelError, match=r"model: its batch norms were folded .* again with --crops DIR"):
        begun(f"init={folder}")


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ModelError, match="neither a model's name"):
        begun(f"init={tmp_path}")


@pytest.mark.shared
def test_the_default_model_is_trained_further(shared):
    """Its folded batch norms get statistics of real crops and a gamma, and its outputs stay the same."""
    spec = INPUT_SPECS["facenet-2018"]
    expected: list[InputSpec] = []

    def crops(spec: InputSpec) -> np.ndarray:
        expected.append(spec)
        return seen

    files = sorted((shared / "data/train_182").glob("*/*.*"))[::400][:8]
    seen = np.stack([np.asarray(Image.open(file))[11:171, 11:171] for file in files])
    begin = start(parse("init = 'casia-webface'\nkeep_probability = 0.8"), crops)
    assert expected == [spec] and begin.spec == spec
    assert begin.remarks == [
        "restored the statistics of 111 folded batch norms from 8 crops",
        "starts from casia-webface: inception-resnet-v1, embeddings of 512 numbers, its own preprocessing",
    ]
    backbone = begin.backbone
    assert backbone.options == {"dimension": 512, "keep_probability": 0.8, "batch_norm_scale": True}
    from facespace.embedding.embedder import Embedder

    published = Embedder.load("casia-webface", precision="float32").embed(seen)
    images = torch.from_numpy(spec.preprocess(seen).transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        features = torch.nn.functional.normalize(backbone.eval()(images))
    np.testing.assert_allclose(features.numpy(), published, atol=1e-5)
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    folded = 1 - 1e-3  # the variance of a batch norm that was folded: 1, with its epsilon
    assert sum(bool((norm.running_var - folded).abs().max() > 1e-2) for norm in norms) >= 111


# --- frozen -----------------------------------------------------------------------------------------------------------


def frozen(backbone: Backbone) -> set[str]:
    return {name for name, parameter in backbone.named_parameters() if not parameter.requires_grad}


@pytest.mark.parametrize("name", known())
def test_nothing_is_frozen_by_default(name):
    """Otherwise its statistics would never change."""
    assert freeze(skeleton(name, dimension=8), []) == []


@pytest.mark.parametrize(
    ("patterns", "which"),
    [
        (["maps"], r"maps\..*"),
        (["maps.0"], r"maps\.0\.weight"),
        (["maps.1"], r"maps\.1\.(weight|bias)"),
        (["maps.1.bias"], r"maps\.1\.bias"),
        (["maps.?"], r"maps\.[0-9]\..*"),
        (["maps.*.bias", "full"], r"maps\..*bias|full\.weight"),
        (["maps", "maps"], r"maps\..*"),
    ],
)
def test_patterns(patterns, which):
    backbone = create("tiny", dimension=8)
    freeze(backbone, patterns)
    expected = {name for name, _ in backbone.named_parameters() if re.fullmatch(which, name)}
    assert frozen(backbone) == expected != set()


def test_modules_that_are_frozen_whole_are_returned():
    backbone = create("tiny", dimension=8)
    modules = freeze(backbone, ["maps.[0-4]", "maps.7.bias"])
    names = {name for name, module in backbone.named_modules() if any(module is one for one in modules)}
    assert names == {f"maps.{k}" for k in range(5)}
    modules = freeze(backbone, ["maps"])
    assert backbone.maps in modules and backbone.norm not in modules and backbone not in modules
    # In evaluation mode their statistics stay the same.
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    backbone.train()
    for module in modules:
        module.eval()
    backbone(torch.randn(4, 3, 112, 112))
    changed = {
        name.split(".")[0] for name, tensor in backbone.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert changed == {"norm"}


def test_patterns_without_a_match():
    backbone = create("tiny", dimension=8)
    for pattern in ("Maps", "map", "maps.99", "weight", "0.weight"):
        with pytest.raises(
            RecipeError, match=r"freeze: the network has no module or parameter .*; its stages are maps, full, norm"
        ):
            freeze(backbone, ["norm", pattern])


@pytest.mark.parametrize("patterns", [["*"], ["maps", "full", "norm"]])
def test_something_is_left_to_train(patterns):
    with pytest.raises(RecipeError, match=r"freeze: (\*|maps, full, norm) would freeze the whole network"):
        freeze(create("tiny", dimension=8), patterns)


# --- groups -----------------------------------------------------------------------------------------------------------


def groups_of(recipe: Recipe, *, freezing: list[str]) -> tuple[list[dict], Backbone, dict]:
    backbone = create("tiny", dimension=8)
    freeze(backbone, freezing)
    terms = {
        "softmax": create_loss("softmax", dimension=8, n_classes=5),
        "arcface": create_loss("arcface", dimension=8, n_classes=5),
        "triplet": create_loss("triplet", dimension=8, n_classes=5),
    }
    return parameter_groups(recipe, backbone, terms), backbone, terms


@pytest.mark.parametrize("freezing", [[], ["maps.0", "norm"]], ids=str)
def test_every_parameter_is_in_one_group(freezing):
    recipe = parse("weight_decay = 0.01\nbackbone_learning_rate = 0.1")
    groups, backbone, terms = groups_of(recipe, freezing=freezing)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    trainable = {
        id(parameter)
        for module in (backbone, *terms.values())
        for parameter in module.parameters()
        if parameter.requires_grad
    }
    assert len(grouped) == len(set(grouped)) and set(grouped) == trainable
    of_backbone = {id(parameter) for parameter in backbone.parameters()}
    for group in groups:
        assert set(group) == {"params", "weight_decay", "factor"} and group["params"]
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.01 if parameter.ndim > 1 else 0.0)
            assert group["factor"] == (0.1 if id(parameter) in of_backbone else 1.0)
    assert {group["weight_decay"] for group in groups} == {0.0, 0.01}


def test_groups_are_those_an_optimiser_takes():
    from facespace.training import optimizers

    groups, *_ = groups_of(parse(""), freezing=[])
    optimizer = optimizers.create("sgd", groups)
    assert [group["factor"] for group in optimizer.param_groups] == [group["factor"] for group in groups]
    assert all(group["weight_decay"] == 0 for group in optimizer.param_groups)
