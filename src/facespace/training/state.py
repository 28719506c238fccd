"""The state of a training run between two steps, as stored in checkpoints, and the model that a run writes."""

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
    """Represents the part of the state that is not tensors; checkpoints store it as JSON."""

    step: int = 0
    accumulate: int = 1
    best: float = -1.0
    verified: int = 0  # the last step after which pairs were measured
    measured: dict[str, Metrics] = field(default_factory=dict)
    guards: Guards = field(default_factory=Guards)
    scaler: dict[str, Any] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Return all fields except the step, ready for JSON."""
        values = dataclasses.asdict(self)
        del values["step"]
        return values

    def take(self, state: Checkpoint) -> None:
        """Set the fields to those of a checkpoint. Raises `TrainingError` if it is from another version."""
        facts = dict(state.facts)
        self.step = state.step
        try:
            self.guards = Guards(**facts.pop("guards"))
            for name, value in facts.items():
                setattr(self, name, value)
        except (AttributeError, TypeError, KeyError):
            raise TrainingError("the checkpoint is from another version of facespace; start a new run") from None


def tensors(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the parameters and buffers of all modules, each named `MODULE.NAME`."""
    return {f"{owner}.{name}": t for owner, module in modules.items() for name, t in module.state_dict().items()}


def restore(modules: Mapping[str, nn.Module], saved: Mapping[str, Tensor]) -> None:
    """Copy the tensors of a checkpoint, named as by `tensors`, into the modules.

    Each rank copies only its own rows of a sharded tensor. Raises `TrainingError` if a tensor is missing or does not
    fit.
    """
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
    """Write the network as a model folder, replacing an existing one. Return one-line remarks."""
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
