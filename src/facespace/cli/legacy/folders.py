"""Class folders as arrays of embeddings, as the old programs wrote them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facespace.cli.shared.output import Report, progress, say, write_line
from facespace.errors import DatasetError
from facespace.io.text import plain_text

if TYPE_CHECKING:
    from facespace.curation.images import Images
    from facespace.embedding.embedder import Embedder

DIFFERENCE = "detects faces in whole photos, and adds the embedding of the mirror image"


def embed_folder(root: Path, embedder: Embedder, report: Report, *, aligned: bool = True, plain: bool = True) -> Images:
    """Embed the images of class folders. Unreadable images and images without a face are reported and left out.

    With `aligned` the images are crops, otherwise whole photos. With `plain` the embedding of the mirror image is not
    added. Raises `DatasetError` if the crops do not fit the model, or if no image can be used.
    """
    from facespace.curation.images import read_crops, read_photos
    from facespace.faces.crops import read_record

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


def save(path: Path, array: Any) -> None:
    """Write an array as `.npy`, atomically."""
    import numpy as np

    from facespace.io.files import atomic_path

    if not path.parent.is_dir():
        raise DatasetError(f"{plain_text(str(path.parent))}: no such folder to write to")
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        try:
            np.save(file, array)
        except OSError as error:
            if error.errno:
                raise
            raise OSError(
                errno.ENOSPC, os.strerror(errno.ENOSPC)
            ) from None  # NumPy reports only how many bytes were written
    write_line(f"{plain_text(str(path))}: {' x '.join(map(str, array.shape))} {array.dtype}")
