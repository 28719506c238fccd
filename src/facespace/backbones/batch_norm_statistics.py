"""Statistics of batch norms, measured anew on crops, with every output of the network left as it was."""

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
    """A copy of the network whose batch norms `names` hold the mean and variance of what they see on these crops.

    A batch norm that computes a·u + c in inference is given the mean μ and variance σ² (over images and places) of
    its input u, and with them gamma = a·√(σ² + ε) and beta = c + a·μ, which computes the same. So a network whose
    statistics were lost (folded into weights) can be trained further: with its statistics those of real faces, a step
    of training starts where inference is. The copy has a gamma in every batch norm. `crops` are (N,S,S,3) uint8 as
    `spec` wants them; `ValueError` when there are none.
    """
    import torch

    if not len(crops):
        raise ValueError("statistics want crops; none came")
    copy = create(backbone.name, **{**backbone.options, "batch_norm_scale": True})
    state = backbone.state_dict()
    for name, tensor in copy.state_dict().items():
        state.setdefault(name, tensor)  # gamma, which is 1
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
            # From the values as they are stored, so that rounding them changes nothing.
            norm.weight.copy_(slope * torch.sqrt(norm.running_var.double() + norm.eps))
            norm.bias.copy_(offset + slope * norm.running_mean.double())
    return copy


def _recorder(moments: dict[str, Any], name: str) -> Any:
    """A hook that gathers (count, mean, variance) of a batch norm's input, batch by batch (Chan et al. 1979)."""

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
            apart = mean - old_mean
            variance = (before * old_variance + count * variance) / total + apart**2 * (before * count / total**2)
            mean = old_mean + apart * (count / total)
            count = total
        moments[name] = (count, mean, variance)

    return record
