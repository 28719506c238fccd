"""facespace facenet train_softmax: a network trained with softmax, center loss and a norm of its features."""

from __future__ import annotations

from typing import Any

from facespace.cli.legacy.arguments import Program
from facespace.errors import RecipeError


def main(argv: list[str]) -> None:
    """Train by the recipe that the flags come to."""
    parser = Program("facenet train_softmax", "Train with softmax, and center loss on request.")
    from facespace.cli.legacy import trainers
    from facespace.formats.torch_files import require_torch

    trainers.common_flags(parser)
    parser.machine(lfw_batch_size=100)
    parser.unneeded("features are not shown as a histogram", prelogits_hist_max=10.0)
    parser.unneeded(
        "nothing is filtered by distance; facespace dataset check finds wrong labels, damaged files and copies",
        filter_filename="",
        filter_percentile=100.0,
    )
    parser.unneeded(
        "all images are trained on, none is set aside; --lfw_dir measures on people who are not in the data",
        validate_every_n_epochs=5,
        validation_set_split_ratio=0.0,
        min_nrof_val_images_per_class=0.0,
    )
    parser.add_argument("--nrof_preprocess_threads", type=int, help="Processes that read images.")
    parser.flag("--random_rotate", "Turn images by up to 10 degrees.")
    parser.flag(
        "--use_fixed_image_standardization", "The network sees (x - 127.5)/128, not each image by its own figures."
    )
    parser.flag("--log_histograms", "Show the distribution of weights in TensorBoard.")
    parser.flags(
        ("--center_loss_factor", 0.0, "Weight of the center loss."),
        ("--center_loss_alfa", 0.95, "How slowly centres move."),
        ("--prelogits_norm_loss_factor", 0.0, "Weight of the features' norm."),
        ("--prelogits_norm_p", 1.0, "Order of that norm."),
        ("--filter_min_nrof_images_per_class", 0, "People with fewer images are left out."),
        ("--lfw_distance_metric", 0, "0: squared Euclidean distance, 1: angle."),
    )
    parser.flag("--lfw_use_flipped_images", "Put the embedding of the mirror image behind that of the image.")
    parser.flag("--lfw_subtract_mean", "Take off the mean embedding of the other folds.")
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
    """The terms that the flags ask for; center_loss_alfa is 1 minus the rate at which centres move."""
    terms: list[dict[str, Any]] = [{"name": "softmax"}]
    if arguments.center_loss_factor < 0 or arguments.prelogits_norm_loss_factor < 0:
        raise RecipeError("--center_loss_factor and --prelogits_norm_loss_factor want 0 or more")
    if arguments.center_loss_factor:
        if not 0 <= arguments.center_loss_alfa < 1:
            raise RecipeError(f"--center_loss_alfa wants 0 or more and less than 1; got {arguments.center_loss_alfa}")
        rate = round(1 - arguments.center_loss_alfa, 10)
        terms.append({"name": "center", "weight": arguments.center_loss_factor, "rate": rate})
    if arguments.prelogits_norm_loss_factor:
        weight, order = arguments.prelogits_norm_loss_factor, arguments.prelogits_norm_p
        terms.append({"name": "features-norm", "weight": weight, "order": order})
    return terms
