"""facespace facenet classifier: people learned from folders of crops, and told apart in others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from facespace.cli.legacy.arguments import Program, today
from facespace.cli.legacy.classifiers import in_words, loaded, shown_name
from facespace.cli.shared.models import load_embedder
from facespace.cli.shared.output import Report, progress, say, write_line
from facespace.errors import ClassifierError, DatasetError
from facespace.io.text import plain_text

if TYPE_CHECKING:
    import argparse

    from facespace.embedding.embedder import Embedder
    from facespace.pipeline.people import People


def main(argv: list[str]) -> None:
    """TRAIN writes a classifier under the name given, in facespace's own format; CLASSIFY names and counts."""
    parser = Program("facenet classifier", "Learn the people of a folder, or name the faces of one.")
    parser.add_argument("mode", choices=["TRAIN", "CLASSIFY"], help="Learn, or use what was learned.")
    parser.add_argument("data_dir", help="Class folders of aligned crops.")
    parser.add_argument("model", help="A .pb, the folder of a checkpoint, a model folder, or a model's name.")
    parser.add_argument("classifier_filename", help="The classifier: written by TRAIN, read by CLASSIFY.")
    parser.flag("--use_split_dataset", "TRAIN learns from a part of every person's images, CLASSIFY tests on the rest.")
    parser.add_argument("--test_data_dir", help="Class folders to test on instead, matched by people's names.")
    parser.machine(batch_size=90)
    parser.preprocessing("use_fixed_image_standardization", image_size=160)
    parser.flags(
        ("--seed", 666, "By which the split is drawn."),
        ("--min_nrof_images_per_class", 20, "With --use_split_dataset: people with fewer images are left out."),
        ("--nrof_train_images_per_class", 10, "With --use_split_dataset: images of each to learn from."),
    )
    arguments = parser.parse(argv)
    if arguments.use_split_dataset and arguments.test_data_dir:
        say("--test_data_dir is what is tested on; --use_split_dataset leaves the rest of data_dir aside")
    _today(arguments)
    embedder = load_embedder(arguments.model)
    report = Report()
    (_train if arguments.mode == "TRAIN" else _classify)(arguments, embedder, report)
    report.finish()


def _today(arguments: argparse.Namespace) -> None:
    model = ("--model", arguments.model)
    if arguments.mode == "CLASSIFY" and not arguments.use_split_dataset:
        tested = arguments.test_data_dir or arguments.data_dir
        today("facespace", "classify", "test", arguments.classifier_filename, tested, *model)
        return
    split: tuple[Any, ...] = ()
    if arguments.use_split_dataset:
        n, least = arguments.nrof_train_images_per_class, arguments.min_nrof_images_per_class
        split = ("--split", n, "--min-images", least, "--seed", arguments.seed)
    elif arguments.test_data_dir:
        split = ("--test-data", arguments.test_data_dir)
    out = ("--output", arguments.classifier_filename)
    today("facespace", "classify", "train", arguments.data_dir, *out, "--method", "svm", *split, *model)


def _train(arguments: argparse.Namespace, embedder: Embedder, report: Report) -> None:
    from facespace.identification.classifier import Classifier

    file = Path(arguments.classifier_filename).expanduser()
    if not file.parent.is_dir():
        raise DatasetError(f"{plain_text(str(file.parent))}: no such folder to write into")
    if file.exists():
        try:
            Classifier.load(file)
        except ClassifierError:
            raise ClassifierError(
                f"{plain_text(str(file))}: is there and is no classifier of facespace, so it is not overwritten; give "
                "another name"
            ) from None
    people, rows = _part(arguments, embedder, report, train=True)
    write_line("Training classifier")
    classifier = Classifier("svm", seed=arguments.seed)
    names = [shown_name(people.names[k]) for k in rows]
    digests = [people.digests[k] for k in rows]
    classifier.fit(people.embeddings[rows], names, calibration=embedder.calibration, digests=digests)
    classifier.save(file, embedder)
    write_line(f'Saved classifier model to file "{plain_text(str(file))}"')
    say(f"{file.name} is no pickle, whatever it is called: facespace's own format, of which nothing is run")
    if arguments.test_data_dir:
        _test(Path(arguments.test_data_dir).expanduser(), classifier, embedder, report, {})


