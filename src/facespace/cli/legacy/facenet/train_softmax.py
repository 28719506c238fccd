"""facespace facenet train_softmax: train with softmax, center loss and a penalty on the norm of the features."""

from __future__ import annotations

from typing import Any

from facespace.cli.legacy.arguments import Program
from facespace.errors import RecipeError


def main(argv: list[str]) -> None:
    """Train with the recipe that the flags describe."""
    parser = Program("facenet train_softmax", "Train a network with softmax, optionally with center loss.")
    from facespace.cli.legacy import trainers
    from facespace.formats.torch_files import require_torch

    trainers.common_flags(parser)
    parser.ignore_batch_size(lfw_batch_size=100)
    parser.ignore("no histogram of the features is written", prelogits_hist_max=10.0)
    parser.ignore(
        "images are not filtered by distance; facespace dataset check finds wrong labels, damaged files and copies",
        filter_filename="",
        filter_percentile=100.0,
    )
    parser.ignore(
        "no images are held out for validation; use --lfw_dir to verify on people who are not in the training data",
        validate_every_n_epochs=5,
        validation_set_split_ratio=0.0,
        min_nrof_val_images_per_class=0.0,
    )
    parser.add_argument(
        "--nrof_preprocess_threads", type=int, help="Number of processes that read images; 2 if not given."
    )
    parser.flag("--random_rotate", "Rotate images randomly by up to 10 degrees.")
    parser.flag(
        "--use_fixed_image_standardization",
        "Standardise images as (x - 127.5)/128, instead of by their own mean and deviation.",
    )
    parser.flag("--log_histograms", "Write histograms of the weights for TensorBoard.")
    parser.flags(
        ("--center_loss_factor", 0.0, "Weight of the center loss."),
        ("--center_loss_alfa", 0.95, "1 minus the rate at which centres move towards the features."),
        ("--prelogits_norm_loss_factor", 0.0, "Weight of the penalty on the norm of the features."),
        ("--prelogits_norm_p", 1.0, "Order p of that norm."),
        (
            "--filter_min_nrof_images_per_class",
            0,
            "Smallest number of images of a person; people with fewer are left out.",
        ),
        ("--lfw_distance_metric", 0, "0: squared Euclidean distance; 1: angle divided by pi."),
    )
    parser.flag("--lfw_use_flipped_images", "Concatenate the embeddings of the image and its mirror image.")
    parser.flag("--lfw_subtract_mean", "Subtract the mean embedding of the other folds.")
    arguments = parser.parse(argv)
    require_torch("training")
    keys = trainers.common_keys(arguments, fixed=arguments.use_fixed_image_standardization)
    keys |= {
        "batch_size": arguments.batch_size,
        "rotate": 10.0 if arguments.random_rotate else 0.0,
        "histograms": arguments.log_histograms,
        "min_images_per_person": max(1, arguments.filter_min_nrof_images_per_class),
        "losses": losses(arguments),
    }
    if arguments.nrof_preprocess_threads is not None:
        keys["workers"] = arguments.nrof_preprocess_threads
    trainers.train(arguments, keys, "train_softmax")


def losses(arguments: Any) -> list[dict[str, Any]]:
    """Return the loss terms that the flags describe.

    The centre loss moves the class centres at the rate 1 − `center_loss_alfa`.

    Raises `RecipeError` for a value out of range.
    """
    terms: list[dict[str, Any]] = [{"name": "softmax"}]
    if arguments.center_loss_factor < 0 or arguments.prelogits_norm_loss_factor < 0:
        raise RecipeError("--center_loss_factor and --prelogits_norm_loss_factor must not be negative")
    if arguments.center_loss_factor:
        if not 0 <= arguments.center_loss_alfa < 1:
            raise RecipeError(f"--center_loss_alfa must be at least 0 and below 1, got {arguments.center_loss_alfa}")
        rate = round(1 - arguments.center_loss_alfa, 10)
        terms.append({"name": "center", "weight": arguments.center_loss_factor, "rate": rate})
    if arguments.prelogits_norm_loss_factor:
        weight, order = arguments.prelogits_norm_loss_factor, arguments.prelogits_norm_p
        terms.append({"name": "features-norm", "weight": weight, "order": order})
    return terms
