"""facespace facenet predict: the people in photos, by a trained classifier."""

from __future__ import annotations

import os
from pathlib import Path

from facespace.cli.legacy.arguments import Program, today
from facespace.cli.legacy.classifiers import in_words, loaded, write_loaded
from facespace.cli.legacy.models import load_model
from facespace.cli.shared.output import Report, write_line
from facespace.io.text import plain_text


def main(argv: list[str]) -> None:
    """Name all faces of every photo, or call them unknown."""
    parser = Program(
        "facenet predict", "Name the faces of photos by a classifier of `facespace facenet classifier TRAIN`."
    )
    parser.add_argument("image_files", nargs="+", help="Photos.")
    parser.add_argument("model", help="A .pb, the folder of a checkpoint, a model folder, or a model's name.")
    parser.add_argument("classifier_filename", help="The classifier that TRAIN wrote.")
    parser.preprocessing(image_size=160, margin=44)
    parser.machine(seed=666, gpu_memory_fraction=1.0)
    arguments = parser.parse(argv)
    files = [os.path.expanduser(file) for file in arguments.image_files]
    today("facespace", "classify", "predict", arguments.classifier_filename, *files, "--model", arguments.model)

    from facespace.detection.factory import create_detector
    from facespace.pipeline.photos import process

    write_line("Creating networks and loading parameters")
    embedder = load_model(arguments.model)
    file = Path(arguments.classifier_filename).expanduser()
    classifier = loaded(file, embedder)
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
