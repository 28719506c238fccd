"""Every optimiser against its formula, number by number in float64; and its state, saved and restored."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from facespace.training import optimizers
from facespace.training.checkpoint import optimizer_tensors, restore_optimizer

RATES = (0.1, 0.1, 0.02, 0.02, 0.3, 0.3, 0.3, 0.0005)
OF_2018 = ("rmsprop", "adam", "adagrad", "adadelta", "mom")
Move = Callable[[float, float, float], float]  # a weight, its gradient, the rate; the weight after the step


# TensorFlow's formulas for one weight, from its documentation and the kernels in training_ops.


def rmsprop() -> Move:
    mean_square, moved = 1.0, 0.0

    def move(w: float, g: float, rate: float) -> float:
        nonlocal mean_square, moved
        mean_square = 0.9 * mean_square + (1 - 0.9) * g * g
        moved = 0.9 * moved + rate * g / math.sqrt(mean_square + 1.0)
        return w - moved

    return move


def adam() -> Move:
    t, m, v = 0, 0.0, 0.0

    def move(w: float, g: float, rate: float) -> float:
        nonlocal t, m, v
        t += 1
        m = 0.9 * m + (1 - 0.9) * g
        v = 0.999 * v + (1 - 0.999) * g * g
        return w - rate * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (math.sqrt(v) + 0.1)

    return move


def adagrad() -> Move:
    accumulated = 0.1

    def move(w: float, g: float, rate: float) -> float:
        nonlocal accumulated
        accumulated += g * g
        return w - rate * g / math.sqrt(accumulated)

    return move


def adadelta() -> Move:
    square, moved = 0.0, 0.0

    def move(w: float, g: float, rate: float) -> float:
        nonlocal square, moved
        square = 0.9 * square + (1 - 0.9) * g * g
        by = math.sqrt(moved + 1e-6) / math.sqrt(square + 1e-6) * g
        moved = 0.9 * moved + (1 - 0.9) * by * by
        return w - rate * by

    return move


def mom(*, nesterov: bool = True) -> Move:
    accumulated = 0.0

    def move(w: float, g: float, rate: float) -> float:
        nonlocal accumulated
        accumulated = 0.9 * accumulated + g
        return w - rate * (g + 0.9 * accumulated if nesterov else accumulated)

    return move


def sgd() -> Move:
    return mom(nesterov=False)


def adamw(decay: float) -> Move:
    t, m, v = 0, 0.0, 0.0

    def move(w: float, g: float, rate: float) -> float:
        nonlocal t, m, v
        t += 1
        m, v = 0.9 * m + (1 - 0.9) * g, 0.999 * v + (1 - 0.999) * g * g
        return w - rate * decay * w - rate * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)

    return move


ORACLES: dict[str, Callable[..., Move]] = {
    "rmsprop": rmsprop, "adam": adam, "adagrad": adagrad, "adadelta": adadelta, "mom": mom, "sgd": sgd, "adamw": adamw,
}  # fmt: skip


def expected(name: str, start: np.ndarray, gradients: np.ndarray, decay: float) -> np.ndarray:
    """Return the weights (T,N) after every step, from weights (N,) and gradients of the loss (T,N), weight by weight."""
    path = np.zeros(gradients.shape)
    for k, weight in enumerate(start):
        w, move = float(weight), adamw(decay) if name == "adamw" else ORACLES[name]()
        for t, rate in enumerate(RATES):
            # TensorFlow adds the decay to the loss, ½·decay·w².
            w = path[t, k] = move(w, float(gradients[t, k]) + (0 if name == "adamw" else decay * w), rate)
    return path


def draw(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=shape) * 10 ** random.uniform(-4, 1, shape)  # sizes at which ε matters and does not


def test_names() -> None:
    assert set(optimizers.NAMES) == set(ORACLES) > set(OF_2018)
    with pytest.raises(ValueError, match=r"optimizer must be one of rmsprop, .*, adamw, got 'lion'"):
        optimizers.create("lion", [])


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("name", optimizers.NAMES)
def test_formulas(name: str, decay: float, fused: bool) -> None:
    starts = {shape: draw(1, shape) for shape in ((3, 4), (5,), ())}
    weights = [nn.Parameter(torch.tensor(start)) for start in starts.values()]
    other, frozen = nn.Parameter(torch.ones(2, dtype=torch.float64)), nn.Parameter(torch.ones(2))
    groups = [{"params": [*weights, frozen], "weight_decay": decay}, {"params": [other], "weight_decay": 0.0}]
    optimizer = optimizers.create(name, groups, fused=fused)
    gradients = [draw(2, (len(RATES), *shape)) for shape in starts]
    path = []
    for t, rate in enumerate(RATES):
        for group, factor in zip(optimizer.param_groups, (1.0, 0.5), strict=True):
            group["lr"] = rate * factor
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = torch.tensor(gradient[t])
        other.grad = torch.full_like(other, 0.01)
        optimizer.step()
        for weight, gradient in zip(weights, gradients, strict=True):
            np.testing.assert_array_equal(
                weight.grad, gradient[t]
            )  # weight decay must not change the gradients themselves
        path.append([weight.detach().clone().numpy() for weight in weights])
    for k, (start, gradient) in enumerate(zip(starts.values(), gradients, strict=True)):
        oracle = expected(name, start.reshape(-1), gradient.reshape(len(RATES), -1), decay)
        came = np.stack([step[k].reshape(-1) for step in path])
        # Some of torch's constants, 0.1 in Adagrad's accumulator for one, are float32.
        np.testing.assert_allclose(came, oracle, rtol=1e-6, atol=1e-9)
    assert torch.equal(frozen, torch.ones(2))  # it has no gradient, so decay does not apply either
    move, at = adamw(0.0) if name == "adamw" else ORACLES[name](), 1.0
    for rate in RATES:
        at = move(at, 0.01, 0.5 * rate)
    np.testing.assert_allclose(other.detach(), [at, at], rtol=1e-7)


@pytest.mark.parametrize("name", OF_2018)
def test_first_steps_written_out(name: str) -> None:
    """Weight 1, gradients 2 and −1, rate 0.5: computed by hand, independent of the formulas above."""
    by_hand = {
        # s = 0.9 + 0.4 = 1.3, v = 1/√2.3; s = 1.17 + 0.1 = 1.27, v = 0.9·v − 0.5/√2.27
        "rmsprop": (1 - 0.659380, 1 - 0.659380 - (0.593442 - 0.331862)),
        # m = 0.2, v = 0.004, √v = 0.063246, rate·√0.001/0.1 = 0.158114; m = 0.08, v = 0.004996, 0.5·√0.001999/0.19
        "adam": (1 - 0.158114 * 0.2 / 0.163246, 0.806289 - 0.117659 * 0.08 / 0.170682),
        "adagrad": (1 - 1 / math.sqrt(4.1), 1 - 1 / math.sqrt(4.1) + 0.5 / math.sqrt(5.1)),
        # a = 0.4, by = 0.001/√0.400001·2 = 0.0031623, d = 1e-6; a = 0.46, by = −√2e-6/√0.460001
        "adadelta": (1 - 0.5 * 0.0031623, 1 - 0.5 * 0.0031623 + 0.5 * 0.0020851),
        # a = 2, w = 1 − 0.5·(2 + 1.8); a = 0.8, w + 0.5·(1 − 0.72)
        "mom": (-0.9, -0.9 + 0.14),
    }[name]
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = optimizers.create(name, [{"params": [weight], "weight_decay": 0.0, "lr": 0.5}])
    for gradient, after in zip((2.0, -1.0), by_hand, strict=True):
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        assert weight.item() == pytest.approx(after, abs=2e-6)


@pytest.mark.parametrize("name", optimizers.NAMES)
def test_a_parameter_that_joins_late_starts_from_its_beginning(name: str) -> None:
    early, late = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = optimizers.create(name, [{"params": [early, late], "weight_decay": 0.1, "lr": 0.1}])
    path: dict[str, list[torch.Tensor]] = {"early": [], "late": []}
    for t in range(6):
        early.grad = torch.full((3,), 0.5)
        late.grad = torch.full((3,), 0.5) if t >= 2 else None
        optimizer.step()
        path["early"].append(early.detach().clone())
        path["late"].append(late.detach().clone())
    assert torch.equal(path["late"][1], torch.ones(3))
    for t in range(4):
        torch.testing.assert_close(path["late"][t + 2], path["early"][t], rtol=1e-6, atol=0)


# State


def network() -> nn.Module:
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 3, 3), nn.Flatten(), nn.Linear(27, 3))
    return whole.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def made(name: str, whole: nn.Module, *, fused: bool = False) -> tuple[torch.optim.Optimizer, dict[int, str]]:
    *rest, last = whole.parameters()
    groups = [{"params": rest, "weight_decay": 5e-4, "factor": 0.1}, {"params": [last], "weight_decay": 0.0}]
    return optimizers.create(name, groups, fused=fused), {id(p): f"net.{key}" for key, p in whole.named_parameters()}


def go(whole: nn.Module, optimizer: torch.optim.Optimizer, first: int, end: int) -> None:
    for step in range(first, end):
        images = torch.randn(4, 3, 7, 7, generator=torch.Generator().manual_seed(step))
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (1 + step) * group.get("factor", 1.0)
        optimizer.zero_grad()
        whole(images.contiguous(memory_format=torch.channels_last)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("through", ["checkpoint", "state_dict"])
@pytest.mark.parametrize("name", optimizers.NAMES)
def test_state_resumes_bit_for_bit(name: str, through: str, fused: bool) -> None:
    whole = network()
    optimizer, names = made(name, whole, fused=fused)
    go(whole, optimizer, 0, 4)
    middle = {key: value.clone() for key, value in whole.state_dict().items()}
    saved = {key: value.contiguous().clone() for key, value in optimizer_tensors(optimizer, names).items()}
    state = copy.deepcopy(optimizer.state_dict())
    go(whole, optimizer, 4, 9)

    resumed = network()
    resumed.load_state_dict(middle)
    again, names = made(name, resumed, fused=fused)
    if through == "checkpoint":
        restore_optimizer(again, names, saved)
        restored = optimizer_tensors(again, names)
        assert restored.keys() == saved.keys()
        assert all(torch.equal(restored[key], saved[key]) for key in saved)
    else:
        again.load_state_dict(state)
    go(resumed, again, 4, 9)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize("name", optimizers.NAMES)
def test_state_matters(name: str) -> None:
    """Check that the test above can fail: without its state an optimiser computes other weights."""
    whole, forgetful = network(), network()
    optimizer, _ = made(name, whole)
    go(whole, optimizer, 0, 4)
    forgetful.load_state_dict(whole.state_dict())
    go(whole, optimizer, 4, 6)
    go(forgetful, made(name, forgetful)[0], 4, 6)
    assert not torch.equal(next(whole.parameters()), next(forgetful.parameters()))


@pytest.mark.parametrize("name", ["rmsprop", "adam"])
def test_state_is_tensors_of_each_weight(name: str) -> None:
    whole = network()
    optimizer, _ = made(name, whole)
    go(whole, optimizer, 0, 1)
    keys: dict[str, Any] = {"rmsprop": {"square", "velocity"}, "adam": {"step", "mean", "square"}}
    for parameter in whole.parameters():
        state = optimizer.state[parameter]
        assert state.keys() == keys[name]
        assert all(value.shape == parameter.shape for key, value in state.items() if key != "step")
