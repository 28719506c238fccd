"""Class folders of a few real photos, and what is in a folder after a command was killed or the disk was full."""

from __future__ import annotations

import fnmatch
from pathlib import Path

# How the names of files look that are not finished yet.
UNFINISHED = (".facespace-*", "*.tmp", "*.part", "*-wal", "*-shm", "*-journal")


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
