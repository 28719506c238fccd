"""Writes class folders whose files are numbered consecutively, and reads them back in that order."""

from __future__ import annotations

import os
from array import array
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from facespace.datasets.formats.class_folders import visible_names
from facespace.datasets.names import Names
from facespace.errors import DatasetError
from facespace.io.file_kinds import IMAGE_ENDINGS, image_ending
from facespace.io.image import decode
from facespace.io.text import plain_text

_ENDINGS = sorted(IMAGE_ENDINGS)


class FolderWriter:
    """Writes `NAME/00000001.jpg`, …, each image into the folder of its label, `folders[label]`.

    The numbers count the images of all folders together, which preserves their order. The file ending follows the content
    of the image; for unknown content it is `.jpg`. `resume_at` is a position that `sync` returned. All folders are
    created at the start, including those of identities without images.
    """

    def __init__(self, root: str | os.PathLike[str], folders: Mapping[int, str], *, resume_at: int = 0) -> None:
        self._root, self._folders = os.fspath(root), folders
        self._n_images = resume_at
        for folder in folders.values():
            os.makedirs(os.path.join(self._root, folder), exist_ok=True)

    def write(self, encoded: bytes, label: int) -> None:
        """Write one image."""
        name = f"{self._n_images + 1:08d}{image_ending(encoded) or '.jpg'}"
        with open(os.path.join(self._root, self._folders[label], name), "wb") as file:
            file.write(encoded)
        self._n_images += 1

    def sync(self) -> int:
        """Flush all images to the disk and return their number, which is the position to resume at."""
        if hasattr(os, "sync"):  # one call for many small files
            os.sync()
        return self._n_images

    def close(self) -> None:
        """Flush to the disk; no file is left open."""
        self.sync()

    def abandon(self) -> None:
        """Do nothing, because no file is left open."""


class NumberedFolder:
    """The images that a `FolderWriter` wrote, in the order written, as `LabelledImages`.

    `folders` maps labels to folder names, `begin` is the `resume_at` that the writer was given. Raises `DatasetError`
    if a number is missing or occurs twice, or if a folder or file was not written by a `FolderWriter`.
    """

    def __init__(self, root: str | os.PathLike[str], folders: Mapping[int, str], *, begin: int = 0) -> None:
        self._root, self._begin = os.fspath(root), begin
        self.names = Names(max(folders, default=-1) + 1, folders)
        numbers, labels, kinds = array("q"), array("q"), array("b")
        label_of = {folder: label for label, folder in folders.items()}
        for folder in visible_names(root, folders=True):
            if folder not in label_of:
                raise DatasetError(f"{plain_text(os.path.join(self._root, folder))}: not a folder of this dataset")
            for name in visible_names(os.path.join(self._root, folder), folders=False):
                stem, ending = os.path.splitext(name)
                if not (stem.isascii() and stem.isdecimal() and ending in IMAGE_ENDINGS):
                    shown = plain_text(os.path.join(self._root, folder, name))
                    raise DatasetError(f"{shown}: not a file of this dataset")
                numbers.append(int(stem))
                labels.append(label_of[folder])
                kinds.append(_ENDINGS.index(ending))
        order = np.argsort(numbers)
        if not np.array_equal(np.array(numbers, np.int64)[order], np.arange(begin + 1, begin + len(numbers) + 1)):
            raise DatasetError(
                f"{plain_text(self._root)}: the numbers of its {len(numbers):,} images are not consecutive"
            )
        self.labels: npt.NDArray[np.int64] = np.array(labels, np.int64)[order]
        self._kinds = np.array(kinds, np.int8)[order]

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, index: int) -> bytes:
        """Return one file, undecoded."""
        with open(self._path(index), "rb") as file:
            return file.read()

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        """Return one image, (H,W,3) uint8 RGB."""
        return decode(self.encoded(index), self._path(index))

    def _path(self, index: int) -> str:
        name = f"{self._begin + index + 1:08d}{_ENDINGS[self._kinds[index]]}"
        return os.path.join(self._root, self.names[self.labels[index]], name)
