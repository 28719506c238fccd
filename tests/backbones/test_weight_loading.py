"""Weights of other programs: recognising the network, unwrapping nested dicts, and errors."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from torch.nn import functional

from facespace.backbones.backbone import Backbone
from facespace.backbones.registry import create, skeleton
from facespace.backbones.weight_loading import (
    facenet_pytorch_name,
    from_state_dict,
    from_tensorflow,
)
from facespace.errors import ModelError
from support.tf_variables import tensorflow_variables

State = dict[str, torch.Tensor]


@functools.cache
def tiny() -> Backbone:
    torch.manual_seed(1)
    return create("tiny", dimension=4)


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


@functools.cache
def squeezenet_variables(scaled: bool = False) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    network = skeleton("squeezenet", dimension=4, batch_norm_scale=scaled)
    return {
        name: random.uniform(0.2, 1, shape).astype(np.float32) for name, shape in tensorflow_variables(network).items()
    }


# ---- TensorFlow


def test_variables_for_training_are_ignored() -> None:
    variables = squeezenet_variables()
    training = {
        "global_step": np.zeros((), np.int64),
        "Logits/weights": np.zeros((4, 7), np.float32),
        "Logits/biases": np.zeros(7, np.float32),
        "centers": np.zeros((7, 4), np.float32),
        "beta1_power": np.float32(0.9),
        "squeezenet/conv1/weights/Adam_1": np.zeros((7, 7, 3, 96), np.float32),
        "squeezenet/conv1/weights/ExponentialMovingAverage": np.zeros((7, 7, 3, 96), np.float32),
        "squeezenet/conv1/BatchNorm/moving_mean/Momentum": np.zeros(96, np.float32),
    }
    network = from_tensorflow({**training, **variables})
    assert (network.name, network.dimension) == ("squeezenet", 4)
    kernel = torch.from_numpy(variables["squeezenet/fire2/expand/3x3/weights"])
    found = network.state_dict()["fire2.expand.3x3.weight"]
    assert torch.equal(found[3, 5], kernel[:, :, 5, 3])
    norm = network.state_dict()
    assert torch.equal(
        norm["conv1.batchnorm.running_var"], torch.from_numpy(variables["squeezenet/conv1/BatchNorm/moving_variance"])
    )
    assert torch.equal(norm["bottleneck.weight"], torch.from_numpy(variables["squeezenet/Bottleneck/weights"]).T)


def test_buffers_that_no_file_has_are_initialised() -> None:
    for network in (from_tensorflow(squeezenet_variables()), from_state_dict(tiny().state_dict())):
        for name, value in network.named_buffers():
            if name.endswith("batchnorm.weight"):
                assert bool((value == 1).all()), name
            elif name.endswith("num_batches_tracked"):
                assert value == 0, name


def test_gammas_where_there_are_any() -> None:
    variables = squeezenet_variables(scaled=True)
    network = from_tensorflow(variables)
    assert network.options["batch_norm_scale"] is True
    gamma = variables["squeezenet/fire9/squeeze/BatchNorm/gamma"]
    assert torch.equal(network.state_dict()["fire9.squeeze.batchnorm.weight"], torch.from_numpy(gamma))
    assert network.get_parameter("fire9.squeeze.batchnorm.weight").requires_grad


def test_loading_draws_no_random_numbers() -> None:
    before = torch.random.get_rng_state()
    from_tensorflow(squeezenet_variables())
    from_state_dict(tiny().state_dict())
    assert torch.equal(torch.random.get_rng_state(), before)


CONV1 = "squeezenet/conv1/weights"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({CONV1: None}, f"model.ckpt: squeezenet needs the variable {CONV1}, which is missing"),
        ({"squeezenet/Bottleneck/weights": None}, "model.ckpt: squeezenet needs the variable squeezenet/Bottleneck/weights, which is missing"),
        ({CONV1: np.zeros((7, 7, 3, 95), np.float32)}, f"model.ckpt: {CONV1} of squeezenet must have the shape [7, 7, 3, 96], got [7, 7, 3, 95]"),
        ({CONV1: np.zeros((7, 7, 3, 96), np.int32)}, f"model.ckpt: {CONV1} must have floating-point numbers, got int32"),
        ({CONV1: np.full((7, 7, 3, 96), np.nan)}, f"model.ckpt: {CONV1} is damaged: it has numbers that are not finite, or negative variances"),
        ({CONV1: np.full((7, 7, 3, 96), 1e300)}, f"model.ckpt: {CONV1} is damaged: it has numbers that are not finite, or negative variances"),
        ({"squeezenet/fire10/squeeze/weights": np.zeros(1, np.float32)}, "model.ckpt: squeezenet has no variable 'squeezenet/fire10/squeeze/weights'; this is another network"),
        ({"squeezenet/Bottleneck/weights": np.zeros((1000, 5000), np.float32)}, "model.ckpt: squeezenet/Bottleneck/weights must have 1 to 4096 features, its shape ends in [5000]"),
        ({"squeezenet/Bottleneck/weights": np.float32(1)}, "model.ckpt: squeezenet/Bottleneck/weights must have 1 to 4096 features, its shape ends in []"),
    ],
)  # fmt: skip
def test_damaged_variables(changes: dict[str, Any], text: str) -> None:
    variables = {**squeezenet_variables(), **changes}
    with pytest.raises(ModelError) as caught:
        from_tensorflow({name: value for name, value in variables.items() if value is not None}, source="model.ckpt")
    assert str(caught.value) == text


@pytest.mark.parametrize("variables", [{}, {"vgg\n/conv": np.zeros(3, np.float32)}])
def test_variables_of_no_known_network(variables: dict[str, np.ndarray]) -> None:
    with pytest.raises(
        ModelError, match=r"^variables: no known network has these variables; .*the file's first variable is '.*'$"
    ):
        from_tensorflow(variables)


def test_a_network_without_an_original() -> None:
    with pytest.raises(
        ModelError, match=r"^tiny has no TensorFlow original; only inception-resnet-v1, .* and resnet50 have one$"
    ):
        tensorflow_variables(tiny())


# ---- state dicts


@pytest.mark.parametrize("wrap", [
    lambda state: {"state_dict": state, "epoch": 3},
    lambda state: {"model": {"state_dict": {f"module.{name}": value for name, value in state.items()}}},
    lambda state: {"backbone": state, "head": {"weight": torch.zeros(2)}},
    lambda state: {"state_dict_backbone": {f"module._orig_mod.{name}": value for name, value in state.items()}},
    lambda state: {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")},
    lambda state: {name: value.double() for name, value in state.items()},
    lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {0: {"step": torch.ones(1)}}}, "loss": torch.ones(1)},
    lambda state: {"ema": under("net.", state), "epoch": 1},
    lambda state: {"state_dict": {**under("backbone.", state), "head.weight": torch.zeros(9, 4), "head.norm.running_var": torch.ones(4)}},
    lambda state: {**under("model.backbone.", state), "model.arc.weight": torch.zeros(9, 4)},
    lambda state: under("0.", state),
    lambda state: {**state, "head.weight": torch.zeros(9, 4)},
    lambda state: {"optimizer": {"state": {k: {"exp_avg": torch.ones(2)} for k in range(200)}}, "networks": {"face": state}},
])  # fmt: skip
def test_wrappers_of_a_state_dict_are_removed(wrap: Any) -> None:
    state = tiny().state_dict()
    network = from_state_dict(wrap(state))
    assert (network.name, network.options, network.training) == ("tiny", {"dimension": 4}, False)
    assert all(torch.equal(value, state[name]) for name, value in network.named_parameters())
    assert all(value.dtype == torch.float32 for value in network.parameters())


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({**under("student.", tiny().state_dict()), **under("teacher.", tiny().state_dict())}, "x.pt: contains several networks, under 'student.' and 'teacher.'; save the state dict of one of them"),
        ({"net": under("n.", {"a": torch.ones(2), "b": torch.ones(2)})}, "x.pt: no known network has these weights; the first is 'a'"),
        ({"net": under("n.", {name: value for name, value in tiny().state_dict().items() if name != "maps.0.weight"})}, "x.pt: tiny, the closest known network, needs maps.0.weight, which is missing"),
        ({"net": {}, "loss": 3.0, "x": [torch.ones(2)]}, "x.pt: no weights found; expected a state dict, which maps names to tensors"),
    ],
)  # fmt: skip
def test_state_dicts_that_are_not_one_network(state: State, text: str) -> None:
    with pytest.raises(ModelError) as caught:
        from_state_dict(state, source="x.pt")
    assert str(caught.value) == text


def test_facenet_pytorch_s_within_a_larger_network() -> None:
    whole = {**under("encoder.", facenet_pytorch_state(gamma=False)), "head.weight": torch.zeros(3, 512)}
    assert from_state_dict({"weights": whole}).name == "inception-resnet-v1"


def test_the_closest_network_lacks_least() -> None:
    state = {name: value for name, value in skeleton("iresnet18").state_dict().items() if name != "prelu.weight"}
    with pytest.raises(
        ModelError, match=r"iresnet18, the closest known network, needs prelu\.weight, which is missing"
    ):
        from_state_dict(state)


def test_the_network_does_not_share_the_caller_s_memory() -> None:
    state = {name: value.clone() for name, value in tiny().state_dict().items()}
    network = from_state_dict(state)
    state["full.weight"].zero_()
    assert bool(network.get_parameter("full.weight").detach().any())


def damaged(name: str, value: Any) -> State:
    state = dict(tiny().state_dict())
    if value is None:
        del state[name]
    else:
        state[name] = value
    return state


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("full.weight", None, "x.pt: tiny, the closest known network, needs full.weight, which is missing"),
        ("maps.99.weight", torch.zeros(3), "x.pt: tiny, the closest known network, has no 'maps.99.weight'; this is another network"),
        ("maps.0.weight", torch.zeros(8, 3, 5, 5), "x.pt: maps.0.weight of tiny must have the shape [8, 3, 3, 3], got [8, 3, 5, 5]"),
        ("full.weight", torch.zeros(4, 64, dtype=torch.int8), "x.pt: full.weight must be a plain tensor of floating-point numbers, got torch.int8"),
        ("full.weight", torch.zeros(4, 64).to_sparse(), "x.pt: full.weight must be a plain tensor of floating-point numbers, got torch.float32"),
        ("full.weight", torch.zeros(4, 64, device="meta"), "x.pt: full.weight must be a plain tensor of floating-point numbers, got torch.float32"),
        ("full.weight", torch.zeros(1).expand(4, 64), "x.pt: full.weight is damaged: it claims more numbers than the file contains"),
        ("full.weight", torch.full((4, 64), float("inf")), "x.pt: full.weight is damaged: it has numbers that are not finite, or negative variances"),
        ("full.weight", torch.full((4, 64), 1e300, dtype=torch.float64), "x.pt: full.weight is damaged: it has numbers that are not finite, or negative variances"),
        ("norm.running_var", -torch.ones(4), "x.pt: norm.running_var is damaged: it has numbers that are not finite, or negative variances"),
        ("norm.running_var", torch.ones(10**6), "x.pt: norm.running_var must have 1 to 4096 features, its shape ends in [1000000]"),
        ("norm.running_var", torch.ones(()), "x.pt: norm.running_var must have 1 to 4096 features, its shape ends in []"),
        ("norm.bias", torch.zeros(5), "x.pt: norm.bias of tiny must have the shape [4], got [5]"),
    ],
)  # fmt: skip
def test_damaged_state_dicts(name: str, value: Any, text: str) -> None:
    with pytest.raises(ModelError) as caught:
        from_state_dict(damaged(name, value), source="x.pt")
    assert str(caught.value) == text


def selfish() -> dict[str, Any]:
    state: dict[str, Any] = {}
    state["model"] = state
    return state


@pytest.mark.parametrize(
    "state", [{}, {"a": 1}, {3: torch.zeros(2)}, {"state_dict": {"epoch": 4}}, selfish(), [1], None]
)
def test_inputs_without_weights(state: Any) -> None:
    with pytest.raises(
        ModelError, match=r"^state dict: no weights found; expected a state dict, which maps names to tensors$"
    ):
        from_state_dict(state)


def test_weights_of_no_known_network() -> None:
    with pytest.raises(ModelError, match=r"^state dict: no known network has these weights; the first is 'a'$"):
        from_state_dict({"b": torch.zeros(2), "a": torch.zeros(2)})


# ---- facenet-pytorch


@functools.cache
def facenet_pytorch_state(*, gamma: bool) -> State:
    """Return random weights under facenet-pytorch's names, which `facenet_pytorch_features` checks by reading them."""
    torch.manual_seed(4)
    network = skeleton("inception-resnet-v1", dimension=32, batch_norm_scale=True)
    state = {}
    for entry, value in network.state_dict().items():
        name, shape = facenet_pytorch_name(network, entry), value.shape
        if entry.endswith("num_batches_tracked"):
            state[name] = torch.tensor(3)
        elif entry.endswith("running_var"):
            state[name] = 0.5 + torch.rand(shape)
        elif entry.endswith("batchnorm.weight"):
            state[name] = 0.7 + 0.6 * torch.rand(shape) if gamma else torch.ones(shape)
        elif len(shape) > 1:
            state[name] = torch.randn(shape) * (2 / shape[1:].numel()) ** 0.5
        else:
            state[name] = 0.1 * torch.randn(shape)
    return {**state, "logits.weight": torch.zeros(7, 32), "logits.bias": torch.zeros(7)}


