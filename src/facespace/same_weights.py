"""Whether a file of weights holds the numbers of a named model, when nobody names the file's SHA-256.

Numbers are compared as they compute: with every batch norm folded into the layer before it, so that a frozen graph,
whose batch norms are gone, and the checkpoint it was made of are the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from facespace.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from facespace.backbones import Backbone

_TOLERANCE = 1e-5  # of a layer's largest number: folding in float32, and no training
_NORM = ".batchnorm"


def require_comparison(name: str) -> None:
    """Raises `RuntimeUnavailable` or `ModelError` where no file can be compared with the named model here."""
    from facespace.pretrained import MODELS, locate
    from facespace.torch_weights import require_torch

    require_torch(f"comparing a file with the weights of {name}")
    locate(MODELS[name])


def difference_from(path: Path, name: str) -> str | None:
    """How the torch weights at `path` differ from the named model's, None where they are the same.

    Raises `ModelError` where the file holds no weights of torch.
    """
    from facespace.torch_weights import is_torch_file, read_state_dict

    with path.open("rb") as file:
        start = file.read(16)
    if not is_torch_file(start) and start[8:9] != b"{":
        raise ModelError(f"{path}: no file of torch weights")
    state = read_state_dict(path)
    from facespace.backbones.foreign_weights import from_state_dict
    from facespace.model_source import find_model

    return first_difference(from_state_dict(state, source=str(path)), find_model(name).backbone()[0])


def first_difference(network: Backbone, other: Backbone) -> str | None:
    """The first layer in which two networks do not compute with the same numbers, in words; None where all agree.

    A layer's numbers are w·γ/√(σ² + ε) and β + (b − μ)·γ/√(σ² + ε) where a batch norm with mean μ and variance σ²
    follows; they agree when none differs by more than 1e-5 of the layer's largest.
    """
    if (network.name, network.dimension) != (other.name, other.dimension):
        return f"{network.name} of {network.dimension} numbers, not {other.name} of {other.dimension}"
    ours, theirs = _folded(network), _folded(other)
    for layer, numbers in ours.items():
        for kind, one, two in zip(("weights", "biases"), numbers, theirs[layer], strict=True):
            worst = float((one - two).abs().max() / two.abs().max().clamp(min=1e-30))
            if not worst <= _TOLERANCE:
                return f"{layer}: {kind} differ by {worst:.1e} of the largest"
    return None


def _folded(network: Backbone) -> dict[str, tuple[Tensor, Tensor]]:
    """Weights and biases of every layer in float64, its batch norm folded in."""
    import torch

    modules = dict(network.named_modules())
    layers = {}
    for name, module in modules.items():
        weight = getattr(module, "weight", None)
        if weight is None or name.endswith(_NORM):
            continue
        weight = weight.detach().double()
        bias = getattr(module, "bias", None)
        bias = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias.detach().double()
        norm = modules.get(name + _NORM)
        if norm is not None:
            slope = (norm.running_var.double() + norm.eps).rsqrt()
            if norm.weight is not None:
                slope = slope * norm.weight.detach().double()
            weight = weight * slope.reshape(-1, *[1] * (weight.dim() - 1))
            bias = norm.bias.detach().double() + (bias - norm.running_mean.double()) * slope
        layers[name] = (weight, bias)
    return layers
