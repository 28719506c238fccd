"""The training loop: `train` is the loop itself, `_Run` sets up a run and computes, reports and saves its steps."""

from __future__ import annotations

import contextlib
import copy
import math
import signal
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facespace.datasets.opening import open_dataset
from facespace.embedding.collapse import collapse_remark
from facespace.errors import RecipeError, TrainingError
from facespace.models.folder import BEST, CHECKPOINTS, MODEL, is_model_folder, read_record
from facespace.training import (
    agreement,
    checkpoint,
    distributed,
    initial_model,
    optimizers,
    run_folder,
    setup,
    step as arithmetic,
)
from facespace.training.checkpoint import Checkpoint
from facespace.training.data_loading import Batch, TrainingImages, fingerprint, open_batches, standardized, stream_of
from facespace.training.guards import first_not_finite, is_out_of_memory
from facespace.training.interrupts import Interrupted, interrupts
from facespace.training.recipe import Recipe
from facespace.training.run_log import RunLog, describe
from facespace.training.state import Progress, restore, tensors, write_trained
from facespace.training.stopwatch import Stopwatch
from facespace.training.verification import Metrics, prepare

Show = Callable[[str, bool], None]  # a line, and whether the next line may replace it
_CHECKPOINT_SECONDS = 600  # at most this much is lost when a run is killed, however long its epochs are


@dataclass(frozen=True, slots=True)
class Trained:
    """Represents the result of training.

    `run` is the run's folder, `steps` the number of steps done, `measured` the last figures on each set of pairs, and
    `model` the folder of the trained model, or None.
    """

    run: Path
    steps: int
    measured: dict[str, Metrics] = field(default_factory=dict)
    model: Path | None = None


@dataclass(frozen=True, slots=True)
class _Step:
    """Represents a step that was computed; `number` counts from 1, `images` are those of its last micro-batch."""

    number: int
    epoch: int
    rate: float
    loss: float
    losses: dict[str, float]
    facts: dict[str, Any]
    gradient_norm: float
    images: Tensor
    ends_epoch: bool
    ends_run: bool
    due: bool  # whether the last checkpoint is older than `_CHECKPOINT_SECONDS`
    stopping: int  # the signal that a process received, or 0


def train(recipe: Recipe, run: Path, *, show: Show = lambda line, passing: None) -> Trained:  # noqa: ARG005
    """Train by a recipe into the folder `run`, or resume the run in that folder from its last checkpoint.

    A step depends on the recipe, the state before it and its number alone. So a run that is killed and started again
    ends with the same weights, bit for bit on a CPU. Under torchrun every process calls this. Raises `RecipeError`,
    `DatasetError`, `ModelError` or `TrainingError` if training cannot continue, and `Interrupted` after Ctrl-C or
    SIGTERM, when the step is saved.
    """
    with run_folder.report_full_disk(run), distributed.report_lost_processes():
        training = _Run(recipe, run, show)
        training.resume()
        with contextlib.closing(training), interrupts() as interrupted:
            if training.is_unverified:  # the run ended during verification
                training.verify()
            while training.has_steps_left:
                step = training.step(interrupted)
                if step is None:  # out of memory: compute the same step in smaller micro-batches
                    continue
                training.report(step)
                if step.ends_epoch:
                    training.check_data(step)
                if step.ends_epoch or step.due or step.stopping or _every(recipe.checkpoint_every, step.number):
                    training.save()
                if training.is_unverified:
                    training.verify()
                if step.ends_epoch or step.stopping:
                    training.watch.pause()
                if step.stopping and not step.ends_run:
                    raise Interrupted(step.stopping)
            training.finish()
    return Trained(run, training.progress.step, training.progress.measured, run / MODEL)


def _every(n: int, count: int) -> bool:
    """Return whether `count` is a multiple of `n`; an `n` of 0 means never."""
    return bool(n) and count % n == 0


