"""facespace tiny eval_veri: the accuracy of a model on a verification set of insightface."""

from __future__ import annotations

from pathlib import Path

from facespace.cli.legacy.arguments import Program, say_equivalent
from facespace.cli.shared.models import load_embedder
from facespace.cli.shared.output import progress_bar, say, write_line


def main(argv: list[str]) -> None:
    """Measure a model in inference mode.

    The old program used batch statistics, so its figures depended on which images shared a batch.
    """
    parser = Program(
        "tiny eval_veri", "Measure a model on a .bin file, adding the embeddings of each image and its mirror image."
    )
    parser.add_argument("--datasets", required=True, help="The .bin file to measure on.")
    parser.add_argument("--dataset_name", help="Name to print; by default the name of the file.")
    parser.ignore("the classification layer is only used in training", num_classes=85742)
    parser.add_argument(
        "--ckpt_restore_dir", required=True, help="A checkpoint (Face_vox_iter_N.ckpt), a training run, or any model."
    )
    arguments = parser.parse(argv)
    path = Path(arguments.datasets).expanduser()
    name = arguments.dataset_name or path.stem
    say_equivalent("facespace", "verify", "bin", path, "--flip", "add", "--model", arguments.ckpt_restore_dir)

    from facespace.evaluation.insightface_bin import measure_bin

    embedder = load_embedder(arguments.ckpt_restore_dir)
    with progress_bar("embedding") as show:
        figures = measure_bin(path, embedder, progress=show)
    spec, result = embedder.spec, figures.verification
    if spec.template != "arcface" or figures.size != spec.size:
        say(
            f"{path.name}: the model expects {spec.size} px {spec.template} crops, but these are {figures.size} px arcface crops; "
            "they were resized, which lowers the accuracy"
        )
    if result.accuracy_std is None:
        say(f"{path.name}: too few pairs for ten folds; all pairs are scored at the best threshold")
    write_line(f"[{name}][0]XNorm: {figures.xnorm:f}")
    spread = "" if result.accuracy_std is None else f"+-{result.accuracy_std:1.5f}"
    write_line(f"[{name}][0]Accuracy-Flip: {result.accuracy:1.5f}{spread}")
