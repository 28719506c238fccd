"""Class folders as arrays of embeddings, as the old programs made them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from facespace.cli.output import Report, progress, say, write_line
from facespace.errors import DatasetError
from facespace.text import plain_text

if TYPE_CHECKING:
    from facespace.dataset_images import Images
    from facespace.embedder import Embedder
    from facespace.face import InputSpec

OTHERWISE = "of whole photos; photo and mirror image together"


def embedded(root: Path, embedder: Embedder, report: Report, *, aligned: bool = True, plain: bool = True) -> Images:
    """The folder's images, embedded; those that cannot be read, or show no face, are reported and left out."""
    from facespace.crop_record import read_record
    from facespace.dataset_images import read_crops, read_photos

    record = read_record(root) if aligned and root.is_dir() else None
    if record is not None and record.template != embedder.spec.template:
        raise DatasetError(f"{plain_text(str(root))}: {record.misfit(embedder.spec)}; align the photos for this model")
    read = read_crops if aligned else read_photos
    images = read(root, embedder, progress=progress, plain=plain)
    for how in images.prepared:
        if not how.endswith("as they are") and aligned:
            say(f"{root}: {how}")
    for _, path, reason in images.unreadable:
        report.fail(path, reason)
    for _, path in images.faceless:
        report.fail(path, "no face found")
    if not len(images.paths):
        raise DatasetError(f"{plain_text(str(root))}: none of its images can be used")
    return images


def looks_aligned(root: Path, spec: InputSpec) -> bool:
    """Whether class folders hold crops for this model, told by their size where no `align.json` does; else photos."""
    from facespace import image
    from facespace.crop_record import read_record
    from facespace.datasets.folder import read_class_folders
    from facespace.errors import ImageError

    folders = read_class_folders(root)
    if read_record(root) is not None:
        return True
    for path in (path for _, paths in folders for path in paths):
        try:
            height, width = image.read(path).shape[:2]
        except ImageError:
            continue
        aligned = bool(height == width and spec.size <= height <= 1.25 * spec.size)
        if not aligned:
            say(
                f"{root}: images of {width}x{height} px, no crops of {spec.size} px; their faces are detected and cut out"
            )
        return aligned
    return True  # nothing can be read, as its reader will say


def save(path: Path, array: Any) -> None:
    """An array as `.npy`, there whole or not at all."""
    import numpy as np

    from facespace.files import atomic_path

    if not path.parent.is_dir():
        raise DatasetError(f"{plain_text(str(path.parent))}: no such folder to write into")
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        np.save(file, array)
    write_line(f"{plain_text(str(path))}: {' x '.join(map(str, array.shape))} {array.dtype}")