def _classify(arguments: argparse.Namespace, embedder: Embedder, report: Report) -> None:
    file = Path(arguments.classifier_filename).expanduser()
    classifier = loaded(file, embedder)
    known = dict(zip(classifier.digests_, classifier.embeddings_, strict=True))
    if arguments.test_data_dir:
        _test(Path(arguments.test_data_dir).expanduser(), classifier, embedder, report, known)
        return
    people, rows = _part(arguments, embedder, report, train=False, known=known)
    _try(people, rows, classifier, classifier.digests_)


def _test(root: Path, classifier: Any, embedder: Embedder, report: Report, known: dict[str, Any]) -> None:
    people = _read(root, embedder, report, known)
    _counted(people, list(range(len(people.names))))
    _try(people, list(range(len(people.names))), classifier, tuple(known))


def _part(
    arguments: argparse.Namespace,
    embedder: Embedder,
    report: Report,
    *,
    train: bool,
    known: dict[str, Any] | None = None,
) -> tuple[People, list[int]]:
    """The images of data_dir, and the rows to learn from or to test on."""
    from facespace.pipeline.people import split_people

    people = _read(Path(arguments.data_dir).expanduser(), embedder, report, known or {})
    rows = list(range(len(people.names)))
    if arguments.use_split_dataset:
        n, least = arguments.nrof_train_images_per_class, arguments.min_nrof_images_per_class
        learn, test, _ = split_people(people.names, n_train=n, min_images=least, seed=arguments.seed)
        rows = learn if train else test
    if not rows:
        raise DatasetError(
            f"{plain_text(arguments.data_dir)}: nobody has enough images to {'learn from' if train else 'test on'}"
        )
    _counted(people, rows)
    return people, rows


def _read(root: Path, embedder: Embedder, report: Report, known: dict[str, Any]) -> People:
    from facespace.datasets.formats.class_folders import read_class_folders
    from facespace.faces.crops import may_be_cut, read_record, size_of_first
    from facespace.pipeline.people import read_people

    folders = read_class_folders(root)
    size = None if read_record(root) is not None else size_of_first(path for _, paths in folders for path in paths)
    aligned = size is None or may_be_cut(*size, embedder.spec.size)
    if size is not None and not aligned:
        say(
            f"{root}: images of {size[1]}x{size[0]} px, no crops of {embedder.spec.size} px; their faces are detected "
            "and cut out"
        )
    people = read_people(root, embedder, aligned=aligned, known=known, progress=progress)
    for path, reason in people.failed:
        report.fail(path, f"{reason}; left out")
    return people


def _counted(people: People, rows: list[int]) -> None:
    write_line(f"Number of classes: {len({people.names[k] for k in rows})}")
    write_line(f"Number of images: {len(rows)}")


def _try(people: People, rows: list[int], classifier: Any, learned: tuple[str, ...]) -> None:
    """A line an image, and the share that was named rightly: by people's names, strangers by calling them unknown."""
    from facespace.identification.classifier_evaluation import evaluate_classifier

    write_line("Testing classifier")
    tried = evaluate_classifier(classifier, people.embeddings[rows], [shown_name(people.names[k]) for k in rows])
    for k, prediction in enumerate(tried.predictions):
        write_line(f"{k:4d}  {in_words(prediction)}")
    right = sum(tried.right(k) for k in range(len(rows)))
    write_line(f"Accuracy: {right / len(rows):.3f}")
    unknown = sum(prediction.name is None for prediction in tried.predictions)
    if unknown:
        nearest = sum(p.nearest == name for p, name in zip(tried.predictions, tried.names, strict=True))
        say(
            f"{unknown} of {len(rows)} were called unknown; with the nearest person named whatever the similarity, as the "
            f"old program did, the accuracy is {nearest / len(rows):.3f}"
        )
    if seen := set(learned) & {people.digests[k] for k in rows}:
        say(f"{len(seen)} of these images were learned from; the accuracy flatters")
