"""What a recipe's words come to: devices, terms, schedules, micro-batches, the record of a dataset."""

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
    """Where a recipe trains: `auto` is a GPU where there is one. `RuntimeUnavailable` for one that is not there."""
    if recipe.device != "auto":
        check_device(recipe.device)
        return recipe.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def keep_freed_memory() -> None:
    """Let glibc keep what is freed: giving it back and having it zeroed anew, step by step, takes its time."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, 2**30)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def precision_of(recipe: Recipe, device: torch.device) -> torch.dtype:
    """What the network computes in: `auto` is bfloat16 on a GPU that has it, float32 elsewhere."""
    if recipe.precision != "auto":
        chosen: torch.dtype = getattr(torch, recipe.precision)
        return chosen
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


def terms_of(recipe: Recipe, dimension: int, n_classes: int) -> tuple[dict[str, Loss], dict[str, float]]:
    """The losses of a recipe by name, and their weights; a second one of a name has its place added to it."""
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
                "losses: triplets want images_per_person of at least 2, so that a batch has pairs of one person; "
                f"got {recipe.images_per_person}"
            )
        terms[name].deferred = True
    return terms, weights


def schedule_of(recipe: Recipe, epoch_size: int) -> schedules.Schedule:
    """The learning rate of every step."""
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
            f"schedule: {error}; wanted is a table of epochs and rates, a file of one, or one of {', '.join(schedules.KINDS)}"
        ) from None


def augmentation_of(recipe: Recipe, spec: InputSpec) -> Augmentation:
    """What becomes of a stored crop."""
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
    """Micro-batches a step over all ranks, which must be of one size."""
    n_parts = distributed.n_ranks() * accumulate
    if recipe.batch_size % n_parts or recipe.batch_size < 2 * n_parts:
        raise RecipeError(
            f"batch_size wants a multiple of {n_parts} ({distributed.n_ranks()} processes, {accumulate} parts each), at least two "
            f"images a part; got {recipe.batch_size}"
        )
    return n_parts


def halve(recipe: Recipe, progress: Progress, error: BaseException) -> None:
    """Twice as many micro-batches of half the size, from the step that did not fit on."""
    size = recipe.batch_size // n_parts_of(recipe, progress.accumulate)
    if distributed.n_ranks() > 1 or size % 2 or size < 4:
        raise TrainingError(
            f"step {progress.step + 1}: memory is not enough for {size} images at once ({first_line(error)}); "
            "take a smaller batch_size or a larger accumulate"
        ) from None
    progress.accumulate *= 2
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def wrapped(backbone: nn.Module, recipe: Recipe, device: torch.device) -> nn.Module:
    """The backbone as it is called in training: compiled on request, its gradients averaged over ranks."""
    network = backbone
    if recipe.compile:
        network = torch.compile(network)  # type: ignore[assignment]
    if distributed.n_ranks() > 1:
        places = [device.index] if device.type == "cuda" else None
        network = nn.parallel.DistributedDataParallel(network, device_ids=places, gradient_as_bucket_view=True)
    return network


def without_averaging(network: nn.Module, alone: bool) -> contextlib.AbstractContextManager[Any]:
    """Gradients are averaged over ranks with the last micro-batch of a step only."""
    if alone and isinstance(network, nn.parallel.DistributedDataParallel):
        return network.no_sync()
    return contextlib.nullcontext()


def record_of(recipe: Recipe, images: TrainingImages, spec: InputSpec) -> dict[str, Any]:
    """What `run.json` says of the dataset; `RecipeError` where its crops were made for another kind of network."""
    sources = paths_of(recipe.data)
    for source in sources:
        crops = read_record(Path(source)) if Path(source).is_dir() else None
        if crops is not None and crops.template != spec.template:
            raise RecipeError(
                f"{source}: its crops are {crops.template} crops, the network is to see {spec.template} crops "
                f"(input_spec); facespace align --template {spec.template} makes them"
            )
    return {
        "sources": sources,
        "fingerprint": fingerprint(images, sources),
        "n_images": len(images),
        "n_people": len(images.names),
        "n_people_left_out": images.n_left_out,
    }


def sample(images: TrainingImages, recipe: Recipe, spec: InputSpec) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """At most 256 training crops (N,S,S,3), cut from the middle and evenly spread, and whose they are."""
    cut = Augmentation(spec.size, crop_size=recipe.crop_size)
    crops, names = [], []
    for number in np.linspace(0, len(images) - 1, min(_N_SAMPLE, len(images))).astype(int):
        try:
            stored = images.dataset.read(int(images.kept[number]))
        except ImageError:
            continue  # told when its turn comes in training
        crops.append(cut.apply(stored, np.random.default_rng(0)))
        names.append(images.names[int(images.labels[number])])
    if not crops:
        raise TrainingError("none of the dataset's images can be read; facespace dataset check says why")
    return np.stack(crops), names


def embeddings(backbone: Backbone, crops: npt.NDArray[np.uint8], spec: InputSpec, device: torch.device) -> Tensor:
    """Unit vectors (N,D) of crops (N,S,S,3); the network is left in inference."""
    network = TorchNetwork(backbone, device=device.type)
    return torch.from_numpy(Embedder(network, name="training", spec=spec, fingerprint="").embed(crops))
