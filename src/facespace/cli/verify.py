"""facespace verify: measure a model on labelled pairs of photos."""

from __future__ import annotations

import contextlib
import os
import tempfile
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from facespace.cli.shared.distributed import Ray, compute_with_progress
from facespace.cli.shared.models import load_embedder, model_of_crops
from facespace.cli.shared.options import Device, EmbeddingDevice, Json, OptionalModel
from facespace.cli.shared.output import progress_bar, write_json, write_line
from facespace.io.text import plain_text

if TYPE_CHECKING:
    from facespace.datasets.pairs.pair_sets import PairSet, PairSource
    from facespace.embedding.embedder import Embedder
    from facespace.evaluation.pairs import Evaluation, Flip as FlipWord, Represented

app = typer.Typer(
    help="Measure a model on pairs of photos: accuracy, VAL at FAR, ROC, thresholds, the worst errors.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class DistanceName(str, Enum):
    """The distance between two embeddings: squared Euclidean, or the angle divided by pi."""

    euclidean = "euclidean"
    angle = "angle"


class FlipName(str, Enum):
    """How the mirror image is used: not at all, or its embedding is concatenated or added to that of the image."""

    none = "none"
    concat = "concat"
    add = "add"


class FlipCommand(TyperCommand):
    """Reads `--flip` without a value as `--flip concat`, like the flag of the 2018 program."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the missing value of `--flip`, and parse the arguments."""
        words = {name.value for name in FlipName}
        full: list[str] = []
        for k, arg in enumerate(args):
            full.append(arg)
            if arg == "--flip" and (k + 1 == len(args) or args[k + 1] not in words):
                full.append(FlipName.concat.value)
        return super().parse_args(ctx, full)


Distance = Annotated[
    DistanceName,
    typer.Option("--distance", help="Squared Euclidean distance (0 to 4), or the angle divided by pi (0 to 1)."),
]
Flip = Annotated[
    FlipName,
    typer.Option(
        "--flip",
        help="Also embed the mirror image: concatenate the embeddings (plain --flip, as in 2018), or add them.",
    ),
]
SubtractMean = Annotated[
    bool,
    typer.Option("--subtract-mean", help="Subtract the mean embedding of the pairs that the threshold is chosen on."),
]
ThresholdFrom = Annotated[
    Path | None,
    typer.Option(
        "--threshold-from",
        metavar="PAIRS|BIN",
        help="Choose the threshold on these pairs, instead of by cross-validation.",
    ),
]
Aligned = Annotated[bool, typer.Option("--aligned", help="Treat the images as aligned crops, without detection.")]
AllowMissing = Annotated[bool, typer.Option("--allow-missing", help="Allow missing photos and uneven folds.")]
ResizeCrops = Annotated[
    bool, typer.Option("--resize-crops", help="Resize crops that do not fit the model, which the report mentions.")
]
Output = Annotated[
    Path | None, typer.Option("--output", metavar="DIR", help="Write report.html and report.json to this folder.")
]
DISTANCE, FLIP = DistanceName.euclidean, FlipName.none


@app.command("lfw", cls=FlipCommand)
def lfw(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="A folder of photos named NAME/NAME_0001.jpg.")],
    pairs: Annotated[
        Path, typer.Option("--pairs", metavar="FILE", help="The list of pairs: pairs.txt, or a list of view 1.")
    ],
    distance: Distance = DISTANCE,
    flip: Flip = FLIP,
    subtract_mean: SubtractMean = False,
    threshold_from: ThresholdFrom = None,
    aligned: Aligned = False,
    allow_missing: AllowMissing = False,
    resize_crops: ResizeCrops = False,
    output: Output = None,
    json: Json = False,
    device: EmbeddingDevice = Device.auto,
    model: OptionalModel = None,
    ray: Ray = None,
) -> None:
    """Measure on pairs in the format of Labeled Faces in the Wild, with whole photos, or crops with --aligned.

    A list with folds is scored as in 2018: each fold at the threshold that is best on the others. For a list without folds
    (view 1) give --threshold-from; otherwise the list's own best threshold is used, and the result called optimistic.
    """
    from facespace.datasets.pairs.pair_sets import PairSource

    _measure(
        PairSource(pairs, "lfw", images, aligned),
        _options(distance, flip, subtract_mean, allow_missing, resize_crops),
        threshold_from,
        output,
        json,
        device,
        model,
        ray,
    )


