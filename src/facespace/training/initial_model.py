"""The network that training begins with, new or from an existing model; its frozen parts and its learning rates."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import nn

from facespace.backbones.backbone import Backbone
from facespace.backbones.batch_norm_statistics import reestimate
from facespace.backbones.registry import create
from facespace.embedding.embedder import Embedder
from facespace.errors import ModelError, RecipeError
from facespace.faces.input_spec import INPUT_SPECS, InputSpec
from facespace.models.opening import open_model
from facespace.runtime.torch_network import TorchNetwork
from facespace.training.recipe import Recipe

if TYPE_CHECKING:
    from facespace.training.losses.loss import Loss

Crops = Callable[[InputSpec], npt.NDArray[np.uint8]]


@dataclass(slots=True)
class Start:
    """Represents the backbone with which training begins, its input `spec`, and one-line `remarks` for the user."""

    backbone: Backbone
    spec: InputSpec
    remarks: list[str] = field(default_factory=list)


def start(recipe: Recipe, crops: Crops) -> Start:
    """Return the network of a recipe. A new one draws its weights from torch's generator.

    If the recipe has `init`, the network is that model, with its own preprocessing and dimension. Batch norms that were
    folded into weights get the statistics of `crops(spec)`, (N,S,S,3) uint8 of the training data; the network's outputs
    stay the same. A model whose embeddings are all alike is accepted, with a remark. Raises `ModelError` if the model
    cannot be read, and `RecipeError` if the recipe does not fit the network.
    """
    if not recipe.init:
        backbone, spec = _new(recipe), _spec(recipe)
        _check_size(backbone, spec)
        return Start(backbone, spec)
    source = open_model(os.path.expanduser(recipe.init))
    remarks = list(source.remarks)
    if source.record is not None and str(source.record.training.get("batch_norms", "")).startswith("folded"):
        raise ModelError(
            f"{recipe.init}: its batch norms were folded into the weights; convert its source again with --crops DIR"
        )
    backbone = source.backbone()
    _check_size(backbone, source.spec)
    if recipe.keep_probability != 1 and not _takes_dropout(backbone):
        raise RecipeError(f"keep_probability: {recipe.init} is a {backbone.name}, which has no dropout; leave it at 1")
    names = source.folded_batch_norms(backbone)
    if names:
        sample = crops(source.spec)
        backbone = reestimate(backbone, sample, source.spec, names)
        remarks.append(f"restored the statistics of {len(names)} folded batch norms from {len(sample)} crops")
    if _takes_dropout(backbone):
        state = backbone.state_dict()
        backbone = create(backbone.name, **{**backbone.options, "keep_probability": recipe.keep_probability})
        backbone.load_state_dict(state)
    remarks.append(
        f"starts from {source.name}: {backbone.name}, embeddings of {backbone.dimension} numbers, its own preprocessing"
    )
    embedder = Embedder(TorchNetwork(backbone, precision="float32"), name=source.name, spec=source.spec, fingerprint="")
    if remark := embedder.collapse_remark():
        remarks.append(f"{source.name}: {remark}")
    return Start(backbone, source.spec, remarks)


def _new(recipe: Recipe) -> Backbone:
    options: dict[str, Any] = {"dimension": recipe.dimension}
    if recipe.keep_probability != 1:
        options["keep_probability"] = recipe.keep_probability
    try:
        return create(recipe.backbone, **options)
    except (TypeError, ValueError, ModelError) as error:
        raise RecipeError(f"backbone: {error}") from None


def _spec(recipe: Recipe) -> InputSpec:
    given = recipe.input_spec
    if isinstance(given, str):
        if given not in INPUT_SPECS:
            raise RecipeError(f"input_spec: no preset {given!r}; there are {', '.join(INPUT_SPECS)}")
        return INPUT_SPECS[given]
    try:
        return InputSpec.from_dict(given)
    except ModelError as error:
        raise RecipeError(str(error)) from None


def _check_size(backbone: Backbone, spec: InputSpec) -> None:
    fixed, least = backbone.input_size, backbone.minimum_size
    if spec.size != fixed if fixed is not None else spec.size < least:
        size = f"{fixed} px" if fixed is not None else f"at least {least} px"
        raise RecipeError(f"input_spec: {backbone.name} takes crops of {size}; got {spec.size} px")


def _takes_dropout(backbone: Backbone) -> bool:
    return "keep_probability" in backbone.options


def freeze(backbone: nn.Module, patterns: list[str]) -> list[nn.Module]:
    """Freeze the parameters that match the patterns, and return the modules that are frozen completely.

    A pattern is the name of a module or parameter, in which `*` and `?` are wildcards: `conv2d_*`, `repeat.0`. Keep the
    returned modules in evaluation mode, or their statistics would still change. Raises `RecipeError` for a pattern
    without a match.
    """
    for pattern in patterns:
        matched = [
            parameter
            for name, parameter in backbone.named_parameters()
            if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}.*")
        ]
        if not matched:
            stages = ", ".join(name for name, _ in backbone.named_children())
            raise RecipeError(f"freeze: the network has no module or parameter {pattern!r}; its stages are {stages}")
        for parameter in matched:
            parameter.requires_grad_(False)
    if patterns and not any(parameter.requires_grad for parameter in backbone.parameters()):
        raise RecipeError(f"freeze: {', '.join(patterns)} would freeze the whole network; leave a part of it to train")
    return [
        module
        for module in backbone.modules()
        if any(True for _ in module.parameters()) and not any(p.requires_grad for p in module.parameters())
    ]


def parameter_groups(recipe: Recipe, backbone: Backbone, terms: Mapping[str, Loss]) -> list[dict[str, Any]]:
    """Return the trainable parameters in groups with `weight_decay` and `factor`, a multiplier of the learning rate.

    As in the FaceNet programs of 2018, weight decay applies to the weights of convolutions, dense layers and
    identities. It does not apply to biases, the parameters of batch norms, and the slopes of activations.
    """
    groups: list[dict[str, Any]] = []
    owners: list[tuple[nn.Module, float]] = [(backbone, recipe.backbone_learning_rate)]
    owners += [(term, 1.0) for term in terms.values()]
    for decays in (True, False):
        for module, factor in owners:
            parameters = [p for p in module.parameters() if p.requires_grad and (p.ndim > 1) == decays]
            if parameters:
                decay = recipe.weight_decay if decays else 0.0
                groups.append({"params": parameters, "weight_decay": decay, "factor": factor})
    return groups
