"""facespace facenet validate_on_lfw: a model measured on the pairs of LFW."""

from __future__ import annotations

from facespace.cli.legacy import lfw
from facespace.cli.legacy.arguments import Program, say_equivalent
from facespace.cli.legacy.models import load_model
from facespace.cli.shared.output import progress_bar, say, write_line


def main(argv: list[str]) -> None:
    """Evaluate on aligned LFW by the protocol of the 2018 program. Pairs with a missing photo are left out."""
    parser = Program("facenet validate_on_lfw", "Measure a model on the pairs of Labeled Faces in the Wild.")
    parser.add_argument("lfw_dir", help="A folder of aligned crops, NAME/NAME_0001.png.")
    parser.add_argument("model", help="A .pb file, a checkpoint folder, a model folder, or a model name.")
    parser.ignore_batch_size(lfw_batch_size=100)
    parser.ignore(
        "the number of threads follows from the available CPU cores", num_inter_threads=0, num_intra_threads=0
    )
    parser.ignore_preprocessing("use_fixed_image_standardization", image_size=160)
    parser.flags(
        ("--lfw_pairs", lfw.DEFAULT_PAIRS, "The list of pairs, as LFW's pairs.txt."),
        ("--lfw_nrof_folds", 10, "Number of cross-validation folds."),
        ("--distance_metric", 0, "0: squared Euclidean distance; 1: angle divided by pi."),
    )
    parser.flag("--use_flipped_images", "Concatenate the embeddings of the image and its mirror image.")
    parser.flag("--subtract_mean", "Subtract the mean embedding of the other folds.")
    arguments = parser.parse(argv)
    root, path = lfw.checked_folder(arguments.lfw_dir), lfw.pairs_path(arguments.lfw_pairs)
    distance = lfw.distance_name(arguments.distance_metric)
    options = ["--flip", "concat"] if arguments.use_flipped_images else []
    options += ["--subtract-mean"] if arguments.subtract_mean else []
    say_equivalent(
        "facespace", "verify", "lfw", root, "--pairs", path, "--aligned", "--allow-missing", *options,
        "--distance", distance, "--model", arguments.model,
    )  # fmt: skip

    from facespace.detection.factory import create_detector
    from facespace.evaluation.pairs import evaluate_pairs

    pairs = lfw.read_pairs(path, arguments.lfw_nrof_folds)
    embedder = load_model(arguments.model)
    found = lfw.pair_set(root, path, pairs, embedder.spec)
    if n_skipped := lfw.count_skipped(found):
        write_line(f"Skipped {n_skipped} image pairs")
    write_line("Running forward pass on LFW images")
    with progress_bar("embedding") as show:
        evaluation = evaluate_pairs(
            found,
            embedder,
            detector=create_detector(embedder.detector) if found.crops is None else None,
            distance=distance,  # type: ignore[arg-type]
            flip="concat" if arguments.use_flipped_images else "none",
            subtract_mean=arguments.subtract_mean,
            allow_missing=True,
            progress=show,
        )
    result = evaluation.verification
    if evaluation.failed:
        say(f"no face was found in {len(evaluation.failed)} photos; their pairs count as errors")
    spread = "" if result.accuracy_std is None else f"+-{result.accuracy_std:.5f}"
    write_line(f"Accuracy: {result.accuracy:.5f}{spread}")
    rate = result.val["1e-3"]
    if rate.value is None:
        write_line(f"Validation rate: not supported @ FAR=0.00100: {rate.reason}")
    else:
        spread = "" if rate.std is None else f"+-{rate.std:.5f}"
        write_line(f"Validation rate: {rate.value:.5f}{spread} @ FAR={rate.far:.5f}")
    write_line(f"Area Under Curve (AUC): {result.auc:.3f}")
    write_line(f"Equal Error Rate (EER): {result.eer:.3f}")
