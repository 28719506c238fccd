"""The contract of all losses: correct gradients, finite numbers, complete state."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from facespace.training.losses.loss import Loss, create, known, register

DIMENSION, CLASSES = 6, 5
LABELS = torch.tensor([0, 1, 1, 4, 0, 3, 4, 4])


@pytest.fixture(params=known())
def loss(request) -> Loss:
    torch.manual_seed(0)
    return create(request.param, dimension=DIMENSION, n_classes=CLASSES).double()


def features(seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    torch.manual_seed(seed)
    return scale * torch.randn(len(LABELS), DIMENSION, dtype=torch.float64)


def test_the_gradient_is_right(loss):
    loss.eval()  # in evaluation mode centres and statistics do not change
    if loss.name == "adaface":  # AdaFace's quality is computed from features without a gradient
        quality = loss._quality(features().norm(dim=1))
        loss._quality = lambda norms: quality

    def of(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        names = [name for name, _ in loss.named_parameters()]
        return torch.func.functional_call(loss, dict(zip(names, parameters, strict=True)), (x, LABELS))

    inputs = [features().requires_grad_(), *(p.detach().clone().requires_grad_() for p in loss.parameters())]
    assert torch.autograd.gradcheck(of, inputs, eps=1e-7, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e4])
@pytest.mark.parametrize("alike", [False, True])
def test_finite_on_hard_inputs(loss, scale, alike):
    """All zero, tiny, huge, and all the same: inputs on which √, acos and division can fail."""
    x = features(scale=scale).float()
    loss = loss.float()
    if alike:
        x = x[:1].expand(len(LABELS), -1).clone()
    x.requires_grad_()
    for _ in range(3):
        value = loss(x, LABELS)
        assert value.shape == ()
        assert torch.isfinite(value)
    value.backward()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in loss.parameters())
    assert all(torch.isfinite(fact) for fact in loss.facts.values())


def test_features_at_the_weights_themselves(loss):
    """cos θ is exactly 1 or −1."""
    if not hasattr(loss, "weight"):
        pytest.skip("no weights of identities")
    loss = loss.float()
    for sign in (1, -1):
        x = (sign * loss.weight.detach()[LABELS]).clone().requires_grad_()
        loss(x, LABELS).backward()
        assert torch.isfinite(x.grad).all()


def test_a_batch_of_one(loss):
    x = features()[:1].requires_grad_()
    value = loss(x, LABELS[:1])
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(x.grad).all()


def test_the_state_dict_is_the_whole_state(loss):
    loss.train()
    loss(features(1), LABELS)
    again = create(loss.name, dimension=DIMENSION, n_classes=CLASSES).double()
    again.load_state_dict(copy.deepcopy(loss.state_dict()))
    loss.eval()
    again.eval()
    torch.manual_seed(3)
    first = loss(features(2), LABELS)
    torch.manual_seed(3)
    assert torch.equal(first, again(features(2), LABELS))


def test_the_callers_tensors_do_not_change(loss):
    x, labels = features(), LABELS.clone()
    loss(x, labels)
    assert torch.equal(x, features())
    assert torch.equal(labels, LABELS)


def test_half_precision_around_it_changes_little(loss):
    loss = loss.float().eval()
    x = features().float()
    torch.manual_seed(0)
    plain = loss(x, LABELS)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        assert math.isclose(loss(x, LABELS).item(), plain.item(), rel_tol=0.02, abs_tol=1e-3)


def test_unknown_names_and_options():
    with pytest.raises(ValueError, match="no loss is called 'arcfase', the closest is arcface; there are "):
        create("arcfase", dimension=2, n_classes=2)
    with pytest.raises(TypeError, match="the loss arcface has no option margins, the closest is margin; it takes "):
        create("arcface", dimension=2, n_classes=2, margins=1)


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="two losses are called arcface"):

        @register("arcface")
        class Other(Loss):
            pass
