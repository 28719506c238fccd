"""Builds the parts of a run from its recipe: device, losses, schedule, micro-batches, the record of the dataset."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from facespace.backbones.backbone import Backbone
from facespace.datasets.opening import paths_of
from facespace.embedding.embedder import Embedder
from facespace.errors import DatasetError, ImageError, RecipeError, TrainingError
from facespace.faces.crops import read_record
from facespace.faces.input_spec import InputSpec
from facespace.io.text import first_line
from facespace.runtime.torch_network import TorchNetwork, check_device
from facespace.training import distributed, schedules
from facespace.training.augmentation import Augmentation
from facespace.training.data_loading import TrainingImages, fingerprint
from facespace.training.losses.loss import Loss, create as create_loss
from facespace.training.recipe import Recipe
from facespace.training.state import Progress

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of malloc.h
_N_SAMPLE = 256  # training crops for statistics of batch norms and for the projector


def device_of(recipe: Recipe) -> str:
    """Return the recipe's device; `auto` is a GPU if there is one. Raises `RuntimeUnavailable` if it is missing."""
    if recipe.device != "auto":
        check_device(recipe.device)
        return recipe.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def keep_freed_memory() -> None:
    """Make glibc keep freed memory: returning it and getting zeroed pages again in every step costs time."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, 2**30)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def precision_of(recipe: Recipe, device: torch.device) -> torch.dtype:
    """Return the precision in which the network computes; `auto` is bfloat16 on a GPU that has it, else float32."""
    if recipe.precision != "auto":
        chosen: torch.dtype = getattr(torch, recipe.precision)
        return chosen
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


def terms_of(recipe: Recipe, dimension: int, n_classes: int) -> tuple[dict[str, Loss], dict[str, float]]:
    """Return the losses of a recipe by name, and their weights. A repeated name gets its position appended: center-2."""
    terms: dict[str, Loss] = {}
    weights: dict[str, float] = {}
    for entry in recipe.losses:
        name = entry.name if entry.name not in terms else f"{entry.name}-{len(terms) + 1}"
        try:
            terms[name] = create_loss(entry.name, dimension=dimension, n_classes=n_classes, **entry.options)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"losses: {error}") from None
        weights[name] = entry.weight
        if entry.name == "triplet" and recipe.images_per_person < 2:
            raise RecipeError(
                f"losses: images_per_person must be at least 2 for triplets, got {recipe.images_per_person}; "
                "without it a batch has no two images of a person"
            )
        terms[name].deferred = True
    return terms, weights


def schedule_of(recipe: Recipe, epoch_size: int) -> schedules.Schedule:
    """Return the learning-rate schedule of a recipe. Raises `RecipeError` if it is not valid."""
    named = recipe.schedule in schedules.KINDS
    try:
        return schedules.Schedule(
            epoch_size=epoch_size,
            n_epochs=recipe.n_epochs,
            learning_rate=recipe.learning_rate,
            kind=recipe.schedule if named else "step",  # type: ignore[arg-type]
            table=() if named else schedules.read_table(recipe.schedule),
            decay_epochs=recipe.decay_epochs,
            decay_factor=recipe.decay_factor,
            warmup_epochs=recipe.warmup_epochs,
        )
    except (ValueError, DatasetError) as error:
        raise RecipeError(
            f"schedule: {error}; give a table of epochs and rates, a file of one, or one of {', '.join(schedules.KINDS)}"
        ) from None


def augmentation_of(recipe: Recipe, spec: InputSpec) -> Augmentation:
    """Return the augmentation of a recipe."""
    return Augmentation(
        spec.size,
        crop_size=recipe.crop_size,
        crop=recipe.crop,
        rotate=recipe.rotate,
        flip=recipe.flip,
        color=recipe.color,
        low_resolution=recipe.low_resolution,
        occlusion=recipe.occlusion,
        mask=recipe.mask,
    )


def n_parts_of(recipe: Recipe, accumulate: int) -> int:
    """Return the number of micro-batches a step over all ranks. Raises `RecipeError` if they cannot have equal sizes."""
    n_parts = distributed.n_ranks() * accumulate
    if recipe.batch_size % n_parts or recipe.batch_size < 2 * n_parts:
        raise RecipeError(
            f"batch_size must be a multiple of {n_parts} ({distributed.n_ranks()} processes, {accumulate} micro-batches each) "
            f"with at least two images per micro-batch, got {recipe.batch_size}"
        )
    return n_parts


def halve(recipe: Recipe, progress: Progress, error: BaseException) -> None:
    """Halve the size of micro-batches and double their number, because those of this step did not fit into memory.

    The new number applies from this step on.
    """
    size = recipe.batch_size // n_parts_of(recipe, progress.accumulate)
    if distributed.n_ranks() > 1 or size % 2 or size < 4:
        raise TrainingError(
            f"step {progress.step + 1}: not enough memory for {size} images at once ({first_line(error)}); "
            "use a smaller batch_size or a larger accumulate"
        ) from None
    progress.accumulate *= 2
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def wrapped(backbone: nn.Module, recipe: Recipe, device: torch.device) -> nn.Module:
    """Return the backbone for the training step: compiled if the recipe says so, in DDP if there are several ranks."""
    network = backbone
    if recipe.compile:
        network = torch.compile(network)  # type: ignore[assignment]
    if distributed.n_ranks() > 1:
        places = [device.index] if device.type == "cuda" else None
        network = nn.parallel.DistributedDataParallel(network, device_ids=places, gradient_as_bucket_view=True)
    return network


def without_averaging(network: nn.Module, alone: bool) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which gradients are not averaged over ranks if `alone`.

    A step averages them only in its last micro-batch.
    """
    if alone and isinstance(network, nn.parallel.DistributedDataParallel):
        return network.no_sync()
    return contextlib.nullcontext()