def facenet_pytorch_features(state: State, images: torch.Tensor, read: set[str]) -> torch.Tensor:
    """Compute facenet-pytorch's features before normalisation, layer by layer; used names are added to `read`."""

    def take(name: str) -> torch.Tensor:
        read.add(name)
        return state[name]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        leaves = [take(f"{name}.{leaf}") for leaf in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *leaves, training=False, eps=0.001)

    def conv(x: torch.Tensor, name: str, stride: int = 1, padding: int | tuple[int, int] = 0) -> torch.Tensor:
        x = functional.conv2d(x, take(f"{name}.conv.weight"), stride=stride, padding=padding)
        return norm(x, f"{name}.bn").relu()

    def pool(x: torch.Tensor) -> torch.Tensor:
        return functional.max_pool2d(x, 3, 2)

    def block(x: torch.Tensor, name: str, branches: list[list[int | tuple[int, int]]], scale: float) -> torch.Tensor:
        sides = []
        for k, paddings in enumerate(branches):
            side = x
            for depth, padding in enumerate(paddings):
                layer = f"{name}.branch{k}" + (f".{depth}" if len(paddings) > 1 else "")
                side = conv(side, layer, padding=padding)
            sides.append(side)
        up = functional.conv2d(torch.cat(sides, 1), take(f"{name}.conv2d.weight"), take(f"{name}.conv2d.bias"))
        return x + scale * up

    x = conv(conv(conv(images, "conv2d_1a", 2), "conv2d_2a"), "conv2d_2b", padding=1)
    x = conv(conv(conv(pool(x), "conv2d_3b"), "conv2d_4a"), "conv2d_4b", 2)
    for k in range(5):
        x = block(x, f"repeat_1.{k}", [[0], [0, 1], [0, 1, 1]], 0.17).relu()
    y = conv(conv(x, "mixed_6a.branch1.0"), "mixed_6a.branch1.1", padding=1)
    x = torch.cat([conv(x, "mixed_6a.branch0", 2), conv(y, "mixed_6a.branch1.2", 2), pool(x)], 1)
    for k in range(10):
        x = block(x, f"repeat_2.{k}", [[0], [0, (0, 3), (3, 0)]], 0.10).relu()
    first, second, third = (conv(x, f"mixed_7a.branch{k}.0") for k in range(3))
    third = conv(conv(third, "mixed_7a.branch2.1", padding=1), "mixed_7a.branch2.2", 2)
    x = torch.cat([conv(first, "mixed_7a.branch0.1", 2), conv(second, "mixed_7a.branch1.1", 2), third, pool(x)], 1)
    for k in range(5):
        x = block(x, f"repeat_3.{k}", [[0], [0, (0, 1), (1, 0)]], 0.20).relu()
    x = block(x, "block8", [[0], [0, (0, 1), (1, 0)]], 1.0)
    return norm(functional.linear(x.mean((2, 3)), take("last_linear.weight")), "last_bn")


