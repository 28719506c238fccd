"""facespace tiny train: ResNet-50 with ArcFace on a TFRecord file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from facespace.cli.legacy.arguments import Program, say_equivalent
from facespace.cli.shared.output import say, write_line
from facespace.errors import RecipeError
from facespace.io.text import plain_text

NETWORK = "resnet50"
RATES = [0.001, 0.0005, 0.0003, 0.0001]
_EVERY = 100  # steps after which the state is saved and a line is shown
_DROPS = (40_000, 60_000, 80_000)  # steps of 512 images after which the learning rate drops


def main(argv: list[str]) -> None:
    """Train with the recipe that the flags describe. `_steps` explains when the learning rate drops."""
    parser = Program("tiny train", "Train ResNet-50 with ArcFace (margin 0.5, scale 64).")
    parser.add_argument("--tfrecords", required=True, help="tran.tfrecords, or a dataset in any supported format.")
    parser.flags(
        ("--batch_size", 64, "Images per batch."),
        ("--num_classes", 85742, "Number of people; the number in the file is used if it differs."),
        ("--epoch", 10_000, "Number of passes over the data."),
    )
    parser.add_argument(
        "--lr",
        nargs="+",
        default=[str(RATES)],
        help="Four learning rates as a list, which may contain spaces without quotes.",
    )
    parser.add_argument("--ckpt_save_dir", required=True, help="The folder of the run.")
    arguments = parser.parse(argv)
    rates = rates_of(arguments.lr)

    from facespace.formats.torch_files import require_torch

    require_torch("training")
    from facespace.cli.legacy.recipes import as_recipe, command_of
    from facespace.cli.train import train_and_show
    from facespace.datasets.opening import open_dataset

    data, run = os.path.expanduser(arguments.tfrecords), Path(arguments.ckpt_save_dir).expanduser()
    images = open_dataset(data)
    n_people = len(set(images.labels.tolist()))
    if n_people != arguments.num_classes:
        say(f"--num_classes {arguments.num_classes}: ignored because {plain_text(data)} contains {n_people} people")
    if arguments.batch_size < 2 or arguments.epoch < 1:
        raise RecipeError("--batch_size must be at least 2 and --epoch at least 1")
    keys = {
        "data": data,
        "backbone": NETWORK,
        "dimension": 512,
        "input_spec": _spec(),
        "crop": "center",
        "flip": True,
        "batch_size": arguments.batch_size,
        **_steps(arguments.epoch * -(-len(images) // arguments.batch_size), arguments.batch_size, rates),
        "optimizer": "sgd",
        "log_every": _EVERY,
        "losses": [{"name": "arcface", "margin": 0.5, "scale": 64.0}],
    }
    recipe = as_recipe(keys, "tiny train")
    say_equivalent(*command_of(recipe, run))
    write_line("-------------Training Args-----------------")
    for name in ("tfrecords", "batch_size", "num_classes", "ckpt_save_dir"):
        write_line(f"--{name:<18}:   {plain_text(str(getattr(arguments, name)))}")
    write_line(f"--{'lr':<18}:   {rates}")
    write_line("-------------------------------------------")
    train_and_show(recipe, run)


def rates_of(words: list[str]) -> list[float]:
    """Parse a list of four learning rates, which a shell may have split at spaces. One rate is used four times.

    >>> rates_of(["[0.001,", "0.0005,", "0.0003,", "0.0001]"]), rates_of(["0.1"])
    ([0.001, 0.0005, 0.0003, 0.0001], [0.1, 0.1, 0.1, 0.1])
    """
    parts = [part for part in re.split(r"[\s,]+", " ".join(words).strip().strip("[]()")) if part]
    try:
        rates = [float(part) for part in parts]
    except ValueError:
        rates = []
    if len(rates) not in (1, len(RATES)) or not all(0 < rate < float("inf") for rate in rates):
        raise RecipeError(f"--lr must be {len(RATES)} numbers above 0, such as {RATES}, got {' '.join(words)}")
    return rates * len(RATES) if len(rates) == 1 else rates


def _steps(n_steps: int, batch_size: int, rates: list[float]) -> dict[str, Any]:
    """Return the recipe's keys `epoch_size`, `n_epochs` and `schedule` for `n_steps` steps.

    An epoch has 100 steps, because a checkpoint is saved after every epoch. The learning rate drops after 40,000,
    60,000 and 80,000 steps of 512 images; with smaller batches, after proportionally more steps. The old program
    counted every step twice, so its rate dropped after half as many steps.
    """
    each = min(_EVERY, n_steps)
    factor = max(512 // batch_size, 1)
    epochs = [1, *(factor * drop // each + 1 for drop in _DROPS)]
    table = ", ".join(f"{epoch}: {rate!r}" for epoch, rate in zip(epochs, rates, strict=True))
    return {"epoch_size": each, "n_epochs": -(-n_steps // each), "schedule": table}


def _spec() -> dict[str, Any]:
    from facespace.models.spec_inference import TINY_SPEC

    return TINY_SPEC.as_dict()
