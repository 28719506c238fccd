"""Writes groups of faces for people to look at: a folder for each group, a table, and a page of pictures."""

from __future__ import annotations

import csv
import json
import os
import secrets
import shutil
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np

from facespace.clustering.groups import STATE, FaceGroups
from facespace.errors import DatasetError
from facespace.faces.portraits import portrait
from facespace.io import pictures
from facespace.io.files import TEMPORARY, atomic_path, named_in_errors, take_folder_place, write_bytes
from facespace.io.text import plain_text
from facespace.pipeline.photos import Photo
from facespace.reports.page import link, render

Photos = Literal["none", "copy", "link"]

FACES = "faces"  # the folder with the picture of every face, named by its photo's SHA-256
ALONE = "alone"  # the folder of faces in a group of their own
POOR = "too-poor"  # the folder of faces that are too small or too blurred to be grouped
TABLE, PAGE = "groups.csv", "index.html"
_RESERVED = (FACES, ALONE, POOR, TABLE, PAGE, STATE)  # names that a group's folder must not have
_MARK = ".group.json"
_MAX_MARK = 4096
_SIDE = 160
_SHOWN = 24  # faces per group on the page
_GROUPS = 2000  # groups on the page; browsers cannot show many more
_UNNAMED = ' /\\:*?"<>|'


def keep_picture(folder: Path, photo: Photo, digest: str) -> None:
    """Write each face of a photo, with a border, as a small JPEG to `folder/faces`; `digest` starts the file names."""
    assert photo.pixels is not None
    (folder / FACES).mkdir(exist_ok=True)
    for k, face in enumerate(photo.faces):
        pictures.save(portrait(photo.pixels, face.box, _SIDE), _picture(folder, digest, k), "JPEG", quality=88)


def write_folders(
    folder: Path, groups: FaceGroups, names: dict[int, str], *, photos: Photos = "none"
) -> dict[int, Path]:
    """Put the picture of every face into the folder of its group. Return the folder of each group.

    `photos` says whether the whole photos are put there too, and whether as links or as copies.

    The face of a group of one goes to `alone`, or to `too-poor` if its quality is too poor for grouping. Other folders
    are called `person-0001` and so on, from the largest group on, or by the group's name in `names`. A folder that
    already exists keeps its name, even if somebody has renamed it. Nothing is overwritten, and nothing is removed
    except faces from `alone` that have joined a group. Save `groups` first: if this call is stopped, a later call
    completes the folders from the saved groups.
    """
    sizes = Counter(groups.group.tolist())
    places = _places(folder, groups, sizes, names)
    number = _numbers(groups)
    for row, group in enumerate(groups.group.tolist()):
        path, digest, _ = groups.photos[groups.photo[row]]
        place = places[group]
        place.mkdir(parents=True, exist_ok=True)
        stem = _stem(path)
        target = place / f"{stem}-{digest[:8]}-{number[row]}.jpg"
        source = _picture(folder, digest, number[row])
        if not target.exists() and source.is_file():
            _link_or_copy(source, target)
        if place.name != ALONE:  # the face may have been alone before
            (folder / ALONE / target.name).unlink(missing_ok=True)
        if photos != "none":
            (place / "photos").mkdir(exist_ok=True)
            whole = place / "photos" / f"{stem}-{digest[:8]}{Path(path).suffix}"
            held = groups.places[digest]
            if not os.path.lexists(whole) and os.path.isfile(held):
                if photos == "link":
                    whole.symlink_to(os.path.realpath(held))
                else:
                    with atomic_path(whole) as unfinished:
                        shutil.copyfile(held, unfinished)
    return places


def write_table(folder: Path, groups: FaceGroups, places: dict[int, Path]) -> None:
    """Write `groups.csv`, which lists each face's photo, box, score and folder, and why other photos have no face."""
    faces: dict[int, list[int]] = {}
    for row, photo in enumerate(groups.photo):
        faces.setdefault(photo, []).append(row)
    with atomic_path(folder / TABLE) as table, table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["photo", "x1", "y1", "x2", "y2", "score", "group", "reason"])
        for k, (name, _, error) in enumerate(groups.photos):
            for row in faces.get(k, []):
                box = (f"{value:.1f}" for value in groups.box[row])
                writer.writerow(
                    [name, *box, f"{groups.score[row]:.4f}", plain_text(places[int(groups.group[row])].name), ""]
                )
            if k not in faces:
                writer.writerow([name, "", "", "", "", "", "", error or "no face found"])