@pytest.mark.parametrize("gamma", [True, False])
def test_facenet_pytorch(gamma: bool) -> None:
    state = facenet_pytorch_state(gamma=gamma)
    network = from_state_dict(state)
    assert (network.name, network.dimension, network.training) == ("inception-resnet-v1", 32, False)
    assert network.options["batch_norm_scale"] is gamma  # the published weights have no gammas other than 1
    images = torch.randn(2, 3, 80, 96)
    read: set[str] = set()
    with torch.no_grad():
        features, reference = network(images), facenet_pytorch_features(state, images, read)
    assert float((features - reference).abs().max()) <= 1e-5 * float(reference.abs().max())
    assert float((reference[0] - reference[1]).abs().max()) > 1e-2 * float(reference.abs().max())
    assert {name for name in state if "logits" not in name and not name.endswith("num_batches_tracked")} == read


def test_damaged_weights_of_facenet_pytorch() -> None:
    state = facenet_pytorch_state(gamma=False)
    for name in ("mixed_7a.branch2.1.bn.running_mean", "last_bn.running_var"):
        with pytest.raises(ModelError, match=rf"^state dict: .* needs {name}, which is missing$"):
            from_state_dict({key: value for key, value in state.items() if key != name})
    with pytest.raises(
        ModelError, match=r"^state dict: repeat_1.4.conv2d.bias of inception-resnet-v1 must have the shape"
    ):
        from_state_dict({**state, "repeat_1.4.conv2d.bias": torch.zeros(3)})


