"""facespace classify: train a classifier on folders of people, test it, and name the faces of photos."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facespace.cli.shared.models import load_embedder, model_of_classifier, model_of_crops, say_if_people_are_alike
from facespace.cli.shared.options import (
    DEFAULT_MIN_SIZE,
    Aligned,
    Camera,
    Device,
    Draw,
    EmbeddingDevice,
    Every,
    Json,
    MinSize,
    OptionalModel,
    PhotosAndVideos,
    Repeats,
    Subtitles,
    TryRotations,
)
from facespace.cli.shared.output import Report, progress, say, write_json, write_line
from facespace.defaults import CLASSIFY_RATE
from facespace.io.text import plain_text

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

    from facespace.embedding.embedder import Embedder
    from facespace.identification.classifier import Classifier
    from facespace.pipeline.people import People


class Method(str, Enum):
    """How the nearest person of a face is chosen."""

    centroid = "centroid"
    knn = "knn"
    logistic = "logistic"
    svm = "svm"


app = typer.Typer(
    help="Train a classifier on folders of photos, and name faces or call them unknown.", no_args_is_help=True
)

Folder = Annotated[
    Path,
    typer.Argument(
        metavar="DIR", help="A folder of folders, one per person, with photos or crops from facespace align."
    ),
]
ReportFolder = Annotated[
    Path | None, typer.Option("--report", metavar="DIR", help="Write report.html and report.json to this folder.")
]
ClassifierFile = Annotated[Path, typer.Argument(metavar="FILE", help="A classifier from `facespace classify train`.")]
_MAX_SHOWN = 20  # wrong predictions that are printed


@app.command()
def train(
    folder: Folder,
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="The classifier file to write.")],
    method: Annotated[
        Method,
        typer.Option(
            "--method", help="How the nearest person is chosen; every method rejects strangers by similarity."
        ),
    ] = Method.centroid,
    rate: Annotated[
        float, typer.Option("--rate", metavar="R", help="Target share of strangers' faces that are given a name.")
    ] = CLASSIFY_RATE,
    closed_set: Annotated[
        bool, typer.Option("--closed-set", help="Give every face a name, as the 2018 program did.")
    ] = False,
    split: Annotated[
        int | None,
        typer.Option("--split", metavar="N", min=1, help="Train on N photos of each person and test on the others."),
    ] = None,
    min_images: Annotated[
        int | None,
        typer.Option(
            "--min-images",
            metavar="N",
            min=1,
            help="Leave out people with fewer photos; by default 1, with --split N it is N + 1.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", metavar="S", help="Random seed of --split and of the held-out photos.")
    ] = 0,
    test_data: Annotated[
        Path | None, typer.Option("--test-data", metavar="DIR", help="Test on this folder; people are matched by name.")
    ] = None,
    aligned: Aligned = False,
    report: ReportFolder = None,
    json: Json = False,
    device: EmbeddingDevice = Device.auto,
    model: OptionalModel = None,
) -> None:
    """Train a classifier on the people of DIR, and print its error rates, measured with photos and people held out.

    If FILE exists already, only photos that are not in it are embedded, so adding or removing a person is quick.
    """
    if not 0 < rate < 1:
        raise typer.BadParameter(f"must be between 0 and 1, for instance 0.01, got {rate}", param_hint="--rate")
    if split is not None and test_data is not None:
        raise typer.BadParameter("--split and --test-data exclude each other")
    if not output.parent.is_dir():
        raise typer.BadParameter(f"the folder {output.parent} does not exist", param_hint="--output")
    from facespace.identification import classifier_report
    from facespace.identification.classifier import Classifier
    from facespace.identification.classifier_evaluation import evaluate_classifier
    from facespace.pipeline.people import split_people
    from facespace.reports.page import check_plots

    if report is not None:
        check_plots()
    embedder = load_embedder(model, device.value, made_with=model_of_crops(folder, aligned=aligned))
    failures = Report()
    people = _read(folder, embedder, aligned, _known(output, embedder), failures)
    least = min_images or (split or 0) + 1
    kept, rest, too_few = split_people(people.names, n_train=split, min_images=least, seed=seed)
    if too_few:
        shown = ", ".join(too_few[:5]) + (", ..." if len(too_few) > 5 else "")
        say(f"{len(too_few)} people with fewer than {least} photos are left out: {shown}")
    if not kept:
        most = max(map(list(people.names).count, set(people.names)), default=0)
        raise ValueError(
            f"{plain_text(str(folder))}: no person has {least} photos with a face, the largest number is {most}; give "
            "a lower number with --min-images or --split"
        )
    classifier = Classifier(method.value, rate=rate, closed_set=closed_set, seed=seed)
    classifier.fit(
        people.embeddings[kept],
        [people.names[k] for k in kept],
        calibration=embedder.calibration,
        digests=[people.digests[k] for k in kept],
    )
    classifier.save(output, embedder)
    say_if_people_are_alike(embedder, classifier.templates_)
    tried, tested = None, None
    if split is not None:
        tested = [people.paths[k] for k in rest]
        tried = evaluate_classifier(classifier, people.embeddings[rest], [people.names[k] for k in rest])
    elif test_data is not None:
        others = _read(test_data, embedder, aligned, {}, failures)
        tested = list(others.paths)
        tried = evaluate_classifier(classifier, others.embeddings, list(others.names))
    if report is not None:
        classifier_report.write_report(
            report, classifier, tried, tested or [], _portraits(people, classifier, embedder)
        )
    if json:
        write_json(classifier_report.as_json(classifier, tried, tested or []))
    else:
        for line in classifier_report.in_words(classifier):
            write_line(line)
        if tried is not None:
            for line in classifier_report.tried_in_words(tried):
                write_line(line)
        write_line(f"{len(kept)} photos of {len(classifier.names_)} people ({people.n_known} known before) -> {output}")
        if report is not None:
            write_line(f"-> {report / 'report.html'}")
    failures.finish()


@app.command()
def test(
    file: ClassifierFile,
    folder: Folder,
    aligned: Aligned = False,
    report: ReportFolder = None,
    json: Json = False,
    device: EmbeddingDevice = Device.auto,
    model: OptionalModel = None,
) -> None:
    """Test a classifier on the people of DIR. People it was not trained on count as strangers."""
    from facespace.identification import classifier_report
    from facespace.identification.classifier import Classifier
    from facespace.identification.classifier_evaluation import evaluate_classifier
    from facespace.reports.page import check_plots

    if report is not None:
        check_plots()
    embedder = load_embedder(model, device.value, made_with=model_of_classifier(file))
    classifier = Classifier.load(file, embedder)
    say_if_people_are_alike(embedder, classifier.templates_)
    failures = Report()
    people = _read(folder, embedder, aligned, _learned(classifier), failures)
    if not len(people.names):
        raise ValueError(f"{plain_text(str(folder))}: no face was found in any of its photos; nothing to test on")
    tried = evaluate_classifier(classifier, people.embeddings, list(people.names))
    if report is not None:
        faces = _portraits(people, classifier, embedder)
        classifier_report.write_report(report, classifier, tried, list(people.paths), faces)
    if json:
        write_json(classifier_report.as_json(classifier, tried, list(people.paths)))
    else:
        seen = set(classifier.digests_) & set(people.digests)
        if seen:
            write_line(f"note: {len(seen)} of these photos were used in training, so the accuracy is too optimistic")
        wrong = [k for k in range(len(people.names)) if not tried.right(k)]
        for k in wrong[:_MAX_SHOWN]:
            write_line(
                f"  wrong: {plain_text(people.paths[k])}: {classifier_report.prediction_in_words(tried.predictions[k])}"
            )
        if len(wrong) > _MAX_SHOWN:
            write_line(f"  and {len(wrong) - _MAX_SHOWN} more; --report and --json list all")
        for line in classifier_report.tried_in_words(tried):
            write_line(line)
    failures.finish()


@app.command()
def predict(
    file: ClassifierFile,
    images: PhotosAndVideos = None,
    camera: Camera = None,
    json: Json = False,
    draw: Draw = None,
    every: Every = None,
    subtitles: Subtitles = None,
    repeats: Repeats = False,
    try_rotations: TryRotations = False,
    min_size: MinSize = DEFAULT_MIN_SIZE,
    device: EmbeddingDevice = Device.auto,
    model: OptionalModel = None,
) -> None:
    """Name every face in photos and videos, or call it unknown."""
    from facespace.cli.shared.name_files import check_inputs, name_files

    inputs = check_inputs(images, camera, draw, subtitles)
    from facespace.identification.classifier import Classifier

    embedder = load_embedder(model, device.value, made_with=model_of_classifier(file))
    classifier = Classifier.load(file, embedder)
    say_if_people_are_alike(embedder, classifier.templates_)
    report = Report()
    name_files(
        inputs, classifier.predict, embedder, camera=camera, json=json, draw=draw, every=every, subtitles=subtitles,
        min_size=min_size, report=report, repeats=repeats, try_rotations=try_rotations,
    )  # fmt: skip
    report.finish()


def _read(folder: Path, embedder: Embedder, aligned: bool, known: dict[str, Any], failures: Report) -> People:
    """Read the faces of a folder. Photos and people without a face are reported."""
    from facespace.pipeline.people import read_people

    people = read_people(folder, embedder, aligned=aligned, known=known, progress=progress)
    for path, reason in people.failed:
        failures.fail(path, f"{reason}; left out")
    for path, first in people.copies:
        say(f"{path}: the same file as {plain_text(first)}; left out")
    for name in people.without:
        failures.fail(str(folder / name), "no photo with a face; this person is left out")
    for how in people.prepared:
        if not how.endswith("as they are"):
            say(f"{folder}: {people.prepared[how]} crops: {how}")
    return people


def _portraits(people: People, classifier: Classifier, embedder: Embedder) -> dict[str, Image]:
    """Return a face of each person shown in the report."""
    from facespace.detection.factory import create_detector
    from facespace.identification.classifier_report import PEOPLE_SHOWN, THUMBNAIL
    from facespace.pipeline.people import portraits

    shown = classifier.names_[:PEOPLE_SHOWN]
    templates = dict(zip(shown, classifier.templates_, strict=False))
    return portraits(people, templates, create_detector(embedder.detector), side=THUMBNAIL)


def _known(output: Path, embedder: Embedder) -> dict[str, npt.NDArray[np.float32]]:
    """Return {digest of a photo or crop: its embedding} for what the classifier in the file `output` was fitted to.

    Return an empty dictionary if there is no classifier, or if another model made its embeddings.
    """
    from facespace.embedding.compatibility import other_model
    from facespace.identification.classifier import Classifier

    if not output.exists():
        return {}
    before = Classifier.load(output)  # raises an error if it is not a classifier, so that it is not overwritten
    return {} if other_model(before.model_, embedder) else _learned(before)


def _learned(classifier: Classifier) -> dict[str, npt.NDArray[np.float32]]:
    """Return {digest of a photo or crop: its embedding} for what a classifier was fitted to."""
    return dict(zip(classifier.digests_, classifier.embeddings_, strict=True))
