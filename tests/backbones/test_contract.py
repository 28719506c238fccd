"""The contract of all registered networks; a new one is tested as soon as it is registered."""

from __future__ import annotations

import json

import pytest
import torch

from facespace.backbones.backbone import Backbone
from facespace.backbones.registry import create, known, option_names, skeleton
from facespace.backbones.weight_loading import from_state_dict

DIMENSION = 8  # small, because the last layer of some networks has most of the weights
UNUSUAL = {"dimension": DIMENSION, "keep_probability": 0.5, "batch_norm_scale": True}


def options_of(name: str) -> dict[str, object]:
    return {option: value for option, value in UNUSUAL.items() if option in option_names(name)}


@pytest.fixture(params=known(), scope="module")
def network(request: pytest.FixtureRequest) -> Backbone:
    torch.manual_seed(1)
    return create(request.param, **options_of(request.param))


def images_for(network: Backbone, n: int = 2, *, more: int = 0) -> torch.Tensor:
    side = network.minimum_size
    return torch.randn(n, 3, side, side + more, generator=torch.Generator().manual_seed(2))


def test_the_options_build_it_again(network: Backbone) -> None:
    assert network.name in known()
    assert network.dimension == DIMENSION
    assert network.options == options_of(network.name)
    told = json.loads(json.dumps(network.options))
    again, usual = skeleton(network.name, **told), skeleton(network.name)
    assert again.options == network.options
    assert shapes_of(again) == shapes_of(network)
    assert set(usual.options) == set(network.options) == set(option_names(network.name))
    assert usual.dimension == 512


def shapes_of(network: Backbone) -> list[tuple[str, torch.Size]]:
    return [(name, value.shape) for name, value in network.state_dict().items()]


def test_training_and_inference(network: Backbone) -> None:
    images = images_for(network)
    features = network.train()(images)
    assert features.shape == (2, DIMENSION)
    assert features.dtype == torch.float32
    assert features.isfinite().all()
    (features * torch.randn(features.shape)).sum().backward()
    trained = [(name, value) for name, value in network.named_parameters() if value.requires_grad]
    for name, value in trained:
        assert value.grad is not None, f"{name} is no part of the result"
        assert value.grad.isfinite().all(), name
    moved = sum(bool(value.grad.any()) for _, value in trained)  # a bias before a batch norm has no gradient
    assert moved >= 0.9 * len(trained)
    network.zero_grad(set_to_none=True)

    network.eval()
    before = {name: value.clone() for name, value in network.named_buffers()}
    with torch.no_grad():
        alone, pair = network(images[1:]), network(images)
    assert alone.isfinite().all()
    assert torch.allclose(
        alone, pair[1:], rtol=1e-3, atol=1e-4 * float(pair.abs().max())
    )  # in evaluation mode images do not affect each other
    assert all(torch.equal(before[name], value) for name, value in network.named_buffers())


def test_the_state_dict_identifies_the_network(network: Backbone) -> None:
    again = from_state_dict(network.state_dict())
    assert (again.name, again.training) == (network.name, False)
    told = {**network.options, "keep_probability": 1.0}  # not visible in the weights
    assert again.options == {option: told[option] for option in again.options}
    expected = everything_in(network)
    for name, value in everything_in(again).items():
        assert torch.equal(value, expected[name]) or name.endswith("num_batches_tracked"), name
        assert value.requires_grad == expected.pop(name).requires_grad
    assert not expected


def everything_in(network: Backbone) -> dict[str, torch.Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def test_sizes(network: Backbone) -> None:
    side = network.minimum_size
    network.eval()
    with torch.no_grad():
        if network.input_size is None:
            assert network(images_for(network, 1, more=22)).shape == (1, DIMENSION)
            expected = f"{network.name} takes float images \\(N,3,H,W\\), H and W at least {side}; got "
        else:
            assert side == network.input_size
            expected = f"{network.name} takes float images \\(N,3,{side},{side}\\); got "
            with pytest.raises(ValueError, match=expected):
                network(torch.zeros(1, 3, side, side + 1))
        for shape in ((1, 3, side, side - 1), (1, 3, side - 1, side), (1, 1, side, side), (3, side, side)):
            with pytest.raises(ValueError, match=expected):
                network(torch.zeros(shape))
        with pytest.raises(ValueError, match=expected + r".* uint8$"):
            network(torch.zeros(1, 3, side, side, dtype=torch.uint8))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", known())
def test_it_computes_on_its_device(name: str, training: bool) -> None:
    """`meta` stands for any device except the CPU: a tensor created on the CPU would raise an error."""
    network = skeleton(name).train(training)
    side = network.input_size or 160
    features = network(torch.empty(2, 3, side, side, device="meta"))
    assert (features.device.type, features.shape) == ("meta", (2, network.dimension))
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}
