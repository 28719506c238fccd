"""facespace tiny eval_veri: a model's accuracy on a verification set of insightface."""

from __future__ import annotations

from pathlib import Path

from facespace.cli.legacy.arguments import Program, today
from facespace.cli.shared.models import load_embedder
from facespace.cli.shared.output import progress_bar, say, write_line


def main(argv: list[str]) -> None:
    """Measure with the statistics of inference; the old program's figures depended on what shared a batch."""
    parser = Program("tiny eval_veri", "Measure a model on a .bin file, image and mirror image added.")
    parser.add_argument("--datasets", required=True, help="The .bin file.")
    parser.add_argument("--dataset_name", help="How lines call it; by default the file's name.")
    parser.unneeded("the classifier of training is not needed", num_classes=85742)
    parser.add_argument(
        "--ckpt_restore_dir", required=True, help="A checkpoint (Face_vox_iter_N.ckpt), a run's folder, or any model."
    )
    arguments = parser.parse(argv)
    path = Path(arguments.datasets).expanduser()
    name = arguments.dataset_name or path.stem
    today("facespace", "verify", "bin", path, "--flip", "add", "--model", arguments.ckpt_restore_dir)

    from facespace.evaluation.insightface_bin import measure_bin

    embedder = load_embedder(arguments.ckpt_restore_dir)
    with progress_bar("embedding") as show:
        figures = measure_bin(path, embedder, progress=show)
    spec, result = embedder.spec, figures.verification
    if spec.template != "arcface" or figures.size != spec.size:
        say(
            f"{path.name}: crops of {figures.size} px by five points; the model wants {spec.size} px {spec.template} crops: "
            "they were resized, and the figures are not the model's best"
        )
    if result.accuracy_std is None:
        say(f"{path.name}: too few pairs for ten folds; its best threshold judges all of them")
    write_line(f"[{name}][0]XNorm: {figures.xnorm:f}")
    spread = "" if result.accuracy_std is None else f"+-{result.accuracy_std:1.5f}"
    write_line(f"[{name}][0]Accuracy-Flip: {result.accuracy:1.5f}{spread}")