def write_sheet(folder: Path, groups: FaceGroups, places: dict[int, Path]) -> Path:
    """Write `index.html`, a page that shows the groups, largest first; each face's picture links to its photo.

    The page shows at most 24 faces of a group and the 2,000 largest groups, and says how many more groups have folders.
    Single faces come last.
    """
    members: dict[str, list[int]] = {}
    for row, group in enumerate(groups.group.tolist()):
        members.setdefault(places[group].name, []).append(row)
    number, here = _numbers(groups), Path(os.path.abspath(folder))
    people = sorted(
        (name for name in members if name not in (ALONE, POOR)), key=lambda name: (-len(members[name]), name)
    )

    def face(row: int) -> dict[str, str]:
        path, digest, _ = groups.photos[groups.photo[row]]
        x1, y1, x2, y2 = groups.box[row]
        return {
            "photo": link(here, Path(groups.places[digest])),
            "caption": f"{path}, face at {x1:.0f},{y1:.0f}, {x2 - x1:.0f}x{y2 - y1:.0f} px",
            "picture": f"{FACES}/{digest}-{number[row]}.jpg",
        }

    shown = []
    for name in [*people[:_GROUPS], *(name for name in (ALONE, POOR) if name in members)]:
        rows = sorted(members[name], key=lambda row: -groups.score[row])
        shown.append((name, link(here, here / name), len(rows), [face(row) for row in rows[:_SHOWN]]))
    page = render(
        "groups.html",
        n_people=len(people),
        n_faces=len(groups.photo),
        n_photos=len(groups.photos),
        n_alone=len(members.get(ALONE, [])),
        n_poor=len(members.get(POOR, [])),
        max_groups=_GROUPS,
        table=TABLE,
        groups=shown,
    )
    write_bytes(folder / PAGE, page.encode())
    return folder / PAGE


def _poor_groups(groups: FaceGroups) -> set[int]:
    return {int(groups.group[row]) for row in np.flatnonzero(groups.too_poor())}


def _places(folder: Path, groups: FaceGroups, sizes: Counter[int], names: dict[int, str]) -> dict[int, Path]:
    """Return the folder of every group: the one whose mark lists it, or a new one, named as in `write_folders`."""
    there, poor = _marked(folder, groups.id), _poor_groups(groups)
    taken = {entry.name.casefold() for entry in folder.iterdir()} if folder.is_dir() else set()
    places: dict[int, Path] = {}
    number = 0
    for group, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        if group in there:
            places[group] = there[group]
            continue
        if group in names:
            places[group] = folder / _file_name(names[group])
        elif size == 1:
            places[group] = folder / (POOR if group in poor else ALONE)
        else:
            number += 1
            while f"person-{number:04}" in taken:
                number += 1
            places[group] = folder / f"person-{number:04}"
        if places[group].name not in (ALONE, POOR):
            _mark(places[group], group, groups.id)
    return places


def _marked(folder: Path, grouping: str) -> dict[int, Path]:
    """Return the marked folder of each group of `grouping` (`FaceGroups.id`); other groupings' folders are ignored."""
    return {group: entry for entry in sorted(folder.iterdir()) for group in _groups_of(entry, grouping)}


def _groups_of(place: Path, grouping: str) -> list[int]:
    """Return the groups that a folder's mark lists; none without a mark, or if the mark is of another grouping."""
    mark = place / _MARK
    if not mark.is_file() or mark.stat().st_size > _MAX_MARK:
        return []
    try:
        held = json.loads(mark.read_text(encoding="utf-8"))
        groups = [int(number) for number in held["groups"]]
        return groups if held.get("grouping", "") == grouping else []
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DatasetError(
            f"{plain_text(str(mark))}: damaged; remove it, then the folder belongs to no group"
        ) from None


def _mark(place: Path, group: int, grouping: str) -> None:
    """Mark a folder as the group's, creating it if necessary; several groups may share a folder.

    The mark is a file in the folder, so the folder can be renamed.
    """
    held = _groups_of(place, grouping)
    if group in held:
        return
    data = (json.dumps({"groups": [*held, group], "grouping": grouping}) + "\n").encode()
    if place.exists():
        write_bytes(place / _MARK, data)
        return
    # A folder without its mark, left by a killed process, would belong to no group, and its number would be skipped.
    fresh = place.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    with named_in_errors(place):
        fresh.mkdir()
        (fresh / _MARK).write_bytes(data)
        take_folder_place(fresh, place)


def tidy(folder: Path) -> None:
    """Remove temporary files and folders that killed processes left. No other process may use the folder meanwhile."""
    for place in [folder, *(entry for entry in folder.iterdir() if entry.is_dir())]:
        for leftover in (*place.glob(f"{TEMPORARY}*"), *place.glob(f"photos/{TEMPORARY}*")):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()


def _numbers(groups: FaceGroups) -> list[int]:
    """Return the number of each face within its photo, from 0."""
    seen: Counter[int] = Counter()
    numbers = []
    for photo in groups.photo:
        numbers.append(seen[photo])
        seen[photo] += 1
    return numbers


def _picture(folder: Path, digest: str, number: int) -> Path:
    return folder / FACES / f"{digest}-{number}.jpg"


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        with atomic_path(target) as path:
            shutil.copyfile(source, path)


def _stem(path: str) -> str:
    return _file_name(Path(path).stem)[:80]


def _file_name(name: str) -> str:
    """Return a name changed so that every system accepts it as a file name, and none hides the file."""
    cleaned = "".join("_" if letter in _UNNAMED or ord(letter) < 32 else letter for letter in name).strip(". ") or "_"
    while len(os.fsencode(cleaned)) > 200:
        cleaned = cleaned[:-1]
    return f"{cleaned}_" if cleaned.casefold() in _RESERVED else cleaned
