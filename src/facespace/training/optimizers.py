"""The optimisers of FaceNet's programs, with TensorFlow's arithmetic, and optimisers of torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

NAMES = ("rmsprop", "adam", "adagrad", "adadelta", "mom", "sgd", "adamw")


def create(name: str, groups: Iterable[dict[str, Any]], *, fused: bool = False) -> Optimizer:
    """Create an optimiser by name over parameter groups (`params`, `weight_decay`); the loop sets their `lr` every step.

    The first five are those of the 2018 programs with their constants: `rmsprop` (decay 0.9, momentum 0.9, ε 1.0
    below the root), `adam` (0.9, 0.999, ε 0.1), `adagrad`, `adadelta` (ρ 0.9, ε 1e-6), `mom` (Nesterov, 0.9). `sgd`
    (momentum 0.9) and `adamw` are for newer recipes. Weight decay is added to the gradients, except in `adamw`, where
    it is decoupled. `fused` selects torch's fused kernel if there is one. Raises `ValueError` for an unknown name.
    """
    groups = list(groups)
    fast: dict[str, Any] = {"fused": True} if fused else {}
    made: dict[str, Callable[[], Optimizer]] = {
        "rmsprop": lambda: RMSprop(groups),
        "adam": lambda: Adam(groups),
        "adagrad": lambda: torch.optim.Adagrad(groups, initial_accumulator_value=0.1, eps=0.0),
        "adadelta": lambda: torch.optim.Adadelta(groups, rho=0.9, eps=1e-6),
        "mom": lambda: torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True, **fast),
        "sgd": lambda: torch.optim.SGD(groups, lr=0.0, momentum=0.9, **fast),
        "adamw": lambda: torch.optim.AdamW(groups, **fast),
    }
    if name not in made:
        raise ValueError(f"optimizer must be one of {', '.join(NAMES)}, got {name!r}")
    return made[name]()


class _ForeachOptimizer(Optimizer):
    """An optimiser that updates all tensors of a group with one call of torch's `foreach` functions."""

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            gradients = [parameter.grad for parameter in parameters]
            if group["weight_decay"]:
                gradients = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter].update(self._start(parameter))
            self._move(parameters, gradients, [self.state[parameter] for parameter in parameters], group["lr"])

    def _start(self, parameter: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def _move(
        self, parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Tensor]], rate: float
    ) -> None:
        raise NotImplementedError


class RMSprop(_ForeachOptimizer):
    """TensorFlow's RMSPropOptimizer: s ← 0.9·s + 0.1·g², v ← 0.9·v + rate·g / √(s + 1), w ← w − v.

    s begins at 1, and ε = 1.0 is added below the root; torch's own begins at 0 and adds ε after the root.
    """

    def _start(self, parameter: Tensor) -> dict[str, Tensor]:
        return {"square": torch.ones_like(parameter), "velocity": torch.zeros_like(parameter)}

    def _move(
        self, parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Tensor]], rate: float
    ) -> None:
        squares = [state["square"] for state in states]
        velocities = [state["velocity"] for state in states]
        torch._foreach_mul_(squares, 0.9)
        torch._foreach_addcmul_(squares, gradients, gradients, 0.1)
        roots = torch._foreach_add(squares, 1.0)
        torch._foreach_sqrt_(roots)
        torch._foreach_mul_(velocities, 0.9)
        torch._foreach_addcdiv_(velocities, gradients, roots, rate)
        torch._foreach_sub_(parameters, velocities)


class Adam(_ForeachOptimizer):
    """TensorFlow's AdamOptimizer with ε = 0.1: w ← w − rate·√(1 − 0.999ᵗ)/(1 − 0.9ᵗ) · m / (√v + ε).

    m ← 0.9·m + 0.1·g, v ← 0.999·v + 0.001·g². Here bias correction multiplies the rate, while torch corrects v before
    it adds ε. So ε weighs more against √v here; with ε = 0.1 this matters for the first steps.
    """

    def _start(self, parameter: Tensor) -> dict[str, Tensor]:
        return {
            "step": torch.zeros((), device="cpu"),
            "mean": torch.zeros_like(parameter),
            "square": torch.zeros_like(parameter),
        }

    def _move(
        self, parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Tensor]], rate: float
    ) -> None:
        by_age: dict[int, list[int]] = {}
        for position, state in enumerate(states):
            state["step"] += 1
            by_age.setdefault(int(state["step"]), []).append(position)
        for t, positions in by_age.items():
            chosen = [states[position] for position in positions]
            slopes = [gradients[position] for position in positions]
            means, squares = [state["mean"] for state in chosen], [state["square"] for state in chosen]
            torch._foreach_lerp_(means, slopes, 0.1)
            torch._foreach_mul_(squares, 0.999)
            torch._foreach_addcmul_(squares, slopes, slopes, 0.001)
            roots = torch._foreach_sqrt(squares)
            torch._foreach_add_(roots, 0.1)
            corrected = rate * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            torch._foreach_addcdiv_([parameters[position] for position in positions], means, roots, -corrected)
