"""facespace facenet cluster: the faces of a folder, sorted into one folder per person."""

from __future__ import annotations

from pathlib import Path

from facespace.cli.legacy.arguments import Program, say_equivalent
from facespace.cli.legacy.distance_matrix import write_images, write_matrix
from facespace.cli.shared.models import load_embedder
from facespace.cli.shared.output import Report, progress, write_line
from facespace.errors import DatasetError
from facespace.io.text import plain_text

_MAX_SHOWN = 30  # with more faces, the distance matrix is not printed
_MIN_SCORE = 0.95  # faces with this score or less are left out


def main(argv: list[str]) -> None:
    """Save the crops of every group as OUT/NUMBER/1.png, …; group 0 is the largest."""
    parser = Program("facenet cluster", "Sort the faces of photos into one folder per person.")
    parser.add_argument("model", help="A .pb file, a checkpoint folder, a model folder, or a model name.")
    parser.add_argument("data_dir", help="A folder of photos.")
    parser.add_argument("out_dir", help="The folder to write to; it must be empty or not exist.")
    parser.ignore_preprocessing(image_size=160, margin=44)
    parser.ignore_gpu_memory_fraction()
    parser.flags(
        ("--min_cluster_size", 1, "Smallest number of faces in a group that is saved."),
        ("--cluster_threshold", 1.0, "Largest Euclidean distance between two faces of one group."),
    )
    parser.flag("--largest_cluster_only", "Save only the largest group, as OUT/1.png, ...")
    arguments = parser.parse(argv)
    root, out = Path(arguments.data_dir).expanduser(), Path(arguments.out_dir).expanduser()
    distance = arguments.cluster_threshold
    if not 0 < distance < 2**0.5:
        raise DatasetError(f"--cluster_threshold must be above 0 and below 1.4142, got {distance}")
    cosine = 1 - distance**2 / 2  # of unit vectors
    say_equivalent(
        "facespace", "cluster", root, "--output", out, "--method", "dbscan", "--threshold", f"{cosine:g}",
        "--model", arguments.model,
    )  # fmt: skip
    if not root.is_dir():
        raise DatasetError(f"{plain_text(str(root))}: no such folder of photos")
    if out.is_dir() and any(out.iterdir()):
        raise DatasetError(
            f"{plain_text(str(out))}: must be empty, so that groups of two runs are not mixed; give another folder"
        )

    import numpy as np

    from facespace.clustering.algorithms import cluster
    from facespace.detection.factory import create_detector
    from facespace.faces.alignment import align
    from facespace.io.files import write_bytes
    from facespace.io.png import encode_png
    from facespace.pipeline.photos import find_images, process

    embedder, report = load_embedder(arguments.model), Report()
    paths, crops = [], []
    files = list(find_images([root]))
    for photo in progress(process(files, create_detector(embedder.detector), keep_pixels=True), len(files), "reading"):
        if photo.error is not None or photo.pixels is None:
            report.fail(photo.path, photo.error or "cannot be read")
            continue
        for face in photo.faces:
            if face.score > _MIN_SCORE:
                paths.append(photo.path)
                crops.append(align(photo.pixels, face, embedder.spec))
    if not crops:
        raise DatasetError(f"{plain_text(str(root))}: no face was found in any of its photos")
    embeddings = embedder.embed(np.stack(crops))
    write_images(paths)
    write_line("")
    if len(crops) <= _MAX_SHOWN:
        write_matrix(embeddings)
        write_line("")
    labels = cluster(embeddings, method="dbscan", threshold=cosine)
    groups = [np.flatnonzero(labels == k) for k in range(labels.max() + 1)]
    groups = [group for group in groups if len(group) >= arguments.min_cluster_size]
    write_line(f"No of clusters: {len(groups)}")
    for k, group in enumerate(groups):
        write_line(f"Cluster {k}: {group.tolist()}")
    if not groups:
        report.finish()
        return
    write_line("Saving largest cluster (Cluster: 0)" if arguments.largest_cluster_only else "Saving all clusters")
    for k, group in enumerate(groups[:1] if arguments.largest_cluster_only else groups):
        folder = out if arguments.largest_cluster_only else out / str(k)
        folder.mkdir(parents=True, exist_ok=True)
        for number, row in enumerate(group, 1):
            write_bytes(folder / f"{number}.png", encode_png(crops[row]))
    report.finish()
