"""Measures the statistics of batch norms on crops, without changing the network's outputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.backbones.backbone import Backbone
from facespace.backbones.registry import create
from facespace.faces.input_spec import InputSpec

_BATCH = 16


def reestimate(backbone: Backbone, crops: npt.NDArray[np.uint8], spec: InputSpec, names: Iterable[str]) -> Backbone:
    """Return a copy of the network in which the batch norms `names` store the statistics of their inputs on `crops`.

    The copy has the same outputs at inference. A batch norm that computes a·u + c there gets the mean μ and variance σ²
    (over images and positions) of its input u. With gamma = a·√(σ² + ε) and beta = c + a·μ it still computes a·u + c.
    So a network whose statistics were folded into its weights can be trained further: with statistics of real faces,
    its outputs in the first training step are nearly those at inference. All batch norms of the copy have a gamma.
    `crops` are (N,S,S,3) uint8 that fit `spec`. Raises `ValueError` if there are no crops.
    """
    import torch

    if not len(crops):
        raise ValueError("crops must have at least one image, got none")
    copy = create(backbone.name, **{**backbone.options, "batch_norm_scale": True})
    state = backbone.state_dict()
    for name, tensor in copy.state_dict().items():
        state.setdefault(name, tensor)  # a missing gamma is 1
    copy.load_state_dict(state)
    copy.eval()
    modules = dict(copy.named_modules())
    moments: dict[str, Any] = {}
    hooks = [modules[name].register_forward_pre_hook(_recorder(moments, name)) for name in names]
    with torch.inference_mode():
        for start in range(0, len(crops), _BATCH):
            images = spec.preprocess(crops[start : start + _BATCH]).transpose(0, 3, 1, 2)
            copy(torch.from_numpy(np.ascontiguousarray(images)))
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        for name, (_, mean, variance) in moments.items():
            norm: Any = modules[name]
            slope = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
            offset = norm.bias.double() - slope * norm.running_mean.double()
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
            # Computed from the stored float32 statistics, so that their rounding does not change the output.
            norm.weight.copy_(slope * torch.sqrt(norm.running_var.double() + norm.eps))
            norm.bias.copy_(offset + slope * norm.running_mean.double())
    return copy


def _recorder(moments: dict[str, Any], name: str) -> Any:
    """Return a hook that keeps the (count, mean, variance) of a batch norm's inputs so far (Chan et al. 1979)."""

    def record(_module: Any, inputs: tuple[Any, ...]) -> None:
        import torch

        u = inputs[0]
        variance, mean = (
            value.double() for value in torch.var_mean(u, (0, 2, 3) if u.ndim == 4 else (0,), correction=0)
        )
        count = u.numel() // u.shape[1]
        if name in moments:
            before, old_mean, old_variance = moments[name]
            total = before + count
            difference = mean - old_mean
            variance = (before * old_variance + count * variance) / total + difference**2 * (before * count / total**2)
            mean = old_mean + difference * (count / total)
            count = total
        moments[name] = (count, mean, variance)

    return record
