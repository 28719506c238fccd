"""Class folders as a dataset: one folder of images per person."""

from __future__ import annotations

import operator
import os
import stat

import numpy as np
import numpy.typing as npt

from facespace.errors import DatasetError, ImageError
from facespace.io import image
from facespace.io.image import MAX_RECORD
from facespace.io.photo_files import PhotoFiles
from facespace.io.text import plain_text


class ImageFolder:
    """The images in the class folders of `root`, as `LabelledImages`, sorted by folder name and then by file name.

    Every class folder is an identity, even without images. `paths` are the paths of the image files. Raises
    `DatasetError` if `root` is not a folder, contains no folders, or its folders contain no images.

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
            raise DatasetError(f"{plain_text(os.fspath(root))}: its {len(folders):,} folders contain no images")

    def __len__(self) -> int:
        return len(self.paths)

    def encoded(self, index: int) -> bytes:
        """Return one file, undecoded. Raises `ImageError` if it cannot be read."""
        path = self._path(index)
        try:
            status = os.stat(path)  # before opening: opening a fifo waits for its writer
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(path, "not a regular file")
            if status.st_size > MAX_RECORD:
                raise ImageError(path, f"{status.st_size:,} bytes; an image must have at most {MAX_RECORD:,}")
            with open(path, "rb") as stream:
                return stream.read(MAX_RECORD)
        except OSError as error:
            missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
            raise ImageError(path, "no such file" if missing else f"cannot be read ({error.strerror})") from None

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        """Return one image, (H,W,3) uint8 RGB."""
        return image.read(self._path(index))

    def _path(self, index: int) -> str:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return self.paths[index]


def read_class_folders(root: str | os.PathLike[str]) -> list[tuple[str, list[str]]]:
    """Return the identities of a dataset as (folder name, paths of its images), both sorted.

    `io.file_kinds` decides by name or content whether a file is a photo. All other files are left out with a
    `LeftOutWarning`; hidden files, hidden folders and deeper folders are ignored. A folder without photos is an identity
    with an empty list. Names are as in the file system: bytes that are not UTF-8 become lone surrogates, which
    `plain_text` makes printable. Links are followed. Raises `DatasetError` if `root` is not a folder or contains no
    folders.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as root:
    ...     os.mkdir(os.path.join(root, "王 小明"))
    ...     open(os.path.join(root, "王 小明", "1.png"), "wb").close()
    ...     [(name, [os.path.relpath(path, root) for path in paths]) for name, paths in read_class_folders(root)]
    [('王 小明', ['王 小明/1.png'])]
    """
    root = os.fspath(root)
    if not os.path.isdir(root):
        raise DatasetError(f"{plain_text(root)}: not a folder")
    names = visible_names(root, folders=True)
    if not names:
        raise DatasetError(f"{plain_text(root)}: contains no folders; a dataset has one folder per person")
    photos = PhotoFiles()
    folders = [(name, photos_in(root, name, photos)) for name in names]
    photos.warn(root)
    return folders


def photos_in(root: str, name: str, photos: PhotoFiles) -> list[str]:
    """Return the sorted paths of the photos in one class folder; `photos` recognises them and counts other files."""
    files = visible_names(os.path.join(root, name), folders=False)
    paths = ((os.path.join(root, name, file), os.path.join(name, file)) for file in files)
    return [path for path, shown in paths if photos.takes(path, shown)]


def visible_names(folder: str | os.PathLike[str], *, folders: bool) -> list[str]:
    """Return the sorted names of the files in a folder, or of its subfolders (`folders`); hidden names are left out."""
    with os.scandir(folder) as entries:
        # Anything that is not a folder, even a broken link, is treated as a file, so that it gets reported.
        return sorted(entry.name for entry in entries if entry.is_dir() == folders and not entry.name.startswith("."))