@app.command("bin", cls=FlipCommand)
def bin_(
    file: Annotated[Path, typer.Argument(metavar="FILE.bin", help="A verification set of insightface.")],
    distance: Distance = DISTANCE,
    flip: Flip = FLIP,
    subtract_mean: SubtractMean = False,
    threshold_from: ThresholdFrom = None,
    allow_missing: AllowMissing = False,
    resize_crops: ResizeCrops = False,
    output: Output = None,
    json: Json = False,
    device: EmbeddingDevice = Device.auto,
    model: OptionalModel = None,
    ray: Ray = None,
) -> None:
    """Measure on a `.bin` file of 112 px crops, in ten contiguous folds. Its pickle is read without running any code."""
    from facespace.datasets.pairs.pair_sets import PairSource

    _measure(
        PairSource(file, "bin", None, aligned=True),
        _options(distance, flip, subtract_mean, allow_missing, resize_crops),
        threshold_from,
        output,
        json,
        device,
        model,
        ray,
    )


@app.command("pairs", cls=FlipCommand)
def pairs_(
    csv: Annotated[
        Path,
        typer.Argument(
            metavar="CSV", help="A table with the columns a,b,same; other columns are groups to report separately."
        ),
    ],
    root: Annotated[
        Path, typer.Option("--root", metavar="DIR", help="The folder that the paths in CSV are relative to.")
    ],
    distance: Distance = DISTANCE,
    flip: Flip = FLIP,
    subtract_mean: SubtractMean = False,
    threshold_from: ThresholdFrom = None,
    aligned: Aligned = False,
    allow_missing: AllowMissing = False,
    resize_crops: ResizeCrops = False,
    output: Output = None,
    json: Json = False,
    device: EmbeddingDevice = Device.auto,
    model: OptionalModel = None,
    ray: Ray = None,
) -> None:
    """Measure on your own pairs. A column `fold` gives folds; `person_a` and `person_b` give intervals over people."""
    from facespace.datasets.pairs.pair_sets import PairSource

    _measure(
        PairSource(csv, "csv", root, aligned),
        _options(distance, flip, subtract_mean, allow_missing, resize_crops),
        threshold_from,
        output,
        json,
        device,
        model,
        ray,
    )


def _options(
    distance: DistanceName, flip: FlipName, subtract_mean: bool, allow_missing: bool, resize_crops: bool
) -> dict[str, Any]:
    return {
        "distance": distance.value,
        "flip": flip.value,
        "subtract_mean": subtract_mean,
        "allow_missing": allow_missing,
        "resize_crops": resize_crops,
    }


def _measure(
    source: PairSource,
    options: dict[str, Any],
    threshold_from: Path | None,
    output: Path | None,
    json: bool,
    device: Device,
    model: str | None,
    ray: str | None,
) -> None:
    from facespace.datasets.pairs.pair_sets import PairSource
    from facespace.detection.factory import create_detector
    from facespace.evaluation import report
    from facespace.evaluation.pairs import evaluate_pairs
    from facespace.reports.page import check_plots

    if ray not in (None, "local") and output is None:
        raise typer.BadParameter("needs --output DIR, a folder that every node can access", param_hint="--ray")
    if output is not None:
        check_plots()
        output.mkdir(parents=True, exist_ok=True)
    made_with = model_of_crops(source.root, aligned=source.aligned) if source.root else ""
    embedder = load_embedder(model, device.value, made_with=made_with)
    pairs = source.read(embedder.spec)
    other = None if threshold_from is None else PairSource.of(threshold_from, source.root, source.aligned)
    chosen_on = None if other is None else other.read(embedder.spec)
    whole = any(one is not None and one.crops is None for one in (pairs, chosen_on))
    with contextlib.ExitStack() as ends:
        if ray is None:
            where: dict[str, Any] = {"progress": ends.enter_context(progress_bar("embedding"))}
        else:
            place = output or Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="facespace-verify-")))

            def in_parts(one: PairSet) -> Represented:
                kept = place / (".pairs" if one is pairs else ".threshold")
                read_from = source if one is pairs else other
                assert read_from is not None
                thumbnails = output is not None and one is pairs
                return _represent_in_parts(kept, read_from, one, embedder, options["flip"], thumbnails, device, ray)

            where = {"represent_set": in_parts}
        evaluation = evaluate_pairs(
            pairs,
            embedder,
            detector=create_detector(embedder.detector) if whole else None,
            threshold_from=chosen_on,
            keep_thumbnails=output is not None,
            **where,
            **options,
        )
    if output is not None:
        report.write_report(output, evaluation)
    if json:
        write_json(report.as_json(evaluation))
        return
    for line in _summary(evaluation):
        write_line(line)
    if output is not None:
        write_line(f"-> {output / 'report.html'}")