# ---- arbitrary inputs

VALUES = st.one_of(
    st.none(),
    st.integers(),
    st.text(),
    st.builds(
        lambda shape, dtype: torch.ones(shape).to(dtype),
        st.lists(st.integers(0, 5), max_size=5),
        st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64, torch.float8_e5m2]),
    ),
    st.builds(lambda n: torch.ones(1).expand(n, 64), st.integers(0, 2**40)),
    st.just(torch.full((4, 64), float("nan"))),
)  # fmt: skip
NAMES = st.one_of(st.sampled_from(sorted(tiny().state_dict())), st.text(), st.integers(), st.sampled_from(["state_dict", "model", "module.x", "conv2d_1a.conv.weight", "last_bn.running_var", "last_bn.weight"]))  # fmt: skip


@given(st.dictionaries(NAMES, VALUES, max_size=4), st.booleans(), st.sampled_from(["", "module."]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_dict_is_a_network_or_an_error_of_one_line(changes: dict[Any, Any], wrapped: bool, prefix: str) -> None:
    state: dict[Any, Any] = {prefix + name: value for name, value in tiny().state_dict().items()}
    state |= {prefix + name if isinstance(name, str) else name: value for name, value in changes.items()}
    try:
        network = from_state_dict({"state_dict": state} if wrapped else state)
    except ModelError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert network.name == "tiny"


ARRAYS = st.one_of(
    st.builds(np.ones, st.lists(st.integers(0, 4), max_size=5), st.sampled_from(["f2", "f4", "f8", "i4", "?", "c8", "U3", "O"])),
    st.builds(lambda n: np.broadcast_to(np.float32(1), (1000, n)), st.integers(0, 2**40)),
)  # fmt: skip


@given(st.dictionaries(st.one_of(st.sampled_from(sorted(squeezenet_variables())), st.text(max_size=30).map("squeezenet/".__add__), st.text()), st.one_of(st.none(), ARRAYS), max_size=4))  # fmt: skip
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_variables_are_a_network_or_an_error_of_one_line(changes: dict[str, Any]) -> None:
    variables = {**squeezenet_variables(), **changes}
    try:
        network = from_tensorflow({name: value for name, value in variables.items() if value is not None})
    except ModelError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert network.name == "squeezenet"
