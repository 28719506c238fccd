"""IResNet and MobileFaceNet: names and shapes of arcface_torch, and features against a step-by-step computation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional

from facespace.backbones.registry import create, skeleton
from facespace.backbones.weight_loading import from_state_dict

State = dict[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]

N_BLOCKS = {
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
}
# The published parameter counts of arcface_torch's networks with 512 features.
PUBLISHED = {
    "iresnet18": 24_025_600,
    "iresnet34": 34_139_328,
    "iresnet50": 43_590_848,
    "iresnet100": 65_156_160,
    "mobilefacenet": 2_059_520,
}


def batch_norm_shapes(name: str, n: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{leaf}", (n,)
    yield f"{name}.num_batches_tracked", ()


def iresnet_shapes(n_blocks: tuple[int, ...], dimension: int) -> Shapes:
    shapes: Shapes = {"conv1.weight": (64, 3, 3, 3), "prelu.weight": (64,)}
    shapes |= batch_norm_shapes("bn1", 64)
    n_in = 64
    for stage, count in enumerate(n_blocks):
        n_out = 64 << stage
        for k in range(count):
            block = f"layer{stage + 1}.{k}"
            shapes |= {
                f"{block}.conv1.weight": (n_out, n_in, 3, 3),
                f"{block}.conv2.weight": (n_out, n_out, 3, 3),
                f"{block}.prelu.weight": (n_out,),
                **dict(batch_norm_shapes(f"{block}.bn1", n_in)),
                **dict(batch_norm_shapes(f"{block}.bn2", n_out)),
                **dict(batch_norm_shapes(f"{block}.bn3", n_out)),
            }
            if k == 0:
                shapes |= {
                    f"{block}.downsample.0.weight": (n_out, n_in, 1, 1),
                    **dict(batch_norm_shapes(f"{block}.downsample.1", n_out)),
                }
            n_in = n_out
    shapes |= batch_norm_shapes("bn2", 512)
    shapes |= {"fc.weight": (dimension, 512 * 49), "fc.bias": (dimension,)}
    shapes |= batch_norm_shapes("features", dimension)
    return shapes


def random_state(shapes: Shapes) -> State:
    """Draw weights that keep the size of the activations."""
    torch.manual_seed(5)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            state[name] = 0.5 + torch.rand(shape)
        elif len(shape) > 1:
            state[name] = torch.randn(shape) * (1.5 / torch.Size(shape[1:]).numel()) ** 0.5
        elif "prelu" in name or name.endswith("layers.2.weight"):
            state[name] = 0.1 + 0.3 * torch.rand(shape)
        elif name.endswith("weight"):
            state[name] = 0.7 + 0.6 * torch.rand(shape)
        else:
            state[name] = 0.1 * torch.randn(shape)
    return state


def batch_norm(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    mean, variance, weight, bias = (
        state[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")
    )
    shape = (1, -1, 1, 1)[: x.ndim] if x.ndim == 4 else (1, -1)
    return (x - mean.view(shape)) / (variance.view(shape) + 1e-5).sqrt() * weight.view(shape) + bias.view(shape)


def iresnet_features(state: State, n_blocks: tuple[int, ...], images: torch.Tensor) -> torch.Tensor:
    x = functional.conv2d(images, state["conv1.weight"], padding=1)
    x = functional.prelu(batch_norm(state, "bn1", x), state["prelu.weight"])
    for stage, count in enumerate(n_blocks):
        for k in range(count):
            block, stride = f"layer{stage + 1}.{k}", 1 if k else 2
            y = functional.conv2d(batch_norm(state, f"{block}.bn1", x), state[f"{block}.conv1.weight"], padding=1)
            y = functional.prelu(batch_norm(state, f"{block}.bn2", y), state[f"{block}.prelu.weight"])
            y = functional.conv2d(y, state[f"{block}.conv2.weight"], stride=stride, padding=1)
            y = batch_norm(state, f"{block}.bn3", y)
            if k == 0:
                x = functional.conv2d(x, state[f"{block}.downsample.0.weight"], stride=2)
                x = batch_norm(state, f"{block}.downsample.1", x)
            x = x + y
    x = batch_norm(state, "bn2", x).reshape(len(x), -1)
    return batch_norm(state, "features", functional.linear(x, state["fc.weight"], state["fc.bias"]))


# (name, channels in, out, kernel, stride, padding, groups, activation, start of a residual block or the end of one)
def mobilefacenet_layers() -> Iterator[tuple[str, int, int, int, int, int, int, bool, str]]:
    yield "layers.0", 3, 128, 3, 2, 1, 1, True, ""
    yield "layers.1", 128, 128, 3, 1, 1, 64, True, ""
    for k, (n_in, n_out, groups, stride, count) in enumerate(
        [(128, 128, 128, 2, 0), (128, 128, 128, 1, 4), (128, 256, 256, 2, 0), (256, 256, 256, 1, 6),
         (256, 256, 512, 2, 0), (256, 256, 256, 1, 2)], 2,
    ):  # fmt: skip
        for block in range(max(count, 1)):
            name = f"layers.{k}.layers.{block}.layers" if count else f"layers.{k}.layers"
            yield f"{name}.0", n_in, groups, 1, 1, 0, 1, True, "start" if count else ""
            yield f"{name}.1", groups, groups, 3, stride, 1, groups, True, ""
            yield f"{name}.2", groups, n_out, 1, 1, 0, 1, False, "end" if count else ""
    yield "conv_sep", 256, 512, 1, 1, 0, 1, True, ""
    yield "features.layers.0", 512, 512, 7, 1, 0, 512, False, ""


def mobilefacenet_shapes(dimension: int) -> Shapes:
    shapes: Shapes = {}
    for name, n_in, n_out, kernel, _, _, groups, active, _ in mobilefacenet_layers():
        shapes[f"{name}.layers.0.weight"] = (n_out, n_in // groups, kernel, kernel)
        shapes |= batch_norm_shapes(f"{name}.layers.1", n_out)
        if active:
            shapes[f"{name}.layers.2.weight"] = (n_out,)
    shapes["features.layers.2.weight"] = (dimension, 512)
    return shapes | dict(batch_norm_shapes("features.layers.3", dimension))


def mobilefacenet_features(state: State, images: torch.Tensor) -> torch.Tensor:
    x = kept = images
    for name, _, _, _, stride, padding, groups, active, where in mobilefacenet_layers():
        if where == "start":
            kept = x
        x = functional.conv2d(x, state[f"{name}.layers.0.weight"], stride=stride, padding=padding, groups=groups)
        x = batch_norm(state, f"{name}.layers.1", x)
        if active:
            x = functional.prelu(x, state[f"{name}.layers.2.weight"])
        if where == "end":
            x = x + kept
    x = functional.linear(x.reshape(len(x), -1), state["features.layers.2.weight"])
    return batch_norm(state, "features.layers.3", x)


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_shapes_and_counts(name: str) -> None:
    network = skeleton(name)
    expected = mobilefacenet_shapes(512) if name == "mobilefacenet" else iresnet_shapes(N_BLOCKS[name], 512)
    assert {entry: tuple(value.shape) for entry, value in network.state_dict().items()} == expected
    assert sum(value.numel() for value in network.parameters()) == PUBLISHED[name]


@pytest.mark.parametrize("name", ["iresnet18", "mobilefacenet"])
def test_features(name: str) -> None:
    shapes = mobilefacenet_shapes(16) if name == "mobilefacenet" else iresnet_shapes(N_BLOCKS[name], 16)
    state = random_state(shapes)
    network = from_state_dict(state)
    assert (network.name, network.dimension) == (name, 16)
    images = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        features = network(images)
        expected = (
            mobilefacenet_features(state, images)
            if name == "mobilefacenet"
            else iresnet_features(state, N_BLOCKS[name], images)
        )
    assert float((features - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    assert float((expected[0] - expected[1]).abs().max()) > 1e-2 * float(expected.abs().max())


def test_initial_weights_are_those_of_arcface_torch() -> None:
    torch.manual_seed(0)
    iresnet = create("iresnet18", dimension=4)
    assert float(iresnet.get_parameter("layer3.1.conv1.weight").detach().std()) == pytest.approx(0.1, rel=0.01)
    mobile = create("mobilefacenet", dimension=4)
    weight = mobile.get_parameter("layers.6.layers.0.layers.0.weight")  # 256 to 512, 1×1; Kaiming's, by fan out
    assert float(weight.detach().std()) == pytest.approx((2 / 512) ** 0.5, rel=0.01)


def test_the_scale_of_the_features_is_fixed_at_one() -> None:
    network = create("iresnet18", dimension=4)
    assert [name for name, value in network.named_parameters() if not value.requires_grad] == ["features.weight"]
    assert network.get_parameter("features.weight").tolist() == [1.0] * 4
