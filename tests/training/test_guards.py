"""Guards: a failing run is noticed after the tolerated number of steps, with the right message."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from facespace.errors import TrainingError
from facespace.training.guards import Guards, first_not_finite, is_out_of_memory

GOOD = {"spread": 1.2, "triplets": 40.0, "active": 0.3}
COLLAPSED = {**GOOD, "spread": 0.0099}
POINT = {"spread": 0.0, "triplets": 40.0, "active": 1.0}


def look(guards: Guards, facts: Mapping[str, float], n: int, first: int = 1) -> None:
    for step in range(first, first + n):
        guards.check(step, "triplet", facts)


def test_nothing_is_wrong() -> None:
    guards = Guards()
    for facts in (GOOD, {"spread": 0.01, "triplets": 1.0, "active": 1e-9}, {}, {"other": 0.0}):
        look(guards, facts, 60)
    guards.check(1, "center", {"largest_center": 1200.0, "largest_feature": 12.0})
    guards.check(1, "center", {"largest_center": 100.0, "largest_feature": 0.0})  # features are small at the beginning
    assert guards == Guards()


@pytest.mark.parametrize(
    ("center", "feature", "said"),
    [
        (1201.0, 12.0, "length 1,201, features 12"),
        (101.0, 0.5, "length 101, features 1"),
        (float("inf"), 12.0, "length inf"),
        (float("nan"), 12.0, "length nan"),
        (5.0, float("nan"), "features nan"),
    ],
)
def test_centers_that_diverge(center: float, feature: float, said: str) -> None:
    with pytest.raises(TrainingError, match=f"step 9: the centres of center-2 diverge .*{said}.*leave out legacy"):
        Guards().check(9, "center-2", {"largest_center": center, "largest_feature": feature})


def test_a_collapse_that_lasts() -> None:
    guards = Guards()
    look(guards, COLLAPSED, 49)
    with pytest.raises(
        TrainingError, match=r"^step 50: .*collapsed to one point \(.* 0\.0099 for 50 steps, 30% of triplets active\)"
    ):
        guards.check(50, "triplet", COLLAPSED)


def test_a_collapse_that_passes() -> None:
    guards = Guards()
    for _ in range(4):
        look(guards, POINT, 49)
        look(guards, GOOD, 1)
    assert guards == Guards()


@pytest.mark.parametrize("missing", ["triplets", "active"])
def test_no_triplets_for_long(missing: str) -> None:
    facts = {**GOOD, missing: 0.0}
    guards = Guards()
    look(guards, facts, 49)
    look(guards, GOOD, 1)
    look(guards, facts, 49)
    with pytest.raises(
        TrainingError, match=r"^step 100: no triplet left to learn from for 50 steps; use larger batches"
    ):
        guards.check(100, "triplet", facts)


def test_counts_continue_after_a_checkpoint() -> None:
    guards = Guards()
    look(guards, {"spread": 0.0, "triplets": 0.0, "active": 0.0}, 30)
    resumed = Guards(**json.loads(json.dumps(dataclasses.asdict(guards))))
    assert resumed == guards == Guards(collapsed=30, without_triplets=30)
    look(resumed, POINT, 19, first=31)
    with pytest.raises(TrainingError, match="step 50: "):
        resumed.check(50, "triplet", POINT)


# The first tensor that is not finite


class Burst(nn.Module):
    """A layer that divides by zero in the forward pass (`value`), or only in the backward pass."""

    def __init__(self, *, back: bool = False) -> None:
        super().__init__()
        self.back = back

    def forward(self, x: Tensor) -> Tensor:
        return x + 0 * (x * 0).sqrt() if self.back else x / 0


class Term(nn.Module):
    """A loss with a weight and centres."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.register_buffer("centers", torch.zeros(4))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.burst = False

    def forward(self, features: Tensor) -> Tensor:
        loss = ((features * self.weight - self.centers) ** 2).mean()
        return loss / 0 if self.burst else loss


