"""The training loop, to be read from top to bottom."""

from __future__ import annotations

import contextlib
import copy
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from facespace import checkpoint, fine_tuning, optimizers, ranks, run_folder
from facespace import training_setup as setup
from facespace import training_step as arithmetic
from facespace.batches import Batch, TrainingImages, fingerprint, open_batches, standardized, stream_of
from facespace.checkpoint import Checkpoint
from facespace.datasets.opening import open_dataset
from facespace.errors import RecipeError, TrainingError
from facespace.guards import first_not_finite, is_out_of_memory
from facespace.model_folder import is_model_folder, read_record
from facespace.recipe import Recipe
from facespace.run_log import RunLog, describe
from facespace.training_state import Progress, restore, tensors, write_trained
from facespace.training_verification import Metrics, prepare

Show = Callable[[str, bool], None]  # a line, and whether the next may take its place


@dataclass(frozen=True, slots=True)
class Trained:
    """What training came to: the run's folder, steps done, the last figures on pairs, the model folder."""

    run: Path
    steps: int
    measured: dict[str, Metrics] = field(default_factory=dict)
    model: Path | None = None


def train(recipe: Recipe, run: Path, *, show: Show = lambda line, passing: None) -> Trained:  # noqa: ARG005
    """Train by a recipe into the folder `run`, or go on with the run that is there, from its last checkpoint.

    What a step computes is a function of the recipe, the state before it and its number: a run that is killed and
    started again ends in the same weights, to the bit on a processor. Under torchrun every process calls this. Raises
    `RecipeError`, `DatasetError`, `ModelError`, and `TrainingError` where training cannot go on.
    """
    device = ranks.join(setup.device_of(recipe))
    chief = ranks.rank() == 0
    if device.type == "cpu":
        setup.keep_freed_memory()

    # The data, the network, what is minimised, what moves it.
    if not recipe.data:
        raise RecipeError("the recipe names no dataset; put data=DIR behind it")
    images = TrainingImages(open_dataset(recipe.data), min_images=recipe.min_images_per_person)
    torch.manual_seed(recipe.seed)
    begun = fine_tuning.start(recipe, lambda spec: setup.sample(images, recipe, spec)[0])
    backbone, spec = begun.backbone, begun.spec
    terms, weights = setup.terms_of(recipe, backbone.dimension, len(images.names))
    frozen = fine_tuning.freeze(backbone, recipe.freeze)
    move: Any = backbone.to  # of whose forms mypy knows not this one
    move(device, memory_format=torch.channels_last)
    for term in terms.values():
        term.to(device)
    groups = fine_tuning.parameter_groups(recipe, backbone, terms)
    optimizer = optimizers.create(recipe.optimizer, groups, fused=device.type == "cuda")
    average = copy.deepcopy(backbone).eval() if recipe.ema else None
    trained = average if average is not None else backbone
    modules: dict[str, nn.Module] = {"backbone": backbone, **{f"loss.{name}": term for name, term in terms.items()}}
    if average is not None:
        modules["average"] = average
    parameters = {f"{owner}.{name}": p for owner, module in modules.items() for name, p in module.named_parameters()}
    names = {id(p): name for name, p in parameters.items()}
    split = {f"loss.{name}.{part}" for name, term in terms.items() for part in term.sharded if ranks.n_ranks() > 1}
    sharded = [parameters[name] for name in sorted(split)]
    shared = [p for name, p in parameters.items() if name not in split and not name.startswith("average.")]
    stream = stream_of(images, images_per_person=recipe.images_per_person, seed=recipe.seed)
    epoch_size = recipe.epoch_size or -(-stream.length // recipe.batch_size)
    n_steps = epoch_size * recipe.n_epochs
    schedule = setup.schedule_of(recipe, epoch_size)
    precision = setup.precision_of(recipe, device)
    scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)
    network = setup.wrapped(backbone, recipe, device)
    wide = torch.float32 if device.type == "mps" else torch.float64  # of the numbers one looks at

    # The run's folder, and the state that is in it.
    dataset = setup.record_of(recipe, images, spec)
    remarks = list(begun.remarks)
    if chief:
        remarks += run_folder.begin(run, recipe, {"dataset": dataset, "input_spec": spec.as_dict()})
    ranks.wait()
    progress = Progress(accumulate=recipe.accumulate)
    checkpoints = run / run_folder.CHECKPOINTS
    if (latest := checkpoint.latest(checkpoints)) is not None:
        saved = checkpoint.load(latest)
        progress.take(saved)
        restore(modules, saved.tensors)
        checkpoint.restore_optimizer(optimizer, names, saved.tensors)
        scaler.load_state_dict(progress.scaler)
        remarks.append(f"goes on after step {progress.step} of {n_steps}")
    for remark in remarks:
        show(remark, False)
    verifies = bool(recipe.verify_bin or recipe.verify_lfw)
    verifier = prepare(recipe, spec) if chief and verifies else None

    def open_from_here() -> Iterator[Batch]:
        per_rank = progress.accumulate
        return open_batches(
            images,
            setup.augmentation_of(recipe, spec),
            stream,
            first=progress.step,
            end=n_steps,
            batch_size=recipe.batch_size,
            parts=range(ranks.rank() * per_rank, (ranks.rank() + 1) * per_rank),
            n_parts=setup.n_parts_of(recipe, progress.accumulate),
            workers=recipe.workers,
            seed=recipe.seed,
            pin=device.type == "cuda",
        )

    def save() -> None:
        start = time.perf_counter()
        progress.scaler = scaler.state_dict()
        state = tensors(modules) | checkpoint.optimizer_tensors(optimizer, names)
        own = [name for name, t in state.items() if t.ndim and any(part in name for part in split)]
        checkpoint.save(checkpoints, Checkpoint(progress.step, state, progress.facts()), sharded=own)
        if chief:
            checkpoint.prune(checkpoints, recipe.keep)
        log.seconds(progress.step, "save_variables", time.perf_counter() - start)

    def write(folder: str, *, onnx: bool) -> None:
        for remark in write_trained(
            run / folder, trained, spec, name=run.name, recipe=recipe, progress=progress, dataset=dataset, onnx=onnx
        ):
            show(remark, False)

    log = RunLog(run, step=progress.step, chief=chief)
    watch = _Watch(recipe.batch_size)
    batches = open_from_here()
    failed: dict[str, str] = {}
    with contextlib.closing(log), _interrupts() as interrupted:
        while progress.step < n_steps and (rate := schedule.at(progress.step)) > 0:
            step, n_parts = progress.step, setup.n_parts_of(recipe, progress.accumulate)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            for module in (backbone, *terms.values()):
                module.train()
            for module in frozen:
                module.eval()

            # Forward and backward, one micro-batch after the other.
            optimizer.zero_grad(set_to_none=True)
            figures = []
            try:
                for k in range(progress.accumulate):
                    batch = watch.waiting(batches)
                    failed.update(batch.failed)
                    torch.manual_seed(arithmetic.seed_of(recipe.seed, step, ranks.rank() * progress.accumulate + k))
                    pixels = standardized(batch.images, spec, device)
                    labels = batch.labels.to(device, non_blocking=True)
                    with setup.without_averaging(network, k < progress.accumulate - 1):
                        total, values = arithmetic.losses_of(network, terms, weights, pixels, labels, precision)
                        scaler.scale(total / progress.accumulate).backward()  # type: ignore[no-untyped-call]
                    figures.append(torch.stack([value.detach().to(wide) for value in (total, *values)]))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                for term in terms.values():
                    term.forget()
                setup.halve(recipe, progress, error)
                show(f"memory was not enough; from now on in {progress.accumulate} parts a step, added up", False)
                batches = open_from_here()
                continue
            arithmetic.mean_over_ranks(
                p for name, p in parameters.items() if name.startswith("loss.") and name not in split
            )
            scaler.unscale_(optimizer)

            # One look at all numbers a step, which waits for the device once.
            norm = arithmetic.gradient_norm(shared, sharded)
            asked = torch.tensor([float(interrupted())], dtype=wide, device=device)
            means = ranks.summed(torch.cat([torch.stack(figures).mean(0), asked])) / ranks.n_ranks()
            *numbers, stopping, length = torch.cat([means, norm.to(wide)[None]]).tolist()
            losses, facts = arithmetic.named(terms, numbers[1:], n_parts)
            if not math.isfinite(numbers[0]) or not (math.isfinite(length) or scaler.is_enabled()):
                what = "gradient" if math.isfinite(numbers[0]) else "loss"
                name = first_not_finite(
                    backbone,
                    terms,
                    pixels,
                    forward=lambda: arithmetic.losses_of(backbone, terms, weights, pixels, labels, precision),  # noqa: B023
                )
                raise TrainingError(
                    f"step {step + 1}: the {what} is not finite; the first tensor that is not: {name or 'in another part'}; "
                    "go on with a lower learning_rate or clip_norm=1"
                )
            if math.isfinite(length):
                arithmetic.clip(optimizer, length, recipe.clip_norm)
                scaler.step(optimizer)
                scaler.update()
            else:  # float16, scaled by too much: this step is left out
                scaler.update(scaler.get_scale() / 2)
            for term in terms.values():
                term.update()
            if average is not None:
                arithmetic.follow(average, backbone, min(recipe.ema, (1 + step) / (10 + step)))
            progress.step = step + 1
            epoch, ends_epoch = step // epoch_size + 1, progress.step % epoch_size == 0
            ends_run = progress.step == n_steps or schedule.at(progress.step) <= 0
            watch.did_step()

            # What one sees, what is watched, what is kept.
            if progress.step % recipe.log_every == 0 or ends_epoch or step == 0:
                row = {
                    "step": progress.step,
                    "epoch": epoch,
                    "learning_rate": rate,
                    "total_loss": numbers[0],
                    "losses": losses,
                    "facts": facts,
                    "gradient_norm": length,
                    "regularization_loss": arithmetic.regularization(optimizer),
                    **watch.lap(),
                }
                log.step(row)
                show(describe(row, n_steps=n_steps, seconds_left=watch.left(n_steps - progress.step)), not ends_epoch)
            if step == 0:
                log.crops(1, batch.images.numpy())
            for name, about in facts.items():
                progress.guards.check(progress.step, name, about)
            if ends_epoch and chief:
                for name, reason in failed.items():
                    show(f"another image stood in for {name}: {reason}", False)
                failed.clear()
                if fingerprint(images, dataset["sources"]) != dataset["fingerprint"]:
                    raise TrainingError(
                        f"epoch {epoch}: the dataset is not what it was when training began, files were added, removed or "
                        "replaced; restore it and start the same command again"
                    )
                if recipe.histograms:
                    log.histograms(progress.step, modules)
                log.seconds(progress.step, "total", watch.epoch())
            if ends_epoch or stopping or (recipe.checkpoint_every and progress.step % recipe.checkpoint_every == 0):
                save()
            if ends_epoch and verifies and (epoch % recipe.verify_every == 0 or ends_run):
                if verifier is not None:
                    progress.measured = verifier.measure(trained, device.type)
                    log.verification(progress.step, epoch, progress.measured)
                    show(_said(progress.measured), False)
                    accuracy = float(np.mean([figures["accuracy"] for figures in progress.measured.values()]))
                    if accuracy > progress.best:
                        progress.best = accuracy
                        write(run_folder.BEST, onnx=False)
                save()  # once more: what was measured belongs to it
            if ends_epoch or stopping:
                watch.pause()
            if stopping and not ends_run:
                raise KeyboardInterrupt
        if chief and not _is_written(run / run_folder.MODEL, progress.step):
            crops, people = setup.sample(images, recipe, spec)
            log.embeddings(progress.step, setup.embeddings(trained, crops, spec, device), people, crops)
            write(run_folder.MODEL, onnx=True)
        ranks.wait()
    return Trained(run, progress.step, progress.measured, run / run_folder.MODEL)


