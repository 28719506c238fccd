"""The arithmetic of one step against slow sums: losses, seeds, gradients of one and two processes, averages."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from facespace.training import step as arithmetic  # noqa: E402
from facespace.training.losses.loss import Loss  # noqa: E402
from facespace.training.losses.triplet import TripletLoss  # noqa: E402
from support.processes import run_in_two_processes  # noqa: E402

# Seeds


def test_every_part_of_every_step_has_a_seed_of_its_own():
    seeds = [arithmetic.seed_of(seed, step, part) for seed in range(4) for step in range(10) for part in range(4)]
    assert len(set(seeds)) == 160
    assert all(0 <= seed < 2**63 for seed in seeds)  # torch accepts no larger seeds


def test_seeds_stay_what_they_were():
    """A run that an older version of facespace began resumes with the same draws."""
    assert arithmetic.seed_of(666, 3, 1) == 4_804_354_359_119_831_769


# Losses


class Square(Loss):
    """The sum of squares, with two facts."""

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        self.kind = features.dtype
        self.facts["largest"] = features.detach().max()
        self.facts["triplets"] = labels.sum().float()
        return features.square().sum()


class Plain(Loss):
    """The sum of features times labels, without facts."""

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return (features * labels[:, None]).sum()


class Doubling(nn.Module):
    """Features w·x with w = 2 at the beginning, by a product that autocast computes in its precision."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, 1), 2.0))

    def forward(self, pixels: Tensor) -> Tensor:
        features = pixels @ self.weight
        self.kind = features.dtype
        return features


PIXELS, LABELS = [[1.0], [-3.0]], [5, 7]


def computed(network: nn.Module, weights: dict[str, float], precision: Any) -> tuple[Tensor, list[Tensor], Square]:
    square = Square()
    terms = {"square": square, "plain": Plain()}
    pixels, labels = torch.tensor(PIXELS), torch.tensor(LABELS)
    total, values = arithmetic.losses_of(network, terms, weights, pixels, labels, precision)
    return total, values, square


def test_losses_are_added_with_their_weights():
    """Features are 2 and −6: squares sum up to 40, products with labels to 10 − 42 = −32."""
    network = Doubling()
    total, values, _ = computed(network, {"square": 0.5, "plain": 3.0}, torch.float32)
    assert total.item() == 0.5 * 40 + 3 * -32
    assert [value.item() for value in values] == [40, 2, 12, -32]  # each term's loss, then its facts
    total.backward()
    assert network.weight.grad.item() == 0.5 * 2 * 2 * 10 + 3 * -16  # of 0.5·w²·(1 + 9) + 3·w·(5 − 21) at 2


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_network_computes_in_the_precision_and_losses_in_float32(precision):
    network = Doubling()
    total, _, square = computed(network, {"square": 1.0, "plain": 1.0}, precision)
    assert network.kind == precision
    assert square.kind == total.dtype == torch.float32


def test_losses_and_facts_get_their_names_back():
    terms: dict[str, Loss] = {"square": Square(), "plain": Plain(), "square-3": Square()}
    for term in terms.values():
        term(torch.ones(2, 1), torch.tensor(LABELS))
    losses, facts = arithmetic.named(terms, iter([40.0, 2.5, 12.0, -32.0, 1.0, 0.5, 4.0]), 3)
    assert losses == {"square": 40, "plain": -32, "square-3": 1}
    assert facts == {
        "square": {"largest": 2.5, "triplets": 36},
        "plain": {},
        "square-3": {"largest": 0.5, "triplets": 12},
    }


def test_triplets_of_all_parts_are_counted():
    term = TripletLoss(miner="all")
    parts = [[0, 0, 1], [0, 0, 1, 1]]  # 2 pairs with 1 negative; 4 pairs with 2 negatives
    weights, values = {"triplet": 1.0}, []
    for labels in parts:
        torch.manual_seed(0)
        given = torch.randn(len(labels), 4), torch.tensor(labels), torch.float32
        values.append(torch.stack(arithmetic.losses_of(nn.Identity(), {"triplet": term}, weights, *given)[1]))
    _, facts = arithmetic.named({"triplet": term}, torch.stack(values).mean(0).tolist(), 2)
    assert facts["triplet"]["triplets"] == 2 * 1 + 4 * 2
    assert 0 < facts["triplet"]["active"] <= 1


# Gradients


def parameters(*gradients: list[float] | None) -> list[nn.Parameter]:
    """Return parameters of ones with these gradients; None for a parameter without gradient."""
    made = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.ones(2 if gradient is None else len(gradient)))
        parameter.grad = None if gradient is None else torch.tensor(gradient)
        made.append(parameter)
    return made


def gradients(parameters: Iterable[nn.Parameter]) -> list[list[float] | None]:
    return [None if p.grad is None else p.grad.tolist() for p in parameters]


