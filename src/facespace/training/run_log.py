"""The log of a training run: TensorBoard, `metrics.jsonl`, and one line for the terminal."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from facespace.errors import RuntimeUnavailable
from facespace.io import pictures
from facespace.io.text import plain_text
from facespace.models.folder import METRICS
from facespace.training.run_folder import rewind_metrics

if TYPE_CHECKING:
    from torch import Tensor, nn

_DECAY = 0.9  # of the moving averages that the 2018 programs show in addition to raw losses
_SAMPLES = 32
_PREVIEW = "crops.png"


class RunLog:
    """Writer of a run's log. When a run is resumed at `step`, lines logged after that step are removed.

    TensorBoard's tags are those of the 2018 programs (`total_loss`, `cross_entropy`, `learning_rate`, `lfw/accuracy`,
    `time/…`), and `loss/TERM`, `TERM/FACT`, `gradient_norm`. If `chief` is False, nothing is written, so that only one
    process of a run writes the log.
    """

    def __init__(self, run: Path, *, step: int, chief: bool = True) -> None:
        self._run = run
        self._averages: dict[str, float] = {}
        self._writer: Any = None
        if not chief:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise RuntimeUnavailable(
                "training logs to TensorBoard, which is not installed; pip install 'facespace[train]'"
            ) from None
        rewind_metrics(run, step)
        self._hook, threading.excepthook = threading.excepthook, self._thread_failed
        # Also at step 0: a run may have been killed before its first checkpoint.
        self._writer = SummaryWriter(str(run), purge_step=step + 1)

    def step(self, row: Mapping[str, Any]) -> None:
        """Log the figures of a training step: `step`, `epoch`, `learning_rate`, `total_loss`, `losses`, `facts`, …"""
        self._line(row)
        if self._writer is None:
            return
        step = row["step"]
        for tag, value in (("total_loss", row["total_loss"]), *row["losses"].items()):
            self._averages[tag] = _DECAY * self._averages.get(tag, value) + (1 - _DECAY) * value
        self._scalar("total_loss", self._averages["total_loss"], step)
        self._scalar("total_loss_raw", row["total_loss"], step)
        for name, value in row["losses"].items():
            self._scalar(f"loss/{name}", value, step)
        for name, facts in row["facts"].items():
            if any(fact.startswith("accuracy") for fact in facts):  # the classifier
                self._scalar("cross_entropy", self._averages[name], step)
                self._scalar("cross_entropy_raw", row["losses"][name], step)
            for fact, value in facts.items():
                self._scalar(f"{name}/{fact}", value, step)
        for tag in ("learning_rate", "gradient_norm", "regularization_loss", "images_per_second"):
            self._scalar(tag, row[tag], step)
        self._scalar("time/waiting_share", row["waiting"], step)

    def verification(self, step: int, epoch: int, measured: Mapping[str, Mapping[str, Any]]) -> None:
        """Log the verification figures of each set of pairs."""
        self._line({"step": step, "epoch": epoch, "verification": measured})
        for name, figures in measured.items():
            for tag in ("accuracy", "val_rate", "auc", "eer"):
                if figures[tag] is not None:
                    self._scalar(f"{name}/{tag}", figures[tag], step)
            self._scalar(f"time/{name}", figures["seconds"], step)

    def seconds(self, step: int, what: str, value: float) -> None:
        """Log how long something took, as `time/WHAT`."""
        self._scalar(f"time/{what}", value, step)

    def crops(self, step: int, images: npt.NDArray[np.uint8]) -> None:
        """Log crops (n,S,S,3) as the network sees them: in TensorBoard, and as `crops.png` in the run's folder."""
        if self._writer is None or not len(images):
            return
        sheet = _sheet(images[:_SAMPLES])
        self._writer.add_image("crops", sheet, step, dataformats="HWC")
        pictures.save(Image.fromarray(sheet), self._run / _PREVIEW, "PNG")

    def histograms(self, step: int, modules: Mapping[str, nn.Module]) -> None:
        """Log a histogram of every parameter."""
        if self._writer is not None:
            for owner, module in modules.items():
                for name, parameter in module.named_parameters():
                    self._writer.add_histogram(f"{owner}/{name}", parameter.detach().float().cpu(), step)

    def embeddings(self, step: int, vectors: Tensor, names: Sequence[str], crops: npt.NDArray[np.uint8]) -> None:
        """Log embeddings (n,D) with names and crops for TensorBoard's projector."""
        if self._writer is not None and len(vectors) > 1:
            import torch

            thumbnails = torch.from_numpy(crops[:, ::2, ::2].copy()).permute(0, 3, 1, 2).float() / 255
            rows = [plain_text(name) for name in names]  # the projector's file has one line a name
            self._writer.add_embedding(vectors, metadata=rows, label_img=thumbnails, global_step=step)

    def close(self) -> None:
        """Flush and close the log."""
        if self._writer is not None:
            try:
                self._writer.close()
            finally:
                threading.excepthook = self._hook

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """Suppress the traceback of TensorBoard's thread; its error is raised again by the next write."""
        if not type(failure.thread).__module__.startswith("tensorboard."):
            self._hook(failure)

    def _scalar(self, tag: str, value: float, step: int) -> None:
        if self._writer is not None:
            self._writer.add_scalar(tag, value, step)

    def _line(self, row: Mapping[str, Any]) -> None:
        if self._writer is not None:
            with (self._run / METRICS).open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")


def _sheet(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    columns = min(8, len(images))
    rows = -(-len(images) // columns)
    n, side = len(images), images.shape[1]
    padded = np.zeros((rows * columns, side, side, 3), np.uint8)
    padded[:n] = images
    sheet: npt.NDArray[np.uint8] = padded.reshape(rows, columns, side, side, 3).swapaxes(1, 2)
    return sheet.reshape(rows * side, columns * side, 3)


def describe(row: Mapping[str, Any], *, n_steps: int, seconds_left: float) -> str:
    """Return the line that the terminal shows for a step.

    >>> row = {"step": 20, "epoch": 1, "total_loss": 5.1, "losses": {"softmax": 5.0, "center": 0.1}, "learning_rate": 0.05,
    ...        "facts": {"softmax": {"accuracy": 0.5}}, "images_per_second": 31.2, "waiting": 0.01}
    >>> describe(row, n_steps=100, seconds_left=125)
    'step 20/100 epoch 1: loss 5.1000 (softmax 5.0000, center 0.1000), accuracy 50.0 %, 31 images/s, waiting 1 %, rate 0.05, 2:05 left'
    """
    losses = row["losses"]
    parts = f" ({', '.join(f'{name} {value:.4f}' for name, value in losses.items())})" if len(losses) > 1 else ""
    shares = [
        f"{fact.replace('_', ' ')} {value:.1%}".replace("%", " %")
        for facts in row["facts"].values()
        for fact, value in facts.items()
        if fact.startswith(("accuracy", "active"))
    ]
    minutes, seconds = divmod(round(seconds_left), 60)
    hours, minutes = divmod(minutes, 60)
    left = f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
    return ", ".join(
        [
            f"step {row['step']}/{n_steps} epoch {row['epoch']}: loss {row['total_loss']:.4f}{parts}",
            *shares,
            f"{row['images_per_second']:.0f} images/s",
            f"waiting {row['waiting']:.0%}".replace("%", " %"),
            f"rate {row['learning_rate']:.4g}",
            f"{left} left",
        ]
    )
