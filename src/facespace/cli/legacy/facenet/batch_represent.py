"""facespace facenet batch_represent: embeddings and labels of a folder as signatures.npy and gallery.npy."""

from __future__ import annotations

import time
from pathlib import Path

from facespace.cli.legacy.arguments import Program, say_equivalent
from facespace.cli.legacy.folders import DIFFERENCE, embed_folder, save
from facespace.cli.legacy.models import load_model
from facespace.cli.shared.output import Report, write_line


def main(argv: list[str]) -> None:
    """Write embeddings (N,D) to signatures.npy and labels (N,) to gallery.npy, one row per image."""
    parser = Program(
        "facenet batch_represent", "Write the embeddings and labels of class folders of crops as .npy files."
    )
    parser.add_argument("-d", "--data_dir", required=True, help="Class folders of aligned crops.")
    parser.add_argument("-o", "--output_dir", required=True, help="The folder to write to.")
    parser.add_argument(
        "--trained_model_dir", required=True, help="A checkpoint folder, a .pb file, a model folder, or a model name."
    )
    parser.ignore_batch_size(batch_size=50)
    arguments = parser.parse(argv)
    root, out = Path(arguments.data_dir).expanduser(), Path(arguments.output_dir).expanduser()
    say_equivalent(
        "facespace",
        "embed",
        root,
        "--output",
        out / "embeddings.npz",
        "--model",
        arguments.trained_model_dir,
        note=DIFFERENCE,
    )

    report = Report()
    write_line("Loading trained model...\n")
    embedder = load_model(arguments.trained_model_dir)
    write_line("Finding image paths and targets...\n")
    write_line("Generating embeddings from images...\n")
    start = time.perf_counter()
    images = embed_folder(root, embedder, report)
    n = len(images.paths)
    write_line(f"Forward pass took avg of {(time.perf_counter() - start) / n:.3f}[seconds/image] for {n} images\n")
    write_line(f"Finally saving embeddings and gallery to: {out}")
    out.mkdir(parents=True, exist_ok=True)
    save(out / "gallery.npy", images.labels)
    save(out / "signatures.npy", images.embeddings)
    report.finish()