def record_of(recipe: Recipe, images: TrainingImages, spec: InputSpec) -> dict[str, Any]:
    """Return the dataset's entry of `run.json`. Raises `RecipeError` if its crops were made for another kind of network."""
    sources = paths_of(recipe.data)
    for source in sources:
        crops = read_record(Path(source)) if Path(source).is_dir() else None
        if crops is not None and crops.template != spec.template:
            raise RecipeError(
                f"{source}: its crops are {crops.template} crops, the network takes {spec.template} crops "
                f"(input_spec); make them with facespace align --template {spec.template}"
            )
    return {
        "sources": sources,
        "fingerprint": fingerprint(images, sources),
        "n_images": len(images),
        "n_people": len(images.names),
        "n_people_left_out": images.n_left_out,
    }


def sample(images: TrainingImages, recipe: Recipe, spec: InputSpec) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Return at most 256 training crops (N,S,S,3), evenly spaced in the dataset and cut from the middle, and their names."""
    cut = Augmentation(spec.size, crop_size=recipe.crop_size)
    crops, names = [], []
    for number in np.linspace(0, len(images) - 1, min(_N_SAMPLE, len(images))).astype(int):
        try:
            stored = images.dataset.read(int(images.kept[number]))
        except ImageError:
            continue  # reported when training reads it
        crops.append(cut.apply(stored, np.random.default_rng(0)))
        names.append(images.names[int(images.labels[number])])
    if not crops:
        raise TrainingError("none of the dataset's images can be read; run facespace dataset check to see why")
    return np.stack(crops), names


def embeddings(backbone: Backbone, crops: npt.NDArray[np.uint8], spec: InputSpec, device: torch.device) -> Tensor:
    """Return the embeddings (N,D) of crops (N,S,S,3). The network is left in evaluation mode."""
    network = TorchNetwork(backbone, device=device.type)
    return torch.from_numpy(Embedder(network, name="training", spec=spec, fingerprint="").embed(crops))
