"""Plans of distributed work: the list of photos, split into numbered parts and stored next to the results.

    .plan/0000012.json      the photos of part 12, in the order of the list
    .plan/plan.json         written last: the settings of the work, the number of photos and the SHA-256 of their list

A later run lists the photos again, and resumes if list and settings are the same. Results without a plan are refused,
because their photos are unknown.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from facespace.defaults import MAX_PIXELS_VARIABLE
from facespace.distribution.storage import Folder
from facespace.errors import DatasetError
from facespace.io.text import one_line

_FOLDER = ".plan"
_VARIABLES = (MAX_PIXELS_VARIABLE, "FACESPACE_RUNTIME", "FACESPACE_PRECISION")
_RESULT = "part-"  # the names of results begin with this
HEADER = f"{_FOLDER}/plan.json"  # a plan exists if this object exists


@dataclass(frozen=True)
class Plan:
    """Represents a list of photos that is split into numbered parts of `per_part` photos; the last may have fewer."""

    n_photos: int
    per_part: int

    @property
    def n_parts(self) -> int:
        """The number of parts.

        >>> Plan(n_photos=513, per_part=256).n_parts
        3
        """
        return -(-self.n_photos // self.per_part)

    def names(self) -> list[str]:
        """Return the names of the plan's objects. The header is first: removing it ends the plan."""
        return [HEADER, *map(part_name, range(self.n_parts))]


def part_name(number: int) -> str:
    """Return the name of the object with a part's photos."""
    return f"{_FOLDER}/{number:07d}.json"


def result_name(number: int, ending: str) -> str:
    """Return the name of the object with the results of a part; the part is done if this object exists.

    >>> result_name(12, "json")
    'part-0000012.json'
    """
    return f"{_RESULT}{number:07d}.{ending}"


def make_plan(folder: Folder, photos: Iterable[str], settings: Mapping[str, Any], *, per_part: int) -> Plan:
    """Write the plan for a stream of `photos` into `folder`, or check that the existing plan is the same.

    `settings` has everything except the photos that the results depend on, as JSON values. Raises `DatasetError` if the
    photos or settings differ from those of the existing plan, or if there are results without a plan.
    """
    found = _read_header(folder) if folder.exists(HEADER) else None
    if found is not None and found["settings"] != settings:
        differ = [
            f"{key} {found['settings'].get(key)!r} (asked for: {value!r})"
            for key, value in settings.items()
            if found["settings"].get(key) != value
        ]
        raise DatasetError(f"{folder.name}: contains results made with {', '.join(differ)}; give another output")
    if found is None:
        _check_no_results(folder)
    digest, n_photos = hashlib.sha256(), 0
    for number, part in enumerate(_parts(photos, per_part)):
        text = json.dumps(part).encode()
        digest.update(text + b"\n")
        n_photos += len(part)
        if found is None:
            folder.write(part_name(number), text)
    plan = Plan(n_photos, per_part)
    header = {"photos": n_photos, "per_part": per_part, "sha256": digest.hexdigest(), "settings": dict(settings)}
    if found is None:
        folder.remove(leftovers(folder, plan))  # left by a run with more photos that was killed before this line
        folder.write(HEADER, json.dumps(header, indent=1).encode())
    elif found != header:
        raise DatasetError(
            f"{folder.name}: contains results of {found['photos']:,} other photos (now there are {n_photos:,}, or their "
            "names differ); give another output"
        )
    return plan


def leftovers(folder: Folder, plan: Plan | None = None) -> list[str]:
    """Return the names of objects in the plan's folder that are not those of `plan`; killed runs left them there."""
    kept = set() if plan is None else set(plan.names())
    return [name for one in folder.inside(_FOLDER).names() if (name := f"{_FOLDER}/{one}") not in kept]


def read_part(folder: Folder, number: int) -> list[str]:
    """Read the photos of a part. Raises `DatasetError` if its object is damaged."""
    try:
        photos = json.loads(folder.read(part_name(number)))
    except ValueError:
        photos = None
    if not isinstance(photos, list) or not all(isinstance(photo, str) for photo in photos):
        raise damaged(folder, number)
    return photos


def read_pairs(folder: Folder, number: int) -> list[tuple[Any, Any]]:
    """Read a part of a plan whose entries are JSON pairs, not photos. Raises `DatasetError` if it is damaged."""
    try:
        return [(first, second) for first, second in map(json.loads, read_part(folder, number))]
    except (ValueError, TypeError):
        raise damaged(folder, number) from None


def damaged(folder: Folder, number: int) -> DatasetError:
    """Return the error for a damaged part of a plan."""
    return DatasetError(f"{folder.name}/{part_name(number)}: damaged; give another output")


def variables() -> dict[str, str]:
    """Return the environment variables that results depend on; the value of a variable that is not set is empty."""
    return {name: os.environ.get(name, "") for name in _VARIABLES}


def _check_no_results(folder: Folder) -> None:
    # A worker of a lost node may write its part after the others have finished, when plan and results are already removed.
    if results := [name for name in folder.names() if name.startswith(_RESULT)]:
        raise DatasetError(
            f"{folder.name}: contains {one_line(results[0])}, but no plan with its photos; remove the results, or give "
            "another output"
        )


def _read_header(folder: Folder) -> dict[str, Any]:
    try:
        header = json.loads(folder.read(HEADER))
        complete = isinstance(header["settings"], dict) and isinstance(header["photos"], int)
    except (ValueError, TypeError, KeyError):
        complete = False
    if not complete:
        raise DatasetError(f"{folder.name}/{HEADER}: damaged; give another output")
    return header  # type: ignore[no-any-return]


def _parts(photos: Iterable[str], size: int) -> Iterator[list[str]]:
    photos = iter(photos)
    while part := list(islice(photos, size)):
        yield part
