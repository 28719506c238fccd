"""What a training run is between two steps: tensors and a few numbers, into checkpoints and back; and what it leaves."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from facespace.backbones.backbone import Backbone
from facespace.errors import RuntimeUnavailable, TrainingError
from facespace.faces.input_spec import InputSpec
from facespace.formats.torch_files import as_safetensors
from facespace.io.files import TEMPORARY, take_folder_place
from facespace.models.folder import ONNX, WEIGHTS, ModelRecord, write_model
from facespace.training.checkpoint import Checkpoint, part_of
from facespace.training.guards import Guards
from facespace.training.recipe import Recipe
from facespace.training.verification import Metrics


@dataclass(slots=True)
class Progress:
    """What must be remembered beside tensors: saved with them, as JSON."""

    step: int = 0
    accumulate: int = 1
    best: float = -1.0
    verified: int = 0  # the step after which pairs were measured last
    measured: dict[str, Metrics] = field(default_factory=dict)
    guards: Guards = field(default_factory=Guards)
    scaler: dict[str, Any] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """The fields but for the step, as JSON can hold them."""
        values = dataclasses.asdict(self)
        del values["step"]
        return values

    def take(self, state: Checkpoint) -> None:
        """Become what `facts` gave."""
        facts = dict(state.facts)
        self.step = state.step
        try:
            self.guards = Guards(**facts.pop("guards"))
            for name, value in facts.items():
                setattr(self, name, value)
        except (AttributeError, TypeError, KeyError):
            raise TrainingError("the checkpoint was written by another version of facespace; begin anew") from None


def tensors(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Weights and statistics of all modules, each under its module's name and a dot."""
    return {f"{owner}.{name}": t for owner, module in modules.items() for name, t in module.state_dict().items()}


def restore(modules: Mapping[str, nn.Module], saved: Mapping[str, Tensor]) -> None:
    """Put back what `tensors` gave; of tensors that lie over all ranks each takes its rows."""
    for name, own in tensors(modules).items():
        if name not in saved:
            raise TrainingError(f"the checkpoint has no {name}: recipe and checkpoint do not belong together")
        own.copy_(part_of(saved[name], own, name))


def write_trained(
    out: Path,
    backbone: Backbone,
    spec: InputSpec,
    *,
    name: str,
    recipe: Recipe,
    progress: Progress,
    dataset: Mapping[str, Any],
    onnx: bool,
) -> list[str]:
    """Write the network as a model folder in the place of the one that may be there; remarks, a line each."""
    network = copy.deepcopy(backbone).cpu().eval()
    files = {WEIGHTS: as_safetensors(network)}
    remarks = []
    if onnx:
        from facespace.backbones.onnx_export import backbone_to_onnx

        try:
            files[ONNX] = backbone_to_onnx(network, spec.size)
        except RuntimeUnavailable as error:
            remarks.append(f"no {ONNX} written: {error}")
    record = ModelRecord(
        name=name,
        fingerprint=hashlib.sha256(files[WEIGHTS]).hexdigest(),
        dimension=network.dimension,
        input_spec=spec,
        backbone=network.name,
        options=network.options,
        training={"recipe": recipe.model_dump(), "steps": progress.step, "dataset": dict(dataset)},
        metrics=progress.measured,
    )
    fresh = out.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    write_model(fresh, record, files)
    take_folder_place(fresh, out)
    return remarks
