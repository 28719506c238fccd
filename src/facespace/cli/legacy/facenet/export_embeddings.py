"""facespace facenet export_embeddings: embeddings, labels and names of a folder as three .npy files."""

from __future__ import annotations

import time
from pathlib import Path

from facespace.cli.legacy.arguments import Program, say_equivalent, true_or_false
from facespace.cli.legacy.folders import DIFFERENCE, embed_folder, save
from facespace.cli.legacy.models import load_model
from facespace.cli.shared.output import Report, write_line


def main(argv: list[str]) -> None:
    """Write embeddings (N,D), labels (N,) and label_strings (N,), one row per image."""
    parser = Program(
        "facenet export_embeddings", "Write the embeddings, labels and names of class folders as .npy files."
    )
    parser.add_argument("model_dir", help="A checkpoint folder, a .pb file, a model folder, or a model name.")
    parser.add_argument("data_dir", help="A folder of class folders.")
    parser.add_argument(
        "--is_aligned",
        type=true_or_false,
        default=True,
        help="Whether the images are aligned crops. With False, faces are detected in whole photos.",
    )
    parser.ignore_preprocessing(image_size=160, margin=44)
    parser.ignore_gpu_memory_fraction()
    parser.ignore_batch_size(image_batch=500)
    parser.flags(
        ("--embeddings_name", "embeddings.npy", "The file to write the embeddings to."),
        ("--labels_name", "labels.npy", "The file to write the labels to: numbers of the folders, sorted by name."),
        ("--labels_strings_name", "label_strings.npy", "The file to write the folder names to, one per image."),
    )
    arguments = parser.parse(argv)
    root = Path(arguments.data_dir).expanduser()
    say_equivalent(
        "facespace", "embed", root, "--output", "embeddings.npz", "--model", arguments.model_dir, note=DIFFERENCE
    )

    import numpy as np

    from facespace.io.text import plain_text

    report, start = Report(), time.perf_counter()
    images = embed_folder(root, load_model(arguments.model_dir), report, aligned=arguments.is_aligned)
    write_line(f"Number of images:  {len(images.paths)}")
    write_line(f"Run time:  {time.perf_counter() - start:.3f}")
    names = np.array([plain_text(name) for name in images.names])
    save(Path(arguments.embeddings_name).expanduser(), images.embeddings)
    save(Path(arguments.labels_name).expanduser(), images.labels)
    save(Path(arguments.labels_strings_name).expanduser(), names[images.labels])
    report.finish()