def _is_written(model: Path, step: int) -> bool:
    """Whether the model folder holds the network as it was after so many steps."""
    return is_model_folder(model) and read_record(model).training.get("steps") == step


class _Watch:
    """How fast training goes, and how much of its time is spent waiting for images."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._start = self._epoch = self._lap = time.perf_counter()
        self._waited, self._steps = 0.0, 0
        self._seconds = 0.0  # a step takes, averaged over laps

    def waiting(self, batches: Iterator[Batch]) -> Batch:
        """The next batch, and note how long it took to come."""
        start = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - start
        return batch

    def did_step(self) -> None:
        """Count a step."""
        self._steps += 1

    def lap(self) -> dict[str, float]:
        """Figures since the last lap: `images_per_second`, `waiting` (share of time), `seconds` since the start."""
        now = time.perf_counter()
        elapsed = max(now - self._lap, 1e-9)
        figures = {
            "images_per_second": self._steps * self._batch_size / elapsed,
            "waiting": self._waited / elapsed,
            "seconds": now - self._start,
        }
        if self._steps:
            each = elapsed / self._steps
            self._seconds = each if not self._seconds else 0.7 * self._seconds + 0.3 * each
        self.pause()
        return figures

    def epoch(self) -> float:
        """Seconds since the last call."""
        start, self._epoch = self._epoch, time.perf_counter()
        return self._epoch - start

    def pause(self) -> None:
        """What went by since the last lap belongs to no step."""
        self._lap, self._waited, self._steps = time.perf_counter(), 0.0, 0

    def left(self, n_steps: int) -> float:
        """Seconds that so many steps will take."""
        return self._seconds * n_steps


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C or SIGTERM came: the step is finished and saved before training ends."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _frame: Any) -> None:
        came.append(number)
        if len(came) > 1:  # not waiting any longer
            raise KeyboardInterrupt

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _said(measured: dict[str, Metrics]) -> str:
    """Figures on pairs in one line."""
    parts = []
    for name, figures in measured.items():
        interval = figures["accuracy_interval"]
        bounds = "" if interval is None else " ({:.4f} to {:.4f})".format(*interval)  # type: ignore[misc]
        parts.append(f"{name}: accuracy {figures['accuracy']:.4f}{bounds}, AUC {figures['auc']:.4f}")
    return "; ".join(parts)
