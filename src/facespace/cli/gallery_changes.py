"""facespace gallery: changes of people and photos that need no photo, and how they are taken back."""

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
    typer.Option("--photo", metavar="N", help="Number of a photo in `gallery show`; several as 3,5,8-10."),
]
_DAY = 86_400  # seconds
_MOST_DAYS = 36_500
_NAMES_SHOWN = 5
_WHOLE_LOG = 2**31  # entries


class Templates(str, Enum):
    """How a face is compared with the photos of a person."""

    mean = "mean"
    best = "best"


class PersonTemplates(str, Enum):
    """The same for one person."""

    mean = "mean"
    best = "best"
    default = "default"


def rename(
    gallery: GalleryFile,
    old: Annotated[str, typer.Argument(metavar="OLD")],
    new: Annotated[str, typer.Argument(metavar="NEW")],
    merge: Annotated[
        bool, typer.Option("--merge", help="Where somebody has the new name already, give them the photos.")
    ] = False,
    collection: Collection = "default",
) -> None:
    """Give a person another name."""
    old, new = clean_name(old), clean_name(new)
    with open_gallery(gallery, collection=collection) as opened:
        taken = opened.person(old).name != new and opened.store.find(new) is not None
        if taken and not merge:
            raise GalleryError(
                f"{opened.store.name}: somebody is called {new!r} already; with --merge they get the photos of {old!r}"
            )
        if taken:
            _merge(opened, [old], new)
        else:
            opened.rename(old, new)
            write_line(f"{one_line(old)} is now {one_line(new)}")


def remove(
    gallery: GalleryFile,
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Whom to remove.")],
    photo: PhotoNumbers = [],  # noqa: B006 - Typer reads it
    collection: Collection = "default",
) -> None:
    """Remove people, or photos of one person. They are kept until `gallery erase`, so that `gallery undo` brings them back."""
    if photo and len(names) > 1:
        raise typer.BadParameter("photos are removed from one person at a time", param_hint="--photo")
    with open_gallery(gallery, collection=collection) as opened:
        names = [opened.person(name).name for name in dict.fromkeys(names)]  # all of them are there, or nothing is done
        for name in names:
            if photo:
                numbers = photo_numbers(photo)
                opened.remove_photos(name, numbers)
                n_photos = len(set(numbers))
            else:
                n_photos = opened.remove(name)
            write_line(f"{one_line(name)}: {photos_in_words(n_photos)} removed")
        if photo and opened.store.find(names[0]) is None:
            write_line(f"{one_line(names[0])} has no photos left, and is removed")
    say("removed photos are kept; gallery undo brings them back, gallery erase erases them for good")


def merge(
    gallery: GalleryFile,
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Who gives the photos.")],
    into: Annotated[str, typer.Option("--into", metavar="NAME", help="Who gets them and stays.")],
    collection: Collection = "default",
) -> None:
    """Make one person of several."""
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
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose photos they are now.")],
    photo: PhotoNumbers,
    to: Annotated[str, typer.Option("--to", metavar="NEW", help="Whose they are; somebody new, or enrolled already.")],
    collection: Collection = "default",
) -> None:
    """Give some photos of a person to another one."""
    numbers = photo_numbers(photo)
    with open_gallery(gallery, collection=collection) as opened:
        opened.split(name, numbers, to)
        n_photos = opened.person(to).n_photos
    moved = photos_in_words(len(set(numbers)))
    name, to = one_line(clean_name(name)), one_line(clean_name(to))
    write_line(f"{moved} of {name} moved to {to}, who has {photos_in_words(n_photos)} now")


def reject(
    gallery: GalleryFile,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whom the photos do not show.")],
    photo: PhotoNumbers,
    to: Annotated[str | None, typer.Option("--to", metavar="OTHER", help="Whom they show.")] = None,
    collection: Collection = "default",
) -> None:
    """Say that photos do not show this person: they go, and are never enrolled under this name again."""
    numbers = photo_numbers(photo)
    with open_gallery(gallery, collection=collection) as opened:
        opened.reject(name, numbers, to)
    where = "removed" if to is None else f"moved to {one_line(clean_name(to))}"
    n_photos, name = photos_in_words(len(set(numbers))), one_line(clean_name(name))
    write_line(f"{n_photos} {where}, and never enrolled as {name} again")


def set_(
    gallery: GalleryFile,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    external_id: ExternalId = None,
    metadata: Annotated[
        str | None,
        typer.Option(
            "--metadata", metavar="JSON", help="A small JSON object, in place of the one before; {} for none."
        ),
    ] = None,
    templates: Annotated[
        PersonTemplates | None,
        typer.Option(
            "--templates", help="Compare with the mean or the best of the photos; default: as with everybody."
        ),
    ] = None,
    collection: Collection = "default",
) -> None:
    """Change what is known of a person beside the name."""
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
    """Compare faces with the mean of each person's photos, or with every photo, of which the best counts."""
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
    """Take back the last change, or the one of that number."""
    with open_gallery(gallery, collection=collection) as opened:
        entry = opened.undo(number)
    write_line(f"undone: {entry.id}, {entry.kind} {one_line(entry.text)}")


def erase(
    gallery: GalleryFile,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    older_than: Annotated[
        float | None,
        typer.Option("--older-than", metavar="DAYS", min=0, max=_MOST_DAYS, help="What was removed so long ago alone."),
    ] = None,
    collection: Collection = "default",
) -> None:
    """Erase what was removed, for good: vectors, crops, and what the log knows of them. It cannot be undone then."""
    before = None if older_than is None else time.time() - older_than * _DAY
    with open_gallery(gallery, collection=collection) as opened:
        what = _removed(opened, math.inf if before is None else before)
        if not yes:
            if not what:
                write_line("nothing to erase")
                return
            if not sys.stdin.isatty():
                raise GalleryError(f"{opened.store.name}: this would erase {what} for good; --yes does it")
            if not typer.confirm(f"Erase {one_line(what)} for good?"):
                write_line("nothing erased")
                raise typer.Exit(1)
        n_photos = opened.erase(before=before)
    write_line(f"{photos_in_words(n_photos)} erased" if n_photos else "nothing to erase")
    if n_photos:
        say("backups, copies and exports of this gallery have them still")


def _removed(opened: Gallery, before: float) -> str:
    """What was removed before that time and not brought back, in words; read from the log."""
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
        str | None, typer.Argument(metavar="[DAYS|never]", help="How long removed photos are kept.", show_default=False)
    ] = None,
    collection: Collection = "default",
) -> None:
    """How long what was removed is kept. It is erased by itself when somebody is enrolled after that time."""
    kept: float | None = None
    if days not in (None, "never"):
        try:
            kept = float(days)
        except ValueError:
            kept = math.nan
        if not 0 <= kept < _MOST_DAYS:  # so written, NaN fails it too
            raise typer.BadParameter(
                f"must be a number of days or 'never', got {one_line(days)[:40]!r}", param_hint="DAYS"
            )
    with open_gallery(gallery, collection=collection) as opened:
        if days is not None:
            opened.set_retention(kept)
        held = opened.store.setting("retention_days")
    if isinstance(held, (int, float)):
        write_line(f"what was removed is erased after {held:g} days")
    else:
        write_line("what was removed is kept until gallery erase")
