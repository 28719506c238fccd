"""Class folders: one folder a person, the images in it, as every trainer of faces reads them."""

from __future__ import annotations

import os

from facespace.errors import DatasetError
from facespace.text import plain_text

IMAGE_ENDINGS = frozenset(
    f".{ending}"
    for ending in "jpg jpeg jpe jfif png webp bmp gif tif tiff ppm pgm pnm avif heic heif".split()  # noqa: SIM905
)


def read_class_folders(root: str | os.PathLike[str]) -> list[tuple[str, list[str]]]:
    """The identities of a dataset: (name of the folder, paths of its images), both sorted.

    Files count by their ending, whatever they hold; hidden files and folders, and what lies deeper, do not. A folder
    without images is an identity with an empty list. Names are as the file system has them: bytes that are no UTF-8
    are Python's lone surrogates, for `plain_text` to print. Links are followed. Raises `DatasetError` when `root` is
    no folder or has no folders in it.

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
        raise DatasetError(f"{plain_text(root)}: no folders in it; a dataset has one folder a person")
    return [(name, [os.path.join(root, name, file) for file in _images(os.path.join(root, name))]) for name in names]


def _images(folder: str) -> list[str]:
    return [name for name in visible_names(folder, folders=False) if os.path.splitext(name)[1].lower() in IMAGE_ENDINGS]


def visible_names(folder: str | os.PathLike[str], *, folders: bool) -> list[str]:
    """Sorted names of a folder's folders, or of its files; hidden ones left out."""
    with os.scandir(folder) as entries:
        # What is no folder counts as a file, a broken link too: left out, it would be missed by nobody.
        return sorted(entry.name for entry in entries if entry.is_dir() == folders and not entry.name.startswith("."))
