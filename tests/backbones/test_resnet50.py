"""Tiny-Face-Recognition's ResNet-50, from its TensorFlow variables, computed step by step."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from facespace.backbones.registry import skeleton
from facespace.backbones.weight_loading import from_tensorflow
from support.tf_variables import tensorflow_variables

Variables = dict[str, np.ndarray]
STAGES = {2: (64, ["1a", "1b", "1c"]), 3: (128, ["2a", "2b", "2c", "2d"]), 4: (256, ["3a", "3b", "3c", "3d", "3e", "3f"]), 5: (512, ["4a", "4b", "4c"])}  # fmt: skip


def random_variables(dimension: int) -> Variables:
    random = np.random.default_rng(3)
    variables: Variables = {}

    def layer(name: str, norm: str, *shape: int) -> None:
        variables[f"{name}/kernel"] = random.standard_normal(shape, np.float32) * np.float32(
            np.prod(shape[:-1]) ** -0.5
        )
        for leaf, least, most in (
            ("gamma", 0.5, 1),
            ("beta", -0.1, 0.1),
            ("moving_mean", -0.1, 0.1),
            ("moving_variance", 0.5, 1),
        ):
            variables[f"{norm}/{leaf}"] = random.uniform(least, most, shape[-1]).astype(np.float32)

    layer("conv1_1/3x3_s1", "bn1_1/3x3_s1", 7, 7, 3, 64)
    n_in = 64
    for stage, (narrow, blocks) in STAGES.items():
        for block in blocks:
            at = f"{stage}_{block}"
            layer(f"conv{at}_1x1_reduce", f"bn{at}_1x1_reduce", 1, 1, n_in, narrow)
            layer(f"conv{at}_3x3", f"bn{at}_3x3", 3, 3, narrow, narrow)
            layer(f"conv{at}_1x1_increase", f"bn{at}_1x1_increase", 1, 1, narrow, 4 * narrow)
            if block.endswith("a"):
                layer(f"conv{at}_1x1_shortcut", f"bn{at}_1x1_shortcut", 1, 1, n_in, 4 * narrow)
            n_in = 4 * narrow
    layer("fc1", "fbn", 7 * 7 * 2048, dimension)
    variables["fc1/bias"] = random.uniform(-0.1, 0.1, dimension).astype(np.float32)
    return variables


def features_of(variables: Variables, images: torch.Tensor) -> torch.Tensor:
    def at(name: str) -> torch.Tensor:
        return torch.from_numpy(variables[name])

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:  # channels last
        scale = at(f"{name}/gamma") / (at(f"{name}/moving_variance") + 1e-3).sqrt()
        return (x - at(f"{name}/moving_mean")) * scale + at(f"{name}/beta")

    def layer(x: torch.Tensor, name: str, stride: int = 1, padding: int = 0) -> torch.Tensor:
        kernel = at(f"conv{name}/kernel").permute(3, 2, 0, 1)
        maps = functional.conv2d(x.permute(0, 3, 1, 2), kernel, stride=stride, padding=padding)
        return norm(maps.permute(0, 2, 3, 1), f"bn{name}")

    x = layer(images.permute(0, 2, 3, 1), "1_1/3x3_s1", padding=3).relu()
    for stage, (_, blocks) in STAGES.items():
        for block in blocks:
            first = block.endswith("a")
            name, stride = f"{stage}_{block}", 2 if first else 1
            y = layer(x, f"{name}_1x1_reduce", stride).relu()
            y = layer(layer(y, f"{name}_3x3", padding=1).relu(), f"{name}_1x1_increase")
            x = ((layer(x, f"{name}_1x1_shortcut", stride) if first else x) + y).relu()
    return norm(x.reshape(len(x), -1) @ at("fc1/kernel") + at("fc1/bias"), "fbn")


def test_parameters_are_those_of_the_original() -> None:
    assert sum(value.numel() for value in skeleton("resnet50").parameters()) == 74_889_792


def test_features() -> None:
    variables = random_variables(8)
    network = from_tensorflow(
        {**variables, "global_step": np.zeros((), np.int64), "conv2_1a_3x3/kernel/Momentum": np.zeros(3)}
    )
    assert (network.name, network.dimension, network.training) == ("resnet50", 8, False)
    assert tensorflow_variables(network) == {name: value.shape for name, value in variables.items()}
    images = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features, expected = network(images), features_of(variables, images)
    assert float((features - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    assert float((expected[0] - expected[1]).abs().max()) > 1e-2 * float(expected.abs().max())
