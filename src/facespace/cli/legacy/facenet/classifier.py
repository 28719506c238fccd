"""facespace facenet classifier: train a classifier on class folders of crops, or test it on other class folders."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facespace.cli.legacy.arguments import Program, say_equivalent
from facespace.cli.legacy.classifiers import in_words, load_classifier, write_loaded
from facespace.cli.legacy.models import load_model
from facespace.cli.shared.output import Report, progress, say, write_line
from facespace.errors import ClassifierError, DatasetError
from facespace.io.text import plain_text

if TYPE_CHECKING:
    import argparse

    from facespace.embedding.embedder import Embedder
    from facespace.identification.classifier import Classifier
    from facespace.pipeline.people import People


def main(argv: list[str]) -> None:
    """Train a classifier and write it in facespace's own format (TRAIN), or test it on labelled images (CLASSIFY)."""
    parser = Program("facenet classifier", "Train a classifier on the people of a folder, or test it on a folder.")
    parser.add_argument("mode", choices=["TRAIN", "CLASSIFY"], help="Train a classifier, or test one.")
    parser.add_argument("data_dir", help="Class folders of aligned crops, or of photos.")
    parser.add_argument("model", help="A .pb file, a checkpoint folder, a model folder, or a model name.")
    parser.add_argument("classifier_filename", help="The classifier file, which TRAIN writes and CLASSIFY reads.")
    parser.flag("--use_split_dataset", "Train on some images of every person, and test on the others.")
    parser.add_argument("--test_data_dir", help="Class folders to test on instead; people are matched by name.")
    parser.ignore_batch_size(batch_size=90)
    parser.ignore_preprocessing("use_fixed_image_standardization", image_size=160)
    parser.flags(
        ("--seed", 666, "Random seed of the split."),
        (
            "--min_nrof_images_per_class",
            20,
            "With --use_split_dataset: smallest number of images of a person; people with fewer are left out.",
        ),
        ("--nrof_train_images_per_class", 10, "With --use_split_dataset: number of training images per person."),
    )
    arguments = parser.parse(argv)
    if arguments.use_split_dataset and arguments.test_data_dir:
        say("testing on --test_data_dir; the images that --use_split_dataset leaves for testing are not used")
    if not arguments.use_split_dataset:
        for name in ("min_nrof_images_per_class", "nrof_train_images_per_class"):
            if getattr(arguments, name) != parser.get_default(name):
                say(f"--{name}: ignored because --use_split_dataset is not given")
    report = Report()
    (_train if arguments.mode == "TRAIN" else _classify)(arguments, report)
    report.finish()


def _train(arguments: argparse.Namespace, report: Report) -> None:
    from facespace.identification.classifier import Classifier

    file = Path(arguments.classifier_filename).expanduser()
    if not file.parent.is_dir():
        raise DatasetError(f"{plain_text(str(file.parent))}: no such folder to write to")
    if file.exists():
        try:
            Classifier.load(file)
        except ClassifierError:
            raise ClassifierError(
                f"{plain_text(str(file))}: already exists and is not a facespace classifier, so it is not overwritten; give "
                "another name"
            ) from None
    root = Path(arguments.data_dir).expanduser()
    files = _chosen(root, arguments, train=True)
    embedder = _model(arguments.model)
    split: tuple[Any, ...] = ()
    if arguments.use_split_dataset:
        split = _split_options(arguments)
    elif arguments.test_data_dir:
        split = ("--test-data", arguments.test_data_dir)
    _say_equivalent_training(arguments, embedder, file, split)
    people = _read(root, files, embedder, report, {})
    write_line("Training classifier")
    classifier = Classifier("svm", seed=arguments.seed)
    classifier.fit(people.embeddings, people.names, calibration=embedder.calibration, digests=people.digests)
    classifier.save(file, embedder)
    write_line(f'Saved classifier model to file "{plain_text(str(file))}"')
    say(f"{file.name} is in facespace's own format, not a pickle: loading it runs no code")
    if arguments.test_data_dir:
        others = Path(arguments.test_data_dir).expanduser()
        tested = _read(others, _chosen(others), embedder, report, {})
        write_line("Testing classifier")
        _try(tested, classifier)


def _classify(arguments: argparse.Namespace, report: Report) -> None:
    file = Path(arguments.classifier_filename).expanduser()
    if arguments.test_data_dir:
        root = Path(arguments.test_data_dir).expanduser()
        files = _chosen(root)
    else:
        root = Path(arguments.data_dir).expanduser()
        files = _chosen(root, arguments, train=False)
    embedder = _model(arguments.model)
    if arguments.use_split_dataset and not arguments.test_data_dir:
        # The equivalent command trains a classifier, so it must write to another file than the one tested here.
        apart = _free(file.with_name(f"{file.stem}-split{file.suffix}"))
        note = "it also trains, into a separate file, before it tests"
        _say_equivalent_training(arguments, embedder, apart, _split_options(arguments), note=note)
    else:
        crops = _aligned_option(root, embedder)
        say_equivalent("facespace", "classify", "test", file, root, *crops, "--model", arguments.model)
    classifier = load_classifier(file, embedder)
    people = _read(root, files, embedder, report, dict(zip(classifier.digests_, classifier.embeddings_, strict=True)))
    write_line("Testing classifier")
    write_loaded(file, classifier)
    _try(people, classifier)


