"""Class folders of a few real photos, a recipe to train on them, and the contents of a folder after a kill or a full disk."""

from __future__ import annotations

import fnmatch
from pathlib import Path

# How the names of files look that are not finished yet.
UNFINISHED = (".facespace-*", "*.tmp", "*.part", "*-wal", "*-shm", "*-journal")


_RECIPE = """
backbone = "tiny"
dimension = 16
input_spec = { size = 112, template = "box", crop_margin = 32 }
crop = "random"
batch_size = 12
optimizer = "rmsprop"
learning_rate = 0.01
checkpoint_every = 2
keep = 2
device = "cpu"
"""


def tiny_recipe(**numbers: int) -> str:
    """A training recipe that takes seconds, with further numbers such as `n_epochs` in it."""
    more = "".join(f"{name} = {number}\n" for name, number in numbers.items())
    return f'{_RECIPE}{more}\n[[losses]]\nname = "softmax"\n'


def class_folders(source: Path, target: Path, n_people: int, n_images: int) -> Path:
    for person in sorted(path for path in source.iterdir() if path.is_dir())[:n_people]:
        (target / person.name).mkdir(parents=True)
        for path in sorted(person.iterdir())[:n_images]:
            (target / person.name / path.name).symlink_to(path.resolve())
    return target


def contents(folder: Path, *without: str) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {
        name: data
        for name, data in found.items()
        if not any(fnmatch.fnmatch(part, pattern) for part in Path(name).parts for pattern in without)
    }


def unfinished(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if any(fnmatch.fnmatch(path.name, pattern) for pattern in UNFINISHED)
    )
