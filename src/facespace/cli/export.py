"""facespace export: write a model as one ONNX file for other programs."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facespace.cli.shared.models import load_embedder
from facespace.cli.shared.options import Json
from facespace.cli.shared.output import progress_bar, say, write_json, write_line

if TYPE_CHECKING:
    from facespace.embedding.embedder import Embedder


class Precision(str, Enum):
    """The precision of the weights."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model name, file or folder.")],
    output: Annotated[Path, typer.Option("--output", metavar="FILE.onnx", help="The file to write.")],
    precision: Annotated[
        Precision, typer.Option("--precision", help="fp16 halves the file, for GPUs; int8 quarters it and is faster.")
    ] = Precision.fp32,
    crops: Annotated[
        Path | None,
        typer.Option(
            "--crops", metavar="DIR", help="Aligned crops to measure ranges and agreement on; required for int8."
        ),
    ] = None,
    verify: Annotated[
        Path | None,
        typer.Option("--verify", metavar="PAIRS", help="Print the accuracy on these LFW pairs before and after."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", metavar="DIR", help="The photos that --verify names.")
    ] = None,
    threshold_from: Annotated[
        Path | None,
        typer.Option("--threshold-from", metavar="PAIRS", help="Judge by the threshold that is best on these pairs."),
    ] = None,
    aligned: Annotated[bool, typer.Option("--aligned", help="The photos of --images are aligned crops.")] = False,
    json: Json = False,
) -> None:
    """Write a model with its preprocessing included: its input are uint8 crops, its output unit embeddings.

    The file is compared with its source, and not kept if they disagree.
    """
    if (verify is None) != (images is None):
        raise typer.BadParameter("--verify PAIRS and --images DIR go together")
    from facespace.conversion.exporter import LEAST_COSINE, export as export_model

    exported = export_model(model, output, precision=precision.value, crops=crops)
    for remark in exported.remarks:
        say(remark)
    accuracy = None
    if verify is not None and images is not None:
        before = load_embedder(model, precision="float32", say_remarks=False)
        accuracy = [
            _accuracy(embedder, verify, images, threshold_from, aligned) for embedder in (before, exported.embedder)
        ]
    if json:
        write_json(
            {
                "file": str(output),
                "precision": precision.value,
                "bytes": exported.n_bytes,
                "least_cosine": exported.cosine,
                "n_crops": exported.n_crops,
                "batch": exported.batch,
                "accuracy": accuracy and dict(zip(("before", "after"), accuracy, strict=True)),
            }
        )
        return
    taken = "" if exported.batch is None else f", takes {exported.batch} crop{'s' * (exported.batch > 1)} at a time"
    write_line(
        f"{precision.value}: cosine similarity to the source at least {exported.cosine:.6f} over {exported.n_crops} crops "
        f"(required {LEAST_COSINE[precision.value]}), {exported.n_bytes / 1e6:.1f} MB{taken} -> {output}"
    )
    if accuracy is not None:
        write_line(f"accuracy on {verify}: {accuracy[0]:.5f} before, {accuracy[1]:.5f} after")


def _accuracy(embedder: Embedder, pairs: Path, images: Path, threshold_from: Path | None, aligned: bool) -> float:
    from facespace.datasets.pairs.pair_sets import read_pair_set
    from facespace.detection.factory import create_detector
    from facespace.evaluation.pairs import evaluate_pairs

    source = read_pair_set(pairs, images, aligned, embedder.spec)
    chosen_on = None if threshold_from is None else read_pair_set(threshold_from, images, aligned, embedder.spec)
    with progress_bar("embedding") as show:
        evaluation = evaluate_pairs(
            source,
            embedder,
            detector=None if aligned else create_detector(embedder.detector),
            threshold_from=chosen_on,
            progress=show,
        )
    return evaluation.verification.accuracy
