"""The common parts of the two FaceNet trainers: flags, recipe keys, and the folders of the run and its model."""

from __future__ import annotations

import argparse
import os
import shutil
import time
from pathlib import Path
from typing import Any

from facespace.cli.legacy import learning_rates, lfw, lfw_recipe_keys
from facespace.cli.legacy.arguments import Program, say_equivalent
from facespace.cli.legacy.data_dirs import datasets_of
from facespace.cli.legacy.recipes import as_recipe, command_of
from facespace.cli.shared.output import say, write_line
from facespace.errors import RecipeError
from facespace.io.text import plain_text

NETWORKS = {
    "models.inception_resnet_v1": "inception-resnet-v1",
    "models.inception_resnet_v2": "inception-resnet-v2",
    "models.squeezenet": "squeezenet",
}
_DATA = "~/datasets/casia/casia_maxpy_mtcnnalign_182_160"
_STAMP = "%Y%m%d-%H%M%S"
# Training cuts 160 px out of crops of 182 px with a margin of 44 px: about the same as crops of 160 px with this margin.
_MARGIN = 32


def common_flags(parser: Program, *, batch_size: str = "Images per batch.") -> None:
    """Add the flags that both trainers have. `batch_size` is the help text of `--batch_size`."""
    parser.flags(
        ("--gpu_memory_fraction", 1.0, "Largest share of the memory of a CUDA GPU to use, from 0 to 1."),
        ("--logs_base_dir", "~/logs/facenet", "The parent of the run's folder; give it to tensorboard --logdir."),
        ("--models_base_dir", "~/models/facenet", "The parent of the model's folder, which is named like the run."),
        ("--pretrained_model", "", "A model to start from; its own preprocessing is used."),
        ("--model_def", "models.inception_resnet_v1", f"The network: {', '.join(NETWORKS)}."),
        ("--max_nrof_epochs", 500, "Number of epochs."),
        ("--batch_size", 90, batch_size),
        ("--image_size", 160, "Side of the network's input, in pixels."),
        ("--epoch_size", 1000, "Batches per epoch."),
        ("--embedding_size", 128, "Dimension of the embeddings."),
        ("--keep_probability", 1.0, "Probability that dropout keeps a value."),
        ("--weight_decay", 0.0, "Weight decay of convolutional and fully connected layers."),
        ("--learning_rate", 0.1, "Constant learning rate; 0 or less uses the schedule file."),
        ("--learning_rate_decay_epochs", 100, "Epochs between two decays of the learning rate."),
        ("--learning_rate_decay_factor", 1.0, "Factor of each decay of the learning rate."),
        ("--moving_average_decay", 0.9999, "Decay of the moving average of the weights, which is verified and saved."),
        ("--seed", 666, "Random seed."),
        (
            "--learning_rate_schedule_file",
            learning_rates.DEFAULT_FILE,
            "A file with lines `epoch: rate`; a rate of -1 ends training.",
        ),
        ("--lfw_pairs", lfw.DEFAULT_PAIRS, "The list of pairs, as LFW's pairs.txt."),
        ("--lfw_dir", "", "Aligned crops of LFW, to verify on after every epoch."),
        ("--lfw_nrof_folds", 10, "Number of cross-validation folds."),
    )
    parser.repeated("--data_dir", _DATA, "Class folders of crops; join several as A:B, or repeat the flag.")
    parser.add_argument(
        "--optimizer", choices=["ADAGRAD", "ADADELTA", "ADAM", "RMSPROP", "MOM"], default="ADAGRAD", help="The optimizer."
    )  # fmt: skip
    parser.flag("--random_crop", "Cut the input at a random position of a crop, instead of its centre.")
    parser.flag("--random_flip", "Mirror images with a probability of 0.5.")


def common_keys(arguments: argparse.Namespace, *, fixed: bool) -> dict[str, Any]:
    """Return the recipe's keys from the common flags.

    With `fixed`, images are standardised with constants instead of each image's own mean and deviation.
    """
    if arguments.model_def not in NETWORKS:
        raise RecipeError(
            f"--model_def must be one of {', '.join(NETWORKS)}, got {plain_text(arguments.model_def)}; train others with "
            "facespace train"
        )
    spec: Any = "facenet-2018" if fixed else "facenet-2017"
    if arguments.image_size != 160:
        kind = "fixed" if fixed else "per-image"
        spec = {"size": arguments.image_size, "template": "box", "crop_margin": _MARGIN, "standardization": kind}
    given = arguments.data_dir if isinstance(arguments.data_dir, list) else [arguments.data_dir]
    data = [path for joined in given for path in datasets_of(joined)]
    return {
        "data": data[0] if len(data) == 1 else data,
        "backbone": NETWORKS[arguments.model_def],
        "dimension": arguments.embedding_size,
        "keep_probability": arguments.keep_probability,
        "input_spec": spec,
        "crop": "random" if arguments.random_crop else "center",
        "flip": arguments.random_flip,
        "n_epochs": arguments.max_nrof_epochs,
        "epoch_size": arguments.epoch_size,
        "optimizer": arguments.optimizer.lower(),
        **learning_rates.keys_of(
            arguments.learning_rate,
            arguments.learning_rate_schedule_file,
            arguments.learning_rate_decay_epochs,
            arguments.learning_rate_decay_factor,
        ),
        "weight_decay": arguments.weight_decay,
        "ema": arguments.moving_average_decay,
        "seed": arguments.seed,
    }


def train(arguments: argparse.Namespace, keys: dict[str, Any], program: str) -> None:
    """Train in a new folder named after the current time, and copy the model to where the old trainers put it."""
    logs, models = (Path(os.path.expanduser(given)) for given in (arguments.logs_base_dir, arguments.models_base_dir))
    stamp = _free_stamp(logs, models)
    run, out = logs / stamp, models / stamp
    if arguments.lfw_dir:
        keys |= lfw_recipe_keys.keys_of(arguments, logs / f"{stamp}-pairs.csv")
    as_recipe(keys, program)  # checked before a pretrained model is opened, which is slow
    if arguments.pretrained_model:
        from facespace.models.opening import open_model

        open_model(arguments.pretrained_model)  # so that a bad model is reported before anything is written
        keys["init"] = arguments.pretrained_model
    recipe = as_recipe(keys, program)
    say_equivalent(*command_of(recipe, run))

    from facespace.cli.train import train_and_show

    _cap_gpu_memory(arguments.gpu_memory_fraction)
    write_line(f"Model directory: {plain_text(str(out))}")
    write_line(f"Log directory: {plain_text(str(run))}")
    made = train_and_show(recipe, run)
    if out != run and int(os.environ.get("RANK", "0")) == 0:
        models.mkdir(parents=True, exist_ok=True)
        shutil.copytree(made, out)
        write_line(f"Model: {plain_text(str(out))}")


def _free_stamp(logs: Path, models: Path) -> str:
    """Return a time stamp that does not name a folder in `logs` or `models` yet."""
    now = time.time()
    while True:
        stamp = time.strftime(_STAMP, time.localtime(now))
        if not any(os.path.lexists(base / stamp) for base in (logs, models)):
            return stamp
        now += 1


def _cap_gpu_memory(fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise RecipeError(f"--gpu_memory_fraction must be above 0 and at most 1, got {fraction}")
    import torch

    if fraction < 1 and not torch.cuda.is_available():
        say("--gpu_memory_fraction: ignored because there is no CUDA GPU")
    elif fraction < 1:
        torch.cuda.set_per_process_memory_fraction(fraction)
        say(f"--gpu_memory_fraction: using at most {fraction:.0%} of the GPU's memory")