def _represent_in_parts(
    place: Path,
    source: PairSource,
    pairs: PairSet,
    embedder: Embedder,
    flip: FlipWord,
    thumbnails: bool,
    device: Device,
    ray: str,
) -> Represented:
    """Embed the photos of a list of pairs on Ray. The folder `place` holds partial results until they are joined."""
    from facespace.distribution.evaluating import EvaluatingWork, begin, finish
    from facespace.distribution.storage import Folder

    work = EvaluatingWork(
        Folder(os.path.abspath(place)), source.absolute(), flip, thumbnails,
        model=embedder.name, fingerprint=embedder.fingerprint, device=device.value,
    )  # fmt: skip
    plan = begin(work, pairs)
    compute_with_progress(work, plan, ray, "embedding")
    return finish(work, plan, pairs, embedder.dimension)


def _summary(evaluation: Evaluation) -> list[str]:
    """Return the printed lines: the figures, and all settings that the figures depend on."""
    from facespace.evaluation import report

    result, settings, intervals = evaluation.verification, evaluation.settings, evaluation.intervals

    def interval(name: str) -> str:
        return "  (95 % over people: {:.4f} to {:.4f})".format(*intervals[name]) if name in intervals else ""

    lines = []
    if evaluation.misfit:
        lines.append(f"CROPS AND MODEL DO NOT FIT: {evaluation.misfit}; the crops were resized")
    spread = "" if result.accuracy_std is None else f" +- {result.accuracy_std:.5f}"
    lines.append(f"accuracy      {result.accuracy:.5f}{spread}{interval('accuracy')}")
    lines.append(f"              {report.judged(evaluation)}")
    for target, rate in result.val.items():
        if rate.value is None:
            lines.append(f"VAL@FAR {target}  not supported: {rate.reason}")
        else:
            spread = "" if rate.std is None else f" +- {rate.std:.5f}"
            lines.append(f"VAL@FAR {target}  {rate.value:.5f}{spread} @ FAR {rate.far:.5f}{interval(f'val@{target}')}")
    lines.append(f"AUC           {result.auc:.5f}{interval('auc')}")
    lines.append(f"EER           {result.eer:.5f}{interval('eer')}")
    lines += [f"note          {line}" for line in report.warnings(evaluation)]
    lines += [f"  missing     {plain_text(name)}" for name in evaluation.missing[:20]]
    lines += [
        f"  no face     {plain_text(name)}: {plain_text(why)}" for name, why in list(evaluation.failed.items())[:20]
    ]
    spec = settings["input_spec"]
    lines.append(
        f"model         {settings['model']} {settings['fingerprint'][:12]}, {settings['runtime']} {settings['precision']}, "
        f"crops {spec['size']} px {spec['template']}, {spec['standardization']} standardization"
    )
    lines.append(
        f"settings      faces: {settings['faces']}; distance: {settings['distance']}; flip: {settings['flip']}; "
        f"subtract mean: {'yes' if settings['subtract_mean'] else 'no'}; "
        f"folds: {settings['folds'] or 'none'}; threshold: {settings['threshold_from']}"
    )
    return lines
