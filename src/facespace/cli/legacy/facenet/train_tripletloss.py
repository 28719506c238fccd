"""facespace facenet train_tripletloss: a network trained with triplets."""

from __future__ import annotations

from facespace.cli.legacy.arguments import Program
from facespace.cli.shared.output import say
from facespace.errors import RecipeError

_MOST_IMAGES = 4  # of a person in a batch, in which triplets are chosen: 45 people with 40 are too many for any memory


def main(argv: list[str]) -> None:
    """Train by the recipe that the flags come to; a rate of −1 in the schedule ends training here, too."""
    parser = Program("facenet train_tripletloss", "Train with triplet loss.")
    from facespace.cli.legacy import trainers
    from facespace.formats.torch_files import require_torch

    trainers.common_flags(parser)
    parser.flags(
        ("--people_per_batch", 45, "People in a batch."),
        ("--images_per_person", 40, f"Images of each; a batch has at most {_MOST_IMAGES}."),
        ("--alpha", 0.2, "The margin."),
    )
    arguments = parser.parse(argv)
    require_torch("training")
    if arguments.people_per_batch < 2 or arguments.images_per_person < 2:
        raise RecipeError("--people_per_batch and --images_per_person want at least 2, or there are no triplets")
    each = min(arguments.images_per_person, _MOST_IMAGES)
    batch = arguments.people_per_batch * each
    say(
        f"a step is one batch of {arguments.people_per_batch} people with {each} images each ({batch} images), and its "
        f"triplets are chosen among the very embeddings that learn from them; the old program embedded "
        f"{arguments.people_per_batch * arguments.images_per_person} images first, and learnt from {arguments.batch_size} at "
        "a time with triplets of weights gone by. --batch_size changes nothing"
    )
    keys = trainers.common_keys(arguments, fixed=False)
    keys |= {
        "batch_size": batch,
        "images_per_person": each,
        "losses": [{"name": "triplet", "margin": arguments.alpha, "miner": "vgg"}],
    }
    trainers.train(arguments, keys, "train_tripletloss")
