"""facespace facenet export_embeddings: embeddings, labels and names of a folder as three .npy files."""

from __future__ import annotations

import time
from pathlib import Path

from facespace.cli.legacy.arguments import Program, today, true_or_false
from facespace.cli.legacy.folders import OTHERWISE, embedded, save
from facespace.cli.legacy.models import load_model
from facespace.cli.shared.output import Report, write_line


def main(argv: list[str]) -> None:
    """Write embeddings (N,D), labels (N,) and label_strings (N,), a row an image."""
    parser = Program("facenet export_embeddings", "Embeddings, labels and names of class folders as .npy files.")
    parser.add_argument("model_dir", help="The folder of a checkpoint, a .pb, a model folder, or a model's name.")
    parser.add_argument("data_dir", help="Class folders.")
    parser.add_argument(
        "--is_aligned", type=true_or_false, default=True, help="False: whole photos, whose faces are to be detected."
    )
    parser.preprocessing(image_size=160, margin=44)
    parser.machine(gpu_memory_fraction=1.0, image_batch=500)
    parser.flags(
        ("--embeddings_name", "embeddings.npy", "Where the embeddings go."),
        ("--labels_name", "labels.npy", "Where the labels go: numbers of the folders, in the order of their names."),
        ("--labels_strings_name", "label_strings.npy", "Where the folders' names go, one an image."),
    )
    arguments = parser.parse(argv)
    root = Path(arguments.data_dir).expanduser()
    today("facespace", "embed", root, "--output", "embeddings.npz", "--model", arguments.model_dir, note=OTHERWISE)

    import numpy as np

    from facespace.io.text import plain_text

    report, start = Report(), time.perf_counter()
    images = embedded(root, load_model(arguments.model_dir), report, aligned=arguments.is_aligned)
    write_line(f"Number of images:  {len(images.paths)}")
    write_line(f"Run time:  {time.perf_counter() - start:.3f}")
    names = np.array([plain_text(name) for name in images.names])
    save(Path(arguments.embeddings_name).expanduser(), images.embeddings)
    save(Path(arguments.labels_name).expanduser(), images.labels)
    save(Path(arguments.labels_strings_name).expanduser(), names[images.labels])
    report.finish()
