"""Class folders as a dataset: one folder a person, the images in it."""

from __future__ import annotations

import operator
import os
import stat

import numpy as np
import numpy.typing as npt

from facespace import image
from facespace.datasets.folder import read_class_folders
from facespace.datasets.shards import MAX_RECORD
from facespace.errors import DatasetError, ImageError
from facespace.text import plain_text


class ImageFolder:
    """The images of a folder of class folders: `LabelledImages`, sorted by the folders' names and then their own.

    Every folder is an identity, one without images too. `paths` are the images' files. `DatasetError` where `root` is
    no folder, has no folders in it, or these have no images.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for name in ("Zoë", "Anna"):
    ...         os.mkdir(os.path.join(root, name))
    ...         Image.new("RGB", (2, 3)).save(os.path.join(root, name, "1.png"))
    ...     images = ImageFolder(root)
    ...     images.names, images.labels.tolist(), images.read(1).shape
    (('Anna', 'Zoë'), [0, 1], (3, 2, 3))
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        folders = read_class_folders(root)
        self.names = tuple(plain_text(name) for name, _ in folders)
        self.paths = tuple(path for _, paths in folders for path in paths)
        counts = [len(paths) for _, paths in folders]
        self.labels: npt.NDArray[np.int64] = np.repeat(np.arange(len(folders), dtype=np.int64), counts)
        if not self.paths:
            raise DatasetError(f"{plain_text(os.fspath(root))}: no images in the {len(folders):,} folders in it")

    def __len__(self) -> int:
        return len(self.paths)

    def encoded(self, index: int) -> bytes:
        """One file, undecoded. `ImageError` where it cannot be read."""
        path = self._path(index)
        try:
            status = os.stat(path)  # before opening: opening a fifo waits for its writer
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(path, "not a regular file")
            if status.st_size > MAX_RECORD:
                raise ImageError(path, f"{status.st_size:,} bytes; no image has more than {MAX_RECORD:,}")
            with open(path, "rb") as stream:
                return stream.read(MAX_RECORD)
        except OSError as error:
            missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
            raise ImageError(path, "no such file" if missing else f"cannot be read ({error.strerror})") from None

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        """One image, (H,W,3) uint8 RGB."""
        return image.read(self._path(index))

    def _path(self, index: int) -> str:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return self.paths[index]
