"""What the two trainers of FaceNet share: their flags, where a run and its model go, pairs to verify on."""

from __future__ import annotations

import argparse
import os
import shutil
import time
from pathlib import Path
from typing import Any

from facespace.cli.legacy import learning_rates, lfw, lfw_recipe_keys
from facespace.cli.legacy.arguments import Program, today
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
_MARGIN = 32  # of the crops a network sees that was trained on 160 px of crops of 182 px with a margin of 44


def common_flags(parser: Program) -> None:
    """The flags that both trainers have."""
    parser.flags(
        ("--gpu_memory_fraction", 1.0, "At most so much of a GPU's memory is taken."),
        ("--logs_base_dir", "~/logs/facenet", "Where the run's folder goes; tensorboard --logdir shows it."),
        ("--models_base_dir", "~/models/facenet", "Where the model goes, in a folder of the run's name."),
        ("--pretrained_model", "", "A model to begin with, with its own preprocessing."),
        ("--model_def", "models.inception_resnet_v1", f"The network: {', '.join(NETWORKS)}."),
        ("--max_nrof_epochs", 500, "Epochs."),
        ("--batch_size", 90, "Images a step."),
        ("--image_size", 160, "Side of what the network sees, in pixels."),
        ("--epoch_size", 1000, "Steps in an epoch."),
        ("--embedding_size", 128, "Numbers a face."),
        ("--keep_probability", 1.0, "Of dropout."),
        ("--weight_decay", 0.0, "On convolutions and full layers."),
        ("--learning_rate", 0.1, "-1: by the schedule."),
        ("--learning_rate_decay_epochs", 100, "Epochs after which the rate is multiplied."),
        ("--learning_rate_decay_factor", 1.0, "By which it is."),
        ("--moving_average_decay", 0.9999, "Of the weights; the average is what is measured and kept."),
        ("--seed", 666, "Of everything drawn."),
        (
            "--learning_rate_schedule_file",
            learning_rates.DEFAULT_FILE,
            "Lines `epoch: rate`; a rate of -1 ends training.",
        ),
        ("--lfw_pairs", lfw.DEFAULT_PAIRS, "The list of pairs."),
        ("--lfw_dir", "", "LFW's aligned crops, to measure on after every epoch."),
        ("--lfw_nrof_folds", 10, "Folds of the cross-validation."),
    )
    parser.repeated("--data_dir", _DATA, "Class folders of crops; A:B, or the flag again, joins several.")
    parser.add_argument(
        "--optimizer", choices=["ADAGRAD", "ADADELTA", "ADAM", "RMSPROP", "MOM"], default="ADAGRAD", help="What moves the weights."
    )  # fmt: skip
    parser.flag("--random_crop", "Cut from anywhere in a crop, not from its middle.")
    parser.flag("--random_flip", "Mirror half of the images.")


def common_keys(arguments: argparse.Namespace, *, fixed: bool) -> dict[str, Any]:
    """The recipe's keys that both trainers' flags give; `fixed` standardisation, or each image by its own figures."""
    if arguments.model_def not in NETWORKS:
        raise RecipeError(
            f"--model_def: there are {', '.join(NETWORKS)}; got {plain_text(arguments.model_def)}. Others train by "
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
    """Train by these keys in a new folder of the time's name, and put the model where the old trainers did."""
    logs, models = (Path(os.path.expanduser(given)) for given in (arguments.logs_base_dir, arguments.models_base_dir))
    stamp = _free_stamp(logs, models)
    run, out = logs / stamp, models / stamp
    if arguments.lfw_dir:
        keys |= lfw_recipe_keys.keys_of(arguments, logs / f"{stamp}-pairs.csv")
    as_recipe(keys, program)  # before a pretrained model is looked at, which takes its time
    if arguments.pretrained_model:
        from facespace.models.opening import open_model

        open_model(arguments.pretrained_model)  # which says what is wrong with it before anything is written
        keys["init"] = arguments.pretrained_model
    recipe = as_recipe(keys, program)
    today(*command_of(recipe, run))

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
    """The time as a folder's name that neither place has yet."""
    now = time.time()
    while True:
        stamp = time.strftime(_STAMP, time.localtime(now))
        if not any(os.path.lexists(base / stamp) for base in (logs, models)):
            return stamp
        now += 1


def _cap_gpu_memory(fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise RecipeError(f"--gpu_memory_fraction wants more than 0 and at most 1; got {fraction}")
    import torch

    if fraction < 1 and not torch.cuda.is_available():
        say("--gpu_memory_fraction: taken, and changes nothing: there is no CUDA GPU")
    elif fraction < 1:
        torch.cuda.set_per_process_memory_fraction(fraction)
        say(f"--gpu_memory_fraction: at most {fraction:.0%} of the GPU's memory is taken")
