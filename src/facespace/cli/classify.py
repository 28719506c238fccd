"""facespace classify: learn people from folders, test, and name the faces of photos."""

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
    Repeats,
    Sights,
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
    """What chooses the person a face is most like."""

    centroid = "centroid"
    knn = "knn"
    logistic = "logistic"
    svm = "svm"


app = typer.Typer(
    help="Learn people from folders of photos, and name faces or call them unknown.", no_args_is_help=True
)

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="A folder of folders, one a person: photos, or crops of facespace align.")
]
ReportFolder = Annotated[
    Path | None, typer.Option("--report", metavar="DIR", help="Write report.html and report.json there.")
]
ClassifierFile = Annotated[Path, typer.Argument(metavar="FILE", help="A classifier of `facespace classify train`.")]
_SHOWN = 20


@app.command()
def train(
    folder: Folder,
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="The classifier to write.")],
    method: Annotated[
        Method, typer.Option("--method", help="What names; strangers are told by similarity whatever it is.")
    ] = Method.centroid,
    rate: Annotated[
        float, typer.Option("--rate", metavar="R", help="Share of strangers' faces that may be given a name.")
    ] = CLASSIFY_RATE,
    closed_set: Annotated[
        bool, typer.Option("--closed-set", help="Give everybody a name, as the 2018 program did.")
    ] = False,
    split: Annotated[
        int | None,
        typer.Option("--split", metavar="N", min=1, help="Learn from N photos of each person, test on the others."),
    ] = None,
    min_images: Annotated[
        int | None,
        typer.Option(
            "--min-images", metavar="N", min=1, help="Leave out who has fewer; with --split N by default N + 1."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", metavar="S", help="What --split and the held-out photos are drawn by.")
    ] = 0,
    test_data: Annotated[
        Path | None, typer.Option("--test-data", metavar="DIR", help="Test on this folder, matched by people's names.")
    ] = None,
    aligned: Aligned = False,
    report: ReportFolder = None,
    json: Json = False,
    device: EmbeddingDevice = Device.auto,
    model: OptionalModel = None,
) -> None:
    """Learn the people of DIR. Known photos are not computed again when FILE is there already.

    Prints what was measured with photos and whole people held out. Run again after adding or removing a person's
    folder, it takes a moment.
    """
    if not 0 < rate < 1:
        raise typer.BadParameter(f"wants a share between 0 and 1, for instance 0.01; got {rate}", param_hint="--rate")
    if split is not None and test_data is not None:
        raise typer.BadParameter("wants either --split or --test-data")
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
            f"{plain_text(str(folder))}: nobody has {least} photos with a face to learn from, the most are {most}; give "
            "fewer with --min-images or --split"
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
    """Name the faces of DIR and compare with the names of its folders; whoever was not learned is a stranger."""
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
        raise ValueError(f"{plain_text(str(folder))}: no face in any of its photos; nothing to test on")
    tried = evaluate_classifier(classifier, people.embeddings, list(people.names))
    if report is not None:
        faces = _portraits(people, classifier, embedder)
        classifier_report.write_report(report, classifier, tried, list(people.paths), faces)
    if json:
        write_json(classifier_report.as_json(classifier, tried, list(people.paths)))
    else:
        seen = set(classifier.digests_) & set(people.digests)
        if seen:
            write_line(f"note: {len(seen)} of these photos were learned from; the figures flatter")
        wrong = [k for k in range(len(people.names)) if not tried.right(k)]
        for k in wrong[:_SHOWN]:
            write_line(
                f"  wrong: {plain_text(people.paths[k])}: {classifier_report.prediction_in_words(tried.predictions[k])}"
            )
        if len(wrong) > _SHOWN:
            write_line(f"  and {len(wrong) - _SHOWN} more; --report or --json has all")
        for line in classifier_report.tried_in_words(tried):
            write_line(line)
    failures.finish()


@app.command()
def predict(
    file: ClassifierFile,
    images: Sights = None,
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
    """Name every face of whole photos and videos, or call it unknown."""
    from facespace.cli.shared.name_files import check_sights, name_files

    sights = check_sights(images, camera, draw, subtitles)
    from facespace.identification.classifier import Classifier

    embedder = load_embedder(model, device.value, made_with=model_of_classifier(file))
    classifier = Classifier.load(file, embedder)
    say_if_people_are_alike(embedder, classifier.templates_)
    report = Report()
    name_files(
        sights, classifier.predict, embedder, camera=camera, json=json, draw=draw, every=every, subtitles=subtitles,
        min_size=min_size, report=report, repeats=repeats, try_rotations=try_rotations,
    )  # fmt: skip
    report.finish()


def _read(folder: Path, embedder: Embedder, aligned: bool, known: dict[str, Any], failures: Report) -> People:
    """The folder's faces; files that gave none are told, and so is whoever is left without any."""
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
            say(f"{folder}: of the crops, {people.prepared[how]}: {how}")
    return people


def _portraits(people: People, classifier: Classifier, embedder: Embedder) -> dict[str, Image]:
    """A face of each person that the report shows."""
    from facespace.detection.factory import create_detector
    from facespace.identification.classifier_report import PEOPLE_SHOWN, THUMBNAIL
    from facespace.pipeline.people import portraits

    shown = classifier.names_[:PEOPLE_SHOWN]
    templates = dict(zip(shown, classifier.templates_, strict=False))
    return portraits(people, templates, create_detector(embedder.detector), side=THUMBNAIL)


def _known(output: Path, embedder: Embedder) -> dict[str, npt.NDArray[np.float32]]:
    """Embeddings by digest of a classifier that is there already, to be learned anew; {} where it is of another model."""
    from facespace.embedding.compatibility import other_model
    from facespace.identification.classifier import Classifier

    if not output.exists():
        return {}
    before = Classifier.load(output)  # a file that is no classifier is not overwritten
    return {} if other_model(before.model_, embedder) else _learned(before)


def _learned(classifier: Classifier) -> dict[str, npt.NDArray[np.float32]]:
    """The embeddings a classifier was fitted to, by digest."""
    return dict(zip(classifier.digests_, classifier.embeddings_, strict=True))
