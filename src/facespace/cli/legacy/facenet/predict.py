"""facespace facenet predict: the people in photos, named by a trained classifier."""

from __future__ import annotations

import os
from pathlib import Path

from facespace.cli.legacy.arguments import Program, say_equivalent
from facespace.cli.legacy.classifiers import in_words, load_classifier, write_loaded
from facespace.cli.legacy.models import load_model
from facespace.cli.shared.output import Report, write_line
from facespace.io.text import plain_text


def main(argv: list[str]) -> None:
    """Print a name, or `unknown`, for every face of every photo."""
    parser = Program(
        "facenet predict", "Name the faces of photos with a classifier from `facespace facenet classifier TRAIN`."
    )
    parser.add_argument("image_files", nargs="+", help="Photos.")
    parser.add_argument("model", help="A .pb file, a checkpoint folder, a model folder, or a model name.")
    parser.add_argument("classifier_filename", help="The classifier that TRAIN wrote.")
    parser.ignore_preprocessing(image_size=160, margin=44)
    parser.ignore("naming faces uses no random numbers", seed=666)
    parser.ignore_gpu_memory_fraction()
    arguments = parser.parse(argv)
    files = [os.path.expanduser(file) for file in arguments.image_files]
    say_equivalent(
        "facespace", "classify", "predict", arguments.classifier_filename, *files, "--model", arguments.model
    )

    from facespace.detection.factory import create_detector
    from facespace.pipeline.photos import process

    write_line("Creating networks and loading parameters")
    embedder = load_model(arguments.model)
    file = Path(arguments.classifier_filename).expanduser()
    classifier = load_classifier(file, embedder)
    write_loaded(file, classifier)
    report = Report()
    for photo in process(files, create_detector(embedder.detector), embedder):
        if photo.error is not None:
            report.fail(photo.path, photo.error)
            continue
        write_line(f"\npeople in image {plain_text(photo.path)} :")
        for prediction in classifier.predict(photo.embeddings):
            write_line(in_words(prediction))
    report.finish()
