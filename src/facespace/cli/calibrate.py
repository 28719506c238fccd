"""facespace calibrate: choose thresholds on your own labelled photos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facespace.cli.shared.galleries import is_address, model_of_gallery, open_gallery
from facespace.cli.shared.models import load_embedder, model_of_classifier
from facespace.cli.shared.options import Aligned, Collection, Device, EmbeddingDevice, Json, OptionalModel
from facespace.cli.shared.output import Report, progress, write_json, write_line
from facespace.defaults import CLASSIFY_RATE
from facespace.io.text import plain_text

if TYPE_CHECKING:
    from facespace.embedding.embedder import Embedder
    from facespace.identification.threshold_tuning import TunedThresholds
    from facespace.pipeline.people import People


def calibrate(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="A gallery (a file or a server address), or a classifier from `classify train`."
        ),
    ],
    photos: Annotated[
        Path,
        typer.Argument(
            metavar="PHOTOS", help="A folder of folders, one per person. People who are not in FILE are strangers."
        ),
    ],
    rate: Annotated[
        float, typer.Option("--rate", metavar="R", help="Target share of strangers' faces that are given a name.")
    ] = CLASSIFY_RATE,
    aligned: Aligned = False,
    collection: Collection = "default",
    json: Json = False,
    device: EmbeddingDevice = Device.auto,
    model: OptionalModel = None,
) -> None:
    """Choose the threshold on labelled photos that were not enrolled, and store it in FILE with the measured rates."""
    if not 0 < rate < 1:
        raise typer.BadParameter(f"must be between 0 and 1, for instance 0.01, got {rate}", param_hint="--rate")
    from facespace.pipeline.people import read_people

    gallery = _is_gallery(file)
    made_with = model_of_gallery(file, collection=collection) if gallery else model_of_classifier(Path(file))
    embedder = load_embedder(model, device.value, made_with=made_with)
    if not gallery:
        from facespace.identification.classifier import Classifier

        Classifier.load(Path(file), embedder)  # so that a wrong file is reported before the work
    people = read_people(photos, embedder, aligned=aligned, progress=progress)
    report = Report()
    for path, reason in people.failed:
        report.fail(path, f"{reason}; left out")
    if gallery:
        result, thresholds = _gallery(file, collection, people, rate, embedder)
    else:
        result, thresholds = _classifier(Path(file), people, rate, embedder)
    found = result.evidence
    if json:
        write_json({**found, "offset": result.offset, "thresholds": {n: round(t, 4) for n, t in thresholds.items()}})
    else:
        low, high = min(thresholds.values()), max(thresholds.values())
        span = f"{low:.4f}" if f"{low:.4f}" == f"{high:.4f}" else f"{low:.4f} to {high:.4f} by person"
        write_line(f"{found['n_known']} photos of known people, {found['n_strangers']} of strangers")
        if found["n_enrolled_left_out"]:
            write_line(f"{found['n_enrolled_left_out']} photos left out because they are enrolled")
        for name, words in (
            ("known_named_right", "known people named correctly"),
            ("known_rejected", "known people called unknown"),
            ("unknown_detected", "strangers called unknown"),
        ):
            share = found[name]
            if share["n"]:
                write_line(f"  {words:28} {share['share']:.4f}  (95 % {share['low']:.3f} to {share['high']:.3f})")
        write_line(f"threshold {span}, for {rate:g} of strangers named -> {plain_text(file)}")
    report.finish()


def _is_gallery(file: str) -> bool:
    if is_address(file):
        return True
    with Path(file).open("rb") as opened:
        return opened.read(16) == b"SQLite format 3\0"


def _gallery(
    address: str, collection: str, people: People, rate: float, embedder: Embedder
) -> tuple[TunedThresholds, dict[str, float]]:
    with open_gallery(address, embedder, collection=collection) as gallery:
        result = gallery.calibrate(people.embeddings, people.names, rate=rate)
        names = gallery.store.vectors(embedder.dimension).names  # in the order of the thresholds
        return result, dict(zip(names, gallery.thresholds().tolist(), strict=True))


def _classifier(
    file: Path, people: People, rate: float, embedder: Embedder
) -> tuple[TunedThresholds, dict[str, float]]:
    from facespace.identification.classifier import Classifier

    classifier = Classifier.load(file, embedder)
    result = classifier.calibrate(people.embeddings, people.names, calibration=embedder.calibration, rate=rate)
    classifier.save(file)
    return result, dict(zip(classifier.names_, classifier.thresholds_.tolist(), strict=True))
