"""facespace gallery: commands that change the people and photos of a gallery, and undo changes."""

from __future__ import annotations

import math
import sys
import time
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from facespace.cli.shared.galleries import open_gallery, parsed_metadata, photo_numbers, photos_in_words
from facespace.cli.shared.options import Collection, ExternalId, GalleryFile
from facespace.cli.shared.output import say, write_line
from facespace.errors import GalleryError
from facespace.io.text import clean_name, one_line

if TYPE_CHECKING:
    from facespace.identification.gallery import Gallery

PhotoNumbers = Annotated[
    list[str],
    typer.Option(
        "--photo", metavar="N", help="Number of a photo in `gallery show`, or several numbers such as 3,5,8-10."
    ),
]
_DAY = 86_400  # seconds
_MOST_DAYS = 36_500
_NAMES_SHOWN = 5
_WHOLE_LOG = 2**31  # entries; no log has as many


class Templates(str, Enum):
    """The choice to compare a face with the mean of a person's photos, or with the best single photo."""

    mean = "mean"
    best = "best"


class PersonTemplates(str, Enum):
    """The choice of `Templates` for one person; `default` is the gallery's choice."""

    mean = "mean"
    best = "best"
    default = "default"


def rename(
    gallery: GalleryFile,
    old: Annotated[str, typer.Argument(metavar="OLD")],
    new: Annotated[str, typer.Argument(metavar="NEW")],
    merge: Annotated[bool, typer.Option("--merge", help="If somebody has the new name already, merge both.")] = False,
    collection: Collection = "default",
) -> None:
    """Give a person another name."""
    old, new = clean_name(old), clean_name(new)
    with open_gallery(gallery, collection=collection) as opened:
        taken = opened.person(old).name != new and opened.store.find(new) is not None
        if taken and not merge:
            raise GalleryError(
                f"{opened.store.name}: the name {new!r} is already taken; use --merge to merge {old!r} into it"
            )
        if taken:
            _merge(opened, [old], new)
        else:
            opened.rename(old, new)
            write_line(f"{one_line(old)} is now {one_line(new)}")


def remove(
    gallery: GalleryFile,
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="The people to remove.")],
    photo: PhotoNumbers = [],  # noqa: B006 - Typer reads it
    collection: Collection = "default",
) -> None:
    """Remove people, or photos of one person. `gallery undo` restores them until `gallery erase`."""
    if photo and len(names) > 1:
        raise typer.BadParameter("can only be used with one NAME", param_hint="--photo")
    with open_gallery(gallery, collection=collection) as opened:
        names = [
            opened.person(name).name for name in dict.fromkeys(names)
        ]  # raises an error before anything is removed
        for name in names:
            if photo:
                numbers = photo_numbers(photo)
                opened.remove_photos(name, numbers)
                n_photos = len(set(numbers))
            else:
                n_photos = opened.remove(name)
            write_line(f"{one_line(name)}: {photos_in_words(n_photos)} removed")
        if photo and opened.store.find(names[0]) is None:
            write_line(f"{one_line(names[0])} has no photos left and is removed")
    say("removed photos are kept; gallery undo restores them, gallery erase deletes them permanently")


def merge(
    gallery: GalleryFile,
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="The people to merge into another.")],
    into: Annotated[str, typer.Option("--into", metavar="NAME", help="The person who receives their photos.")],
    collection: Collection = "default",
) -> None:
    """Merge several people into one."""
    with open_gallery(gallery, collection=collection) as opened:
        _merge(opened, names, into)


def _merge(opened: Gallery, names: list[str], into: str) -> None:
    n_moved = opened.merge(names, into)
    target = opened.person(into)
    gone = ", ".join(one_line(one) for name in names if (one := clean_name(name)) != target.name)
    if not gone:
        raise GalleryError(f"{opened.store.name}: {target.name!r} cannot be merged into the same person")
    write_line(
        f"{photos_in_words(n_moved)} of {gone} moved to {one_line(target.name)}, who has {photos_in_words(target.n_photos)} now"
    )


def split(
    gallery: GalleryFile,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The person who has the photos now.")],
    photo: PhotoNumbers,
    to: Annotated[
        str, typer.Option("--to", metavar="NEW", help="The person who receives them, new or already enrolled.")
    ],
    collection: Collection = "default",
) -> None:
    """Move some photos of a person to another person."""
    numbers = photo_numbers(photo)
    with open_gallery(gallery, collection=collection) as opened:
        opened.split(name, numbers, to)
        n_photos = opened.person(to).n_photos
    moved = photos_in_words(len(set(numbers)))
    name, to = one_line(clean_name(name)), one_line(clean_name(to))
    write_line(f"{moved} of {name} moved to {to}, who has {photos_in_words(n_photos)} now")


def reject(
    gallery: GalleryFile,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The person whom the photos do not show.")],
    photo: PhotoNumbers,
    to: Annotated[str | None, typer.Option("--to", metavar="OTHER", help="The person whom they show.")] = None,
    collection: Collection = "default",
) -> None:
    """Mark photos as not showing this person: they are removed and never enrolled under this name again."""
    numbers = photo_numbers(photo)
    with open_gallery(gallery, collection=collection) as opened:
        opened.reject(name, numbers, to)
    where = "removed" if to is None else f"moved to {one_line(clean_name(to))}"
    n_photos, name = photos_in_words(len(set(numbers))), one_line(clean_name(name))
    write_line(f"{n_photos} {where}, and excluded from enrolment as {name}")


