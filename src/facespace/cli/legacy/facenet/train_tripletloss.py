"""facespace facenet train_tripletloss: train with triplet loss."""

from __future__ import annotations

from facespace.cli.legacy.arguments import Program
from facespace.cli.shared.output import say
from facespace.errors import RecipeError

# Images of a person in a batch. The old program's 45 people with 40 images each do not fit into any GPU's memory as one batch.
_MAX_IMAGES = 4


def main(argv: list[str]) -> None:
    """Train with the recipe that the flags describe. A learning rate of −1 in the schedule ends training."""
    parser = Program("facenet train_tripletloss", "Train a network with triplet loss.")
    from facespace.cli.legacy import trainers
    from facespace.formats.torch_files import require_torch

    trainers.common_flags(
        parser, batch_size="Accepted and ignored: a batch has the given people with the given images of each."
    )
    parser.flags(
        ("--people_per_batch", 45, "People per batch."),
        ("--images_per_person", 40, f"Images per person in a batch; at most {_MAX_IMAGES} are used."),
        ("--alpha", 0.2, "Margin of the triplet loss, in squared Euclidean distance."),
    )
    arguments = parser.parse(argv)
    require_torch("training")
    if arguments.people_per_batch < 2 or arguments.images_per_person < 2:
        raise RecipeError(
            "--people_per_batch and --images_per_person must be at least 2, otherwise there are no triplets"
        )
    each = min(arguments.images_per_person, _MAX_IMAGES)
    batch = arguments.people_per_batch * each
    say(
        f"each step trains on one batch of {arguments.people_per_batch} people with {each} images each ({batch} images), "
        f"with triplets chosen from the batch's own embeddings; the old program chose them from "
        f"{arguments.people_per_batch * arguments.images_per_person} images embedded with earlier weights, and trained on "
        f"{arguments.batch_size} images at a time. --batch_size is ignored"
    )
    keys = trainers.common_keys(arguments, fixed=False)
    keys |= {
        "batch_size": batch,
        "images_per_person": each,
        "losses": [{"name": "triplet", "margin": arguments.alpha, "miner": "vgg"}],
    }
    trainers.train(arguments, keys, "train_tripletloss")
