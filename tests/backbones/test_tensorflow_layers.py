"""The layers against slow loops over windows, as TensorFlow's documentation defines them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from facespace.backbones.tensorflow_layers import (
    AveragePoolSame,
    Convolution,
    Dense,
    average_pool_same,
    same_padding,
)

SHAPES = [(n, k, s) for n in (1, 5, 6, 7, 12) for k in (1, 2, 3, 7) for s in (1, 2, 3)]


def windows(size: int, kernel: int, stride: int) -> list[list[tuple[int, int]]]:
    """Return (position in the kernel, position in the picture) of the pixels under every output of SAME."""
    n_out = math.ceil(size / stride)
    total = max((n_out - 1) * stride + kernel - size, 0)
    found = []
    for output in range(n_out):
        start = output * stride - total // 2  # the additional pixel is after the picture
        found.append([(k, start + k) for k in range(kernel) if 0 <= start + k < size])
    return found


def over_windows(x: np.ndarray, kernel: int, stride: int, reduce) -> np.ndarray:
    """Return reduce(values (C,n), kernel positions) of every window of x (C,H,W)."""
    rows, columns = windows(x.shape[1], kernel, stride), windows(x.shape[2], kernel, stride)
    return np.stack(
        [
            np.stack(
                [
                    reduce(
                        np.stack([x[:, i, j] for _, i in row for _, j in column], 1),
                        [(a, b) for a, _ in row for b, _ in column],
                    )
                    for column in columns
                ],
                1,
            )
            for row in rows
        ],
        1,
    )


@given(st.integers(1, 500), st.integers(1, 9), st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_same_padding(size: int, kernel: int, stride: int) -> None:
    before, after = same_padding(size, kernel, stride)
    assert 0 <= before <= after <= before + 1
    assert (size + before + after - kernel) // stride + 1 == math.ceil(size / stride)
    rows = windows(size, kernel, stride)
    assert rows[0][0][0] == before  # positions of the first window before the picture


@pytest.mark.parametrize(("size", "kernel", "stride"), SHAPES)
def test_same_layers_against_loops(size: int, kernel: int, stride: int) -> None:
    x = np.random.default_rng(size).normal(size=(2, size, size + 1)).astype(np.float32)
    images = torch.from_numpy(x)[None]
    layer = Convolution(2, 3, kernel, stride=stride, batch_norm=False, relu=False)
    weight = layer.weight.detach().numpy()

    def weighed(values: np.ndarray, positions: list[tuple[int, int]]) -> np.ndarray:
        picked = np.stack([weight[:, :, a, b] for a, b in positions], 2)
        return (picked * values).sum((1, 2))

    with torch.no_grad():
        for ours, reduce in (
            (layer(images), weighed),
            (average_pool_same(images, kernel, stride), lambda values, _: values.mean(1)),
        ):
            np.testing.assert_allclose(ours[0], over_windows(x, kernel, stride, reduce), atol=1e-5)
        if stride == 1:
            assert torch.equal(AveragePoolSame(kernel)(images), average_pool_same(images, kernel, 1))


def test_a_kernel_need_not_be_square() -> None:
    layer = Convolution(1, 1, (1, 7), batch_norm=False, relu=False)
    assert layer.weight.shape == (1, 1, 1, 7)
    assert layer(torch.zeros(1, 1, 5, 6)).shape == (1, 1, 5, 6)


def test_valid_leaves_out_what_does_not_fit() -> None:
    layer = Convolution(1, 1, 3, stride=2, padding="valid", batch_norm=False, relu=False)
    assert layer(torch.zeros(1, 1, 8, 9)).shape == (1, 1, 3, 4)


@pytest.mark.parametrize("scale", [False, True])
def test_batch_norm(scale: bool) -> None:
    torch.manual_seed(0)
    layer = Convolution(2, 3, 1, batch_norm_scale=scale)
    x = torch.randn(4, 2, 5, 5)
    with torch.no_grad():
        raw = torch.nn.functional.conv2d(x, layer.weight)
        mean, variance = raw.mean((0, 2, 3)), raw.var((0, 2, 3), unbiased=False)
        expected = ((raw - mean[:, None, None]) / torch.sqrt(variance[:, None, None] + 1e-3)).relu()
        assert torch.allclose(layer(x), expected, atol=1e-5)
        unbiased = raw.var((0, 2, 3), unbiased=True)
    norm = layer.batchnorm
    assert norm is not None
    assert torch.allclose(norm.running_mean, 0.005 * mean)
    assert torch.allclose(norm.running_var, 0.995 + 0.005 * unbiased)
    assert [name for name, _ in layer.named_parameters()] == [
        "weight", *(["batchnorm.weight"] if scale else []), "batchnorm.bias",
    ]  # fmt: skip
    assert ("batchnorm.weight" in layer.state_dict()) == scale
    assert layer.bias is None


def test_dense_has_no_activation_and_no_bias() -> None:
    layer = Dense(4, 3)
    assert layer.bias is None
    assert [name for name, _ in layer.named_parameters()] == ["weight", "batchnorm.bias"]
    features = layer(torch.randn(50, 4))
    assert (features < 0).any()
    assert torch.allclose(features.mean(0), torch.zeros(3), atol=1e-5)


def test_new_weights_are_xavier_s() -> None:
    torch.manual_seed(0)
    for layer, limit in (
        (Convolution(30, 40, (3, 5), batch_norm=False), math.sqrt(6 / (30 * 15 + 40 * 15))),
        (Dense(100, 200, bias=True), math.sqrt(6 / 300)),
    ):
        largest = float(layer.weight.detach().abs().max())
        assert 0.99 * limit < largest <= limit
        assert not layer.bias.any()