@pytest.mark.parametrize(
    ("shared", "sharded", "expected"),
    [
        ([[3.0], None, [4.0, 0.0]], [], 5.0),
        ([[1.0, -2.0], [2.0]], [[4.0]], 5.0),
        ([], [[6.0], [-8.0]], 10.0),
        ([[0.0, 0.0]], [None], 0.0),
        ([None], [], 0.0),
    ],
)
def test_the_length_of_all_gradients(shared, sharded, expected):
    assert arithmetic.gradient_norm(parameters(*shared), parameters(*sharded)).item() == pytest.approx(expected)


def test_one_process_keeps_its_gradients():
    own = parameters([1.0, 2.0], None)
    arithmetic.mean_over_ranks(own)
    assert gradients(own) == [[1, 2], None]


def optimizer(*groups: list[nn.Parameter], weight_decay: Iterable[float] = ()) -> torch.optim.Optimizer:
    decays = list(weight_decay) or [0.0] * len(groups)
    entries = [{"params": group, "weight_decay": decay} for group, decay in zip(groups, decays, strict=True)]
    return torch.optim.SGD(entries, lr=0.1)


def test_gradients_that_are_too_long_are_shortened_together():
    groups = parameters([3.0], None), parameters([0.0, -4.0])
    arithmetic.clip(optimizer(*groups), 5.0, 1.0)
    (first, missing), (second,) = map(gradients, groups)
    assert first == pytest.approx([0.6])
    assert missing is None
    assert second == pytest.approx([0, -0.8])  # together their length is 1


@pytest.mark.parametrize("most", [5.0, 6.0, 0.0], ids=["as long", "longer", "off"])
def test_gradients_that_are_short_enough_stay(most):
    own = parameters([3.0, -4.0])
    arithmetic.clip(optimizer(own), 5.0, most)
    assert gradients(own) == [[3, -4]]


# Averages and weight decay


@pytest.mark.parametrize("decay", [0.0, 0.75, 1.0])
def test_the_moving_average_of_weights_and_statistics(decay):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))
    for _ in range(3):
        network(torch.randn(5, 3))
    before, state = (copy.deepcopy(module.state_dict()) for module in (average, network))
    arithmetic.update_average(average, network, decay)
    for name, tensor in average.state_dict().items():
        if name == "1.num_batches_tracked":
            assert tensor.item() == 3
            continue
        pairs = zip(before[name].flatten().tolist(), state[name].flatten().tolist(), strict=True)
        expected = [decay * old + (1 - decay) * new for old, new in pairs]
        assert tensor.flatten().tolist() == pytest.approx(expected, abs=1e-6), name
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_regularization_is_half_the_decay_times_the_squared_length():
    first, second, third = ([nn.Parameter(torch.tensor(values))] for values in ([1.0, 2.0], [-3.0], [5.0]))
    first.append(nn.Parameter(torch.tensor([[4.0]])))
    found = arithmetic.regularization(optimizer(first, second, third, weight_decay=[0.1, 0.5, 0.0]))
    assert found == pytest.approx(0.5 * 0.1 * (1 + 4 + 16) + 0.5 * 0.5 * 9)
    assert arithmetic.regularization(optimizer(first, second)) == 0


# Two processes

CODE = """
from torch import nn
from facespace.training import distributed, step as arithmetic

distributed.join("cpu")
rank = distributed.rank()

def parameter(*gradient):
    made = nn.Parameter(torch.zeros(2))
    made.grad = torch.tensor(gradient) if gradient else None
    return made

own = [parameter(1.0, 2.0), parameter(3.0, 0.0)] if rank == 0 else [parameter(5.0, -2.0), parameter()]
own.append(parameter())
arithmetic.mean_over_ranks(own)
found["means"] = [p.grad.tolist() for p in own]

rows = [parameter(4.0, 0.0)] if rank == 0 else [parameter(0.0, 8.0), parameter()]
found["length"] = arithmetic.gradient_norm([parameter(1.0, 0.0)], rows).item()
found["length of one"] = arithmetic.gradient_norm([parameter(3.0, 0.0)], rows if rank else []).item()
found["length of shared"] = arithmetic.gradient_norm([parameter(3.0, -4.0)], []).item()
distributed.leave()
"""


def test_two_processes_have_the_same_gradients_and_length(tmp_path: Path):
    for found in run_in_two_processes(tmp_path, CODE):
        assert found["means"] == [[3, 0], [1.5, 0], [0, 0]]  # a gradient that is missing in one process counts as 0
        assert found["length"] == pytest.approx(9)  # 1 + 16 + 64 is 81
        assert found["length of one"] == pytest.approx(math.sqrt(9 + 64))
        assert found["length of shared"] == pytest.approx(5)  # replicated parameters count once