class _Run:
    """A training run: everything that is set up from its recipe, and the state between two steps."""

    def __init__(self, recipe: Recipe, run: Path, show: Show) -> None:
        self.recipe, self.folder, self.show = recipe, run, show
        self.device = distributed.join(setup.device_of(recipe))
        self.is_chief = distributed.rank() == 0
        if self.device.type == "cpu":
            setup.keep_freed_memory()
        self._set_up_network()
        self._set_up_optimizer()
        self._set_up_steps()

    def _set_up_network(self) -> None:
        """Set up the data, the network and the losses."""
        recipe = self.recipe
        if not recipe.data:
            raise RecipeError("the recipe names no dataset; add data=DIR after it")
        self.images = TrainingImages(open_dataset(recipe.data), min_images=recipe.min_images_per_person)
        torch.manual_seed(recipe.seed)
        initial = initial_model.start(recipe, lambda spec: setup.sample(self.images, recipe, spec)[0])
        self.backbone, self.spec, self._remarks = initial.backbone, initial.spec, list(initial.remarks)
        self.terms, self.weights = setup.terms_of(recipe, self.backbone.dimension, len(self.images.names))
        self.frozen = initial_model.freeze(self.backbone, recipe.freeze)
        move: Any = self.backbone.to  # torch's type hints lack this form
        move(self.device, memory_format=torch.channels_last)
        for term in self.terms.values():
            term.to(self.device)

    def _set_up_optimizer(self) -> None:
        """Set up the optimiser, the moving average of the weights, and the lists of shared and sharded parameters."""
        recipe = self.recipe
        groups = initial_model.parameter_groups(recipe, self.backbone, self.terms)
        self.optimizer = optimizers.create(recipe.optimizer, groups, fused=self.device.type == "cuda")
        self.average = copy.deepcopy(self.backbone).eval() if recipe.ema else None
        self.trained = self.average if self.average is not None else self.backbone
        self.modules: dict[str, nn.Module] = {
            "backbone": self.backbone,
            **{f"loss.{name}": term for name, term in self.terms.items()},
        }
        if self.average is not None:
            self.modules["average"] = self.average
        parameters = {
            f"{owner}.{name}": p for owner, module in self.modules.items() for name, p in module.named_parameters()
        }
        self.parameters = parameters
        self.names = {id(p): name for name, p in parameters.items()}
        self.split = {
            f"loss.{name}.{part}"
            for name, term in self.terms.items()
            for part in term.sharded
            if distributed.n_ranks() > 1
        }
        self._sharded = [parameters[name] for name in sorted(self.split)]
        self._shared = [
            p for name, p in parameters.items() if name not in self.split and not name.startswith("average.")
        ]
        self._replicated_losses = [
            p for name, p in parameters.items() if name.startswith("loss.") and name not in self.split
        ]

    def _set_up_steps(self) -> None:
        """Set up the number of steps, their learning rates and their precision."""
        recipe = self.recipe
        self._stream = stream_of(self.images, images_per_person=recipe.images_per_person, seed=recipe.seed)
        self.epoch_size = recipe.epoch_size or -(-self._stream.length // recipe.batch_size)
        self.n_steps = self.epoch_size * recipe.n_epochs
        self.schedule = setup.schedule_of(recipe, self.epoch_size)
        self.precision = setup.precision_of(recipe, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision is torch.float16)
        self.network = setup.wrapped(self.backbone, recipe, self.device)
        self._figures_dtype = torch.float32 if self.device.type == "mps" else torch.float64  # MPS has no float64

    def resume(self) -> None:
        """Make the run's folder, or restore the state from its last checkpoint."""
        self.dataset = setup.record_of(self.recipe, self.images, self.spec)
        agreement.check_same_training(self.recipe, self.dataset, self.device)
        remarks = self._remarks
        if self.is_chief:
            facts = {"dataset": self.dataset, "input_spec": self.spec.as_dict()}
            remarks += run_folder.begin(self.folder, self.recipe, facts)
        agreement.check_shared_folder(self.folder, self.device)
        self.progress = Progress(accumulate=self.recipe.accumulate)
        if (latest := agreement.latest_checkpoint(self.folder / CHECKPOINTS, self.device)) is not None:
            saved = checkpoint.load(latest)
            self.progress.take(saved)
            restore(self.modules, saved.tensors)
            checkpoint.restore_optimizer(self.optimizer, self.names, saved.tensors)
            self.scaler.load_state_dict(self.progress.scaler)
            remarks.append(f"resumes after step {self.progress.step} of {self.n_steps}")
        for remark in remarks:
            self.show(remark, False)
        verifies = bool(self.recipe.verify_bin or self.recipe.verify_lfw)
        self._verifies = verifies
        self._verifier = prepare(self.recipe, self.spec) if self.is_chief and verifies else None
        self.log = RunLog(self.folder, step=self.progress.step, chief=self.is_chief)
        self.watch = Stopwatch(self.recipe.batch_size)
        self._batches = self._open_batches()
        self._failed: dict[str, str] = {}

    @property
    def has_steps_left(self) -> bool:
        """Whether there is another step to compute."""
        return self.progress.step < self.n_steps and self.schedule.at(self.progress.step) > 0

    def close(self) -> None:
        """End the processes that read images, and close the log.

        Workers that outlive this process print tracebacks, because its temporary folder is gone.
        """
        self._batches.close()
        self.log.close()

    def _open_batches(self) -> Generator[Batch]:
        """Open the batches of this process, from the next step on."""
        per_rank = self.progress.accumulate
        return open_batches(
            self.images,
            setup.augmentation_of(self.recipe, self.spec),
            self._stream,
            first=self.progress.step,
            end=self.n_steps,
            batch_size=self.recipe.batch_size,
            parts=range(distributed.rank() * per_rank, (distributed.rank() + 1) * per_rank),
            n_parts=setup.n_parts_of(self.recipe, self.progress.accumulate),
            workers=self.recipe.workers,
            seed=self.recipe.seed,
            pin=self.device.type == "cuda",
        )

    def step(self, interrupted: Callable[[], int]) -> _Step | None:
        """Compute one step. If memory runs out, halve the micro-batches and return None."""
        step, rate = self.progress.step, self.schedule.at(self.progress.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        for module in (self.backbone, *self.terms.values()):
            module.train()
        for module in self.frozen:
            module.eval()
        self.optimizer.zero_grad(set_to_none=True)
        try:
            figures, images, pixels, again = self._forward_and_backward(step)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            for term in self.terms.values():
                term.forget()
            setup.halve(self.recipe, self.progress, error)
            parts = self.progress.accumulate
            self.show(f"out of memory; from now on each step is computed in {parts} micro-batches", False)
            self._batches = self._open_batches()
            return None
        arithmetic.mean_over_ranks(self._replicated_losses)
        self.scaler.unscale_(self.optimizer)

        # All numbers are read at once, so a step waits for the device only once. All processes get the same numbers, so
        # they stop and save at the same step.
        norm = arithmetic.gradient_norm(self._shared, self._sharded)
        received, old = interrupted(), self.is_chief and self.watch.unsaved() >= _CHECKPOINT_SECONDS
        flags = torch.tensor(
            [received == signal.SIGTERM, received == signal.SIGINT, old], dtype=self._figures_dtype, device=self.device
        )
        means = distributed.summed(torch.cat([torch.stack(figures).mean(0), flags])) / distributed.n_ranks()
        *numbers, terminated, stopped, due, length = torch.cat([means, norm.to(self._figures_dtype)[None]]).tolist()
        n_parts = setup.n_parts_of(self.recipe, self.progress.accumulate)
        losses, facts = arithmetic.named(self.terms, numbers[1:], n_parts)
        if not math.isfinite(numbers[0]) or not (math.isfinite(length) or self.scaler.is_enabled()):
            what = "gradient" if math.isfinite(numbers[0]) else "loss"
            name = first_not_finite(self.backbone, self.terms, pixels, forward=again)
            raise TrainingError(
                f"step {step + 1}: the {what} is not finite; the first tensor that is not: {name or 'in another part'}; "
                "resume with a lower learning_rate or clip_norm=1"
            )
        if math.isfinite(length):
            arithmetic.clip(self.optimizer, length, self.recipe.clip_norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:  # the scale was too large for float16: skip this step
            self.scaler.update(self.scaler.get_scale() / 2)
        for term in self.terms.values():
            term.update()
        if self.average is not None:
            arithmetic.update_average(self.average, self.backbone, min(self.recipe.ema, (1 + step) / (10 + step)))
        self.progress.step = step + 1
        self.watch.did_step()
        return _Step(
            number=step + 1,
            epoch=step // self.epoch_size + 1,
            rate=rate,
            loss=numbers[0],
            losses=losses,
            facts=facts,
            gradient_norm=length,
            images=images,
            ends_epoch=(step + 1) % self.epoch_size == 0,
            ends_run=not self.has_steps_left,
            due=bool(due),
            stopping=signal.SIGTERM if terminated else signal.SIGINT if stopped else 0,
        )

    def _forward_and_backward(self, step: int) -> tuple[list[Tensor], Tensor, Tensor, Callable[[], Any]]:
        """Add up the gradients of all micro-batches.

        Returns the figures of each micro-batch. For the last micro-batch, it also returns the images, the pixels and a
        function that computes the losses again.
        """
        figures = []
        n_parts = self.progress.accumulate
        for k in range(n_parts):
            batch = self.watch.waiting(self._batches)
            self._failed.update(batch.failed)
            torch.manual_seed(arithmetic.seed_of(self.recipe.seed, step, distributed.rank() * n_parts + k))
            pixels = standardized(batch.images, self.spec, self.device)
            labels = batch.labels.to(self.device, non_blocking=True)
            with setup.without_averaging(self.network, k < n_parts - 1):
                total, values = arithmetic.losses_of(
                    self.network, self.terms, self.weights, pixels, labels, self.precision
                )
                self.scaler.scale(total / n_parts).backward()  # type: ignore[no-untyped-call]
            figures.append(torch.stack([value.detach().to(self._figures_dtype) for value in (total, *values)]))

        def again() -> Any:
            return arithmetic.losses_of(self.backbone, self.terms, self.weights, pixels, labels, self.precision)

        return figures, batch.images, pixels, again

    def report(self, step: _Step) -> None:
        """Log the step every `log_every` steps, and stop training if its figures show that it fails."""
        if _every(self.recipe.log_every, step.number) or step.ends_epoch or step.number == 1:
            row = {
                "step": step.number,
                "epoch": step.epoch,
                "learning_rate": step.rate,
                "total_loss": step.loss,
                "losses": step.losses,
                "facts": step.facts,
                "gradient_norm": step.gradient_norm,
                "regularization_loss": arithmetic.regularization(self.optimizer),
                **self.watch.lap(),
            }
            self.log.step(row)
            left = self.watch.left(self.n_steps - step.number)
            self.show(describe(row, n_steps=self.n_steps, seconds_left=left), not step.ends_epoch)
        if step.number == 1:
            self.log.crops(1, step.images.numpy())
        for name, about in step.facts.items():
            self.progress.guards.check(step.number, name, about)

    def check_data(self, step: _Step) -> None:
        """After an epoch, name the images that could not be read. Raises `TrainingError` if the dataset was edited."""
        if not self.is_chief:
            return
        for name, reason in self._failed.items():
            self.show(f"{name} was replaced by another image of the same person: {reason}", False)
        self._failed.clear()
        if fingerprint(self.images, self.dataset["sources"]) != self.dataset["fingerprint"]:
            raise TrainingError(
                f"epoch {step.epoch}: the dataset has changed since training began, files were added, removed or "
                f"replaced; restore it, then {run_folder.resume_hint(self.folder)}"
            )
        if self.recipe.histograms:
            self.log.histograms(step.number, self.modules)
        self.log.seconds(step.number, "total", self.watch.epoch())

    def save(self) -> None:
        """Write a checkpoint."""
        start = time.perf_counter()
        self.progress.scaler = self.scaler.state_dict()
        state = tensors(self.modules) | checkpoint.optimizer_tensors(self.optimizer, self.names)
        own = [name for name, t in state.items() if t.ndim and any(part in name for part in self.split)]
        folder = self.folder / CHECKPOINTS
        checkpoint.save(folder, Checkpoint(self.progress.step, state, self.progress.facts()), sharded=own)
        if self.is_chief:
            checkpoint.prune(folder, self.recipe.keep)
        self.log.seconds(self.progress.step, "save_variables", time.perf_counter() - start)
        self.watch.saved()

    @property
    def is_unverified(self) -> bool:
        """Whether an epoch has just ended after which the recipe's pairs still have to be measured."""
        epoch, left = divmod(self.progress.step, self.epoch_size)
        now = epoch and not left and (_every(self.recipe.verify_every, epoch) or not self.has_steps_left)
        return bool(now) and self._verifies and self.progress.verified < self.progress.step

    def verify(self) -> None:
        """Measure the network on the recipe's pairs, and keep the model with the best accuracy so far."""
        if self._verifier is not None:
            measured = self.progress.measured = self._verifier.measure(self.trained, self.device.type)
            self.log.verification(self.progress.step, self.progress.step // self.epoch_size, measured)
            self.show(_describe(measured), False)
            accuracy = float(np.mean([figures["accuracy"] for figures in measured.values()]))
            if accuracy > self.progress.best:
                self.progress.best = accuracy
                self._write_model(BEST, onnx=False)
        self.progress.verified = self.progress.step
        self.save()  # once more, with the figures just measured

    def finish(self) -> None:
        """Write the trained model, unless it is already there."""
        if self.is_chief and not _is_written(self.folder / MODEL, self.progress.step):
            crops, people = setup.sample(self.images, self.recipe, self.spec)
            embeddings = setup.embeddings(self.trained, crops, self.spec, self.device)
            self.log.embeddings(self.progress.step, embeddings, people, crops)
            self._write_model(MODEL, onnx=True)
            n_people = len(set(people))
            remark = collapse_remark(embeddings.numpy(), f"{len(crops)} training crops of {n_people} people")
            if remark and n_people > 1:
                self.show(f"{MODEL}: {remark}", False)
        distributed.wait()

    def _write_model(self, folder: str, *, onnx: bool) -> None:
        for remark in write_trained(
            self.folder / folder,
            self.trained,
            self.spec,
            name=self.folder.name,
            recipe=self.recipe,
            progress=self.progress,
            dataset=self.dataset,
            onnx=onnx,
        ):
            self.show(remark, False)


def _is_written(model: Path, step: int) -> bool:
    """Return whether the model folder contains the network as it was after `step` steps."""
    return is_model_folder(model) and read_record(model).training.get("steps") == step


def _describe(measured: dict[str, Metrics]) -> str:
    """Return the figures of all sets of pairs in one line."""
    parts = []
    for name, figures in measured.items():
        interval = figures["accuracy_interval"]
        bounds = "" if interval is None else " ({:.4f} to {:.4f})".format(*interval)  # type: ignore[misc]
        parts.append(f"{name}: accuracy {figures['accuracy']:.4f}{bounds}, AUC {figures['auc']:.4f}")
    return "; ".join(parts)
