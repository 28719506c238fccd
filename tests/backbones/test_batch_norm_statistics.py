"""Re-estimated statistics: outputs stay the same, and the statistics are those of the crops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facespace.backbones.backbone import Backbone
from facespace.backbones.batch_norm_statistics import reestimate
from facespace.backbones.registry import create
from facespace.faces.input_spec import INPUT_SPECS

SPEC = INPUT_SPECS["facenet-2018"]
CROPS = np.random.default_rng(0).integers(0, 256, (21, 160, 160, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def network() -> Backbone:
    """Set batch norms as folding leaves them: mean 0, variance 1 − ε, some beta."""
    torch.manual_seed(0)
    network = create("squeezenet", dimension=16).eval()
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.fill_(0.999)
        elif name.endswith("batchnorm.bias"):
            tensor.normal_(0, 0.1)
    return network


def norms(network: Backbone) -> list[str]:
    return [name.removesuffix(".running_var") for name in network.state_dict() if name.endswith(".running_var")]


def images() -> torch.Tensor:
    return torch.from_numpy(SPEC.preprocess(CROPS).transpose(0, 3, 1, 2).copy())


def test_outputs_stay_and_statistics_are_those_of_the_crops(network):
    names = norms(network)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    found = reestimate(network, CROPS, SPEC, names)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    with torch.inference_mode():
        np.testing.assert_allclose(found(images()).numpy(), network(images()).numpy(), rtol=1e-4, atol=1e-5)
    seen = {}
    modules = dict(found.named_modules())
    for name in names:
        modules[name].register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0].double()}))
    with torch.inference_mode():
        found(images())
    for name in names:
        u = seen[name]
        axes = (0, 2, 3) if u.ndim == 4 else (0,)
        np.testing.assert_allclose(modules[name].running_mean, u.mean(axes), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(modules[name].running_var, u.var(axes, correction=0), rtol=1e-3, atol=1e-5)


def test_training_begins_where_inference_is(network):
    found = reestimate(network, CROPS, SPEC, norms(network))
    with torch.no_grad():
        in_training = found.train()(images())
        in_inference = found.eval()(images())
        lost = network.train()(images())
        network.eval()

    def apart(features: torch.Tensor) -> float:
        return float((features - in_inference).norm() / in_inference.norm())

    assert apart(in_training) < 1e-3
    assert apart(lost) > 0.1


def test_only_the_named_ones_change(network):
    one = norms(network)[0]
    found = reestimate(network, CROPS[:2], SPEC, [one]).state_dict()
    changed = {
        name.rpartition(".")[0]
        for name, tensor in network.state_dict().items()
        if name.endswith(("running_mean", "running_var")) and not torch.equal(tensor, found[name])
    }
    assert changed == {one}


def test_no_crops(network):
    with pytest.raises(ValueError, match="crops must have at least one image"):
        reestimate(network, CROPS[:0], SPEC, norms(network))