def set_(
    gallery: GalleryFile,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    external_id: ExternalId = None,
    metadata: Annotated[
        str | None,
        typer.Option(
            "--metadata", metavar="JSON", help="A small JSON object that replaces the previous one; {} removes it."
        ),
    ] = None,
    templates: Annotated[
        PersonTemplates | None,
        typer.Option(
            "--templates",
            help="Compare faces with the mean of the person's photos or with the best one; default: as set for the gallery.",
        ),
    ] = None,
    collection: Collection = "default",
) -> None:
    """Change the external id, metadata or templates of a person."""
    if external_id is None and metadata is None and templates is None:
        raise typer.BadParameter("nothing to change; give --external-id, --metadata or --templates")
    known = parsed_metadata(metadata)
    how = None if templates is None else "" if templates is PersonTemplates.default else templates.value
    with open_gallery(gallery, collection=collection) as opened:
        opened.edit(name, external_id=external_id, metadata=known, templates=how)
    given = {"external id": external_id, "metadata": metadata, "templates": templates}
    write_line(
        f"{one_line(clean_name(name))}: {', '.join(key for key, value in given.items() if value is not None)} set"
    )


def templates(
    gallery: GalleryFile,
    how: Annotated[Templates | None, typer.Argument(metavar="[mean|best]", show_default=False)] = None,
    collection: Collection = "default",
) -> None:
    """Set or show whether faces are compared with the mean of a person's photos or with the best single photo."""
    with open_gallery(gallery, collection=collection) as opened:
        if how is not None:
            opened.set_templates(how.value)
        held = opened.store.setting("templates")
    write_line(f"faces are compared with the {'best' if held == 'best' else 'mean'} of a person's photos")


def undo(
    gallery: GalleryFile,
    number: Annotated[
        int | None, typer.Argument(metavar="[N]", help="Number of the change in `gallery log`.", show_default=False)
    ] = None,
    collection: Collection = "default",
) -> None:
    """Undo the last change, or the change with this number."""
    with open_gallery(gallery, collection=collection) as opened:
        entry = opened.undo(number)
    write_line(f"undone: {entry.id}, {entry.kind} {one_line(entry.text)}")


def erase(
    gallery: GalleryFile,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than",
            metavar="DAYS",
            min=0,
            max=_MOST_DAYS,
            help="Only erase what was removed at least this many days ago.",
        ),
    ] = None,
    collection: Collection = "default",
) -> None:
    """Permanently erase removed people and photos: embeddings, crops, and their details in the log. It cannot be undone."""
    before = None if older_than is None else time.time() - older_than * _DAY
    with open_gallery(gallery, collection=collection) as opened:
        what = _removed(opened, math.inf if before is None else before)
        if not yes:
            if not what:
                write_line("nothing to erase")
                return
            if not sys.stdin.isatty():
                raise GalleryError(f"{opened.store.name}: this would permanently erase {what}; confirm with --yes")
            if not typer.confirm(f"Permanently erase {one_line(what)}?"):
                write_line("nothing erased")
                raise typer.Exit(1)
        n_photos = opened.erase(before=before)
    write_line(f"{photos_in_words(n_photos)} erased" if n_photos else "nothing to erase")
    if n_photos:
        say("backups, copies and exports of this gallery may still contain them")


def _removed(opened: Gallery, before: float) -> str:
    """Describe the people and photos that were removed before a time and not restored, according to the log."""
    people: dict[int, tuple[str | None, float]] = {}
    photos: dict[int, tuple[bool, float]] = {}
    for entry in reversed(opened.log(_WHOLE_LOG)):
        if entry.change is None:
            continue
        at = _seconds(entry.at)
        for one in entry.change.people:
            gone = one.after is None and one.before is not None
            people[one.id] = (one.before.name if gone and one.before is not None else None, at)
        for photo in entry.change.photos:
            photos[photo.id] = (photo.after is None, at)
    names = [name for name, at in people.values() if name is not None and at < before]
    n_photos = sum(gone and at < before for gone, at in photos.values())
    if not names and not n_photos:
        return ""
    if not names:
        return photos_in_words(n_photos)
    shown = ", ".join(names[:_NAMES_SHOWN]) + (" and others" if len(names) > _NAMES_SHOWN else "")
    return f"{len(names)} {'person' if len(names) == 1 else 'people'} ({shown}) and {photos_in_words(n_photos)}"


def _seconds(at: str) -> float:
    import calendar

    return float(calendar.timegm(time.strptime(at, "%Y-%m-%dT%H:%M:%SZ")))


def retention(
    gallery: GalleryFile,
    days: Annotated[
        str | None,
        typer.Argument(metavar="[DAYS|never]", help="Number of days to keep removed photos.", show_default=False),
    ] = None,
    collection: Collection = "default",
) -> None:
    """Set or show how long removed photos are kept. Older ones are erased automatically when somebody is enrolled."""
    kept: float | None = None
    if days not in (None, "never"):
        try:
            kept = float(days)
        except ValueError:
            kept = math.nan
        if not 0 <= kept < _MOST_DAYS:  # also true for NaN
            raise typer.BadParameter(
                f"must be a number of days or 'never', got {one_line(days)[:40]!r}", param_hint="DAYS"
            )
    with open_gallery(gallery, collection=collection) as opened:
        if days is not None:
            opened.set_retention(kept)
        held = opened.store.setting("retention_days")
    if isinstance(held, (int, float)):
        write_line(f"removed photos are erased after {held:g} days")
    else:
        write_line("removed photos are kept until gallery erase")
