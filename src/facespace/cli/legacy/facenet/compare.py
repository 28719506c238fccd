"""facespace facenet compare: distances between the faces of photos."""

from __future__ import annotations

import os

from facespace.cli.legacy.arguments import Program, say_equivalent
from facespace.cli.legacy.distance_matrix import write_images, write_matrix
from facespace.cli.legacy.models import load_model
from facespace.cli.shared.output import Report, write_line
from facespace.errors import DatasetError
from facespace.io.text import plain_text


def main(argv: list[str]) -> None:
    """Print the Euclidean distances between the highest-scoring faces of all photos. Photos without a face are left out."""
    parser = Program("facenet compare", "Print the Euclidean distances between the faces of photos.")
    parser.add_argument("model", help="A .pb file, a checkpoint folder, a model folder, or a model name.")
    parser.add_argument("image_files", nargs="+", help="Photos.")
    parser.ignore_preprocessing(image_size=160, margin=44)
    parser.ignore_gpu_memory_fraction()
    arguments = parser.parse(argv)
    files = [os.path.expanduser(file) for file in arguments.image_files]
    say_equivalent("facespace", "compare", "--model", arguments.model, *files)

    import numpy as np

    from facespace.detection.factory import create_detector
    from facespace.faces.alignment import align
    from facespace.pipeline.photos import process

    write_line("Creating networks and loading parameters")
    embedder = load_model(arguments.model)
    report, kept, crops = Report(), [], []
    for photo in process(files, create_detector(embedder.detector), keep_pixels=True):
        if photo.error is not None or photo.pixels is None:
            report.fail(photo.path, photo.error or "cannot be read")
        elif not photo.faces:
            write_line(f"can't detect face, remove {plain_text(photo.path)}")
        else:
            kept.append(photo.path)
            crops.append(align(photo.pixels, max(photo.faces, key=lambda face: face.score), embedder.spec))
    if not kept:
        raise DatasetError("no face was found in any of these photos")
    embeddings = embedder.embed(np.stack(crops))
    write_images(kept)
    write_line("")
    write_matrix(embeddings)
    report.finish()