def network(place: int | None = None, *, back: bool = False) -> nn.Sequential:
    """Return two convolutions with batch norms and a dense layer, with the failing layer after layer `place`."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Flatten()]
    layers.append(nn.Linear(36, 4))
    if place is not None:
        layers.insert(place, Burst(back=back))
    return nn.Sequential(*layers)


class Run:
    """Compute one training step, then return the first tensor that is not finite."""

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone, self.terms = backbone, {"first": Term(), "second": Term()}
        self.images = torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(0))

    def forward(self) -> Tensor:
        features = self.backbone(self.images)
        return sum((term(features) for term in self.terms.values()), torch.zeros(()))

    def ask(self) -> str:
        self.forward().backward()  # type: ignore[no-untyped-call]
        return first_not_finite(self.backbone, self.terms, self.images, forward=self.forward)


def spoil(tensor: Tensor, value: float = float("nan")) -> None:
    with torch.no_grad():
        tensor.view(-1)[-1] = value


def test_all_is_finite() -> None:
    assert Run(network()).ask() == ""


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight(value: float) -> None:
    run = Run(network())
    spoil(run.backbone[3].weight, value)
    assert run.ask() == "the weight 3.weight of backbone"
    run = Run(network())
    spoil(run.terms["second"].weight, value)
    assert run.ask() == "the weight weight of loss second"


def test_images() -> None:
    run = Run(network())
    spoil(run.images)
    assert run.ask() == "the images"


@pytest.mark.parametrize("place", [0, 1, 3, 6, 7])
@pytest.mark.parametrize("training", [True, False])
def test_a_module(place: int, training: bool) -> None:
    """The module is named, not the statistics of the batch norms after it, which it makes infinite too."""
    run = Run(network(place))
    run.backbone.train(training)
    assert run.ask() == f"the output of backbone.{place}"


def test_a_statistic() -> None:
    run = Run(network())
    spoil(run.backbone[4].running_var)
    assert (
        run.ask() == "the statistic 4.running_var of backbone"
    )  # in training batch statistics are used, so outputs stay finite
    run = Run(network())
    run.backbone.eval()
    spoil(run.backbone[1].running_mean)
    assert run.ask() == "the output of backbone.1"


def test_a_term() -> None:
    run = Run(network())
    run.terms["second"].burst = True
    assert run.ask() == "the output of loss second"
    run = Run(network())
    spoil(run.terms["first"].centers)
    assert run.ask() == "the output of loss first"


def test_the_gradient_nearest_to_its_origin() -> None:
    """All gradients from there towards the images are not finite either."""
    assert Run(network(6, back=True)).ask() == "the gradient of 4.bias of backbone"
    assert Run(network(3, back=True)).ask() == "the gradient of 1.bias of backbone"
    run = Run(network())
    run.forward().backward()  # type: ignore[no-untyped-call]
    spoil(run.terms["first"].weight.grad)
    spoil(run.backbone[0].weight.grad)
    run.terms["second"].weight.grad = None  # frozen
    asked = first_not_finite(run.backbone, run.terms, run.images, forward=run.forward)
    assert asked == "the gradient of weight of loss first"


def test_only_the_total_is_not_finite() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Flatten()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)[:, :4] * torch.inf

    assert Run(Whole()).ask() == "the output of backbone"


def test_nothing_is_left_behind() -> None:
    run = Run(network())

    def fail() -> Any:
        raise RuntimeError("the second forward fails too")

    with pytest.raises(RuntimeError, match="fails too"):
        first_not_finite(run.backbone, run.terms, run.images, forward=fail)
    run.ask()
    whole = [*run.backbone.modules(), *(module for term in run.terms.values() for module in term.modules())]
    assert not any(module._forward_hooks for module in whole)


# Memory


def test_memory_of_the_machine() -> None:
    for ask in (lambda: torch.empty(1 << 60, dtype=torch.uint8), lambda: bytearray(1 << 60)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            ask()
        assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (torch.OutOfMemoryError(), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("expected scalar type Float"), False),
        (ValueError("out of memory"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_errors_that_mean_out_of_memory(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