def _say_equivalent_training(
    arguments: argparse.Namespace, embedder: Embedder, out: Path, split: tuple[Any, ...], *, note: str = ""
) -> None:
    root = Path(arguments.data_dir).expanduser()
    options = ("--method", "svm", *split, *_aligned_option(root, embedder), "--model", arguments.model)
    say_equivalent("facespace", "classify", "train", root, "--output", out, *options, note=note)


def _split_options(arguments: argparse.Namespace) -> tuple[Any, ...]:
    n, least = arguments.nrof_train_images_per_class, arguments.min_nrof_images_per_class
    return ("--split", n, "--min-images", least, "--seed", arguments.seed)


def _free(path: Path) -> Path:
    """Return the path, with a number added if it already exists."""
    free, number = path, 2
    while os.path.lexists(free):
        free, number = path.with_name(f"{path.stem}-{number}{path.suffix}"), number + 1
    return free


def _model(given: str) -> Embedder:
    write_line("Loading feature extraction model")
    return load_model(given)


def _chosen(root: Path, arguments: argparse.Namespace | None = None, *, train: bool = False) -> set[str]:
    """Return the paths of images in class folders to train or test on, and print how many there are.

    With `--use_split_dataset`, only the training or the test part is returned. Raises `DatasetError` if no image is left.
    """
    from facespace.datasets.formats.class_folders import read_class_folders
    from facespace.pipeline.people import split_people

    listed = [(name, path) for name, paths in read_class_folders(root) for path in paths]
    if arguments is not None and arguments.use_split_dataset:
        n, least = arguments.nrof_train_images_per_class, arguments.min_nrof_images_per_class
        if n < 1:
            raise DatasetError(f"--nrof_train_images_per_class must be at least 1, got {n}")
        learn, test, too_few = split_people(
            [name for name, _ in listed], n_train=n, min_images=least, seed=arguments.seed
        )
        rows = learn if train else test
        most, found = Counter(name for name, _ in listed).most_common(1)[0] if listed else ("no person", 0)
        if not rows and found < least:
            raise DatasetError(
                f"{plain_text(str(root))}: no person has {least} images (--min_nrof_images_per_class); the largest number is "
                f"{found}, of {plain_text(most)}: give at most {found}"
            )
        if not rows:
            raise DatasetError(
                f"{plain_text(str(root))}: no images are left to test on: --nrof_train_images_per_class {n} uses all; the largest "
                f"number is {found}, of {plain_text(most)}: give less than {found}"
            )
        if too_few:
            say(f"{len(too_few)} people with fewer than {least} images are left out (--min_nrof_images_per_class)")
        listed = [listed[k] for k in rows]
    write_line(f"Number of classes: {len({name for name, _ in listed})}")
    write_line(f"Number of images: {len(listed)}")
    return {path for _, path in listed}


def _shape_of_crops(root: Path) -> tuple[int, int] | None:
    """Return (height, width) of the first image; None if the folder has a record (align.json) of its crops."""
    from facespace.datasets.formats.class_folders import read_class_folders
    from facespace.faces.crops import read_record, size_of_first

    if read_record(root) is not None:
        return None
    return size_of_first(path for _, paths in read_class_folders(root) for path in paths)


def _aligned_option(root: Path, embedder: Embedder) -> tuple[str, ...]:
    """Return the option `--aligned` if the folder contains crops but no record of them (align.json), else no option."""
    from facespace.faces.crops import may_be_cut

    size = _shape_of_crops(root) if root.is_dir() else None
    return ("--aligned",) if size is not None and may_be_cut(*size, embedder.spec.size) else ()


def _read(root: Path, files: set[str], embedder: Embedder, report: Report, known: dict[str, Any]) -> People:
    from facespace.faces.crops import may_be_cut
    from facespace.pipeline.people import read_people

    size = _shape_of_crops(root)
    aligned = size is None or may_be_cut(*size, embedder.spec.size)
    if size is not None and not aligned:
        say(
            f"{root}: images of {size[1]}x{size[0]} px instead of crops of {embedder.spec.size} px; faces are detected "
            "and cropped"
        )
    write_line("Calculating features for images")
    people = read_people(root, embedder, aligned=aligned, known=known, only=files, progress=progress)
    for path, reason in people.failed:
        report.fail(path, f"{reason}; left out")
    if not people.names:
        raise DatasetError(f"{plain_text(str(root))}: none of its images can be used")
    return people


def _try(people: People, classifier: Classifier) -> None:
    """Print one line per image, and the closed-set and open-set accuracies."""
    from facespace.identification.classifier_evaluation import evaluate_classifier

    tried = evaluate_classifier(classifier, people.embeddings, people.names)
    for k, prediction in enumerate(tried.predictions):
        write_line(f"{k:4d}  {in_words(prediction)}")
    n = len(people.names)
    nearest = sum(p.nearest == name for p, name in zip(tried.predictions, tried.names, strict=True))
    unknown = sum(prediction.name is None for prediction in tried.predictions)
    write_line(f"Accuracy: {nearest / n:.3f}")
    write_line(f"Open-set accuracy: {sum(tried.right(k) for k in range(n)) / n:.3f}")
    say(
        "Accuracy is closed-set, as in the old program: the nearest person counts as the answer, however low the "
        f"similarity. Open-set: {unknown} of {n} were called unknown, which is right for the {n - sum(tried.known)} of "
        "people the classifier was not trained on"
    )
    if seen := set(classifier.digests_) & set(people.digests):
        say(f"{len(seen)} of these images were used in training, so the accuracy is too optimistic")
