"""facespace gallery export, import, copy and migrate: people moved between files, stores and models."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facespace.cli.shared.models import load_embedder
from facespace.cli.shared.options import Collection, Device, EmbeddingDevice, GalleryFile
from facespace.cli.shared.output import Report, progress_bar, say, write_line
from facespace.io.text import one_line

if TYPE_CHECKING:
    from facespace.identification.gallery_copy import Copied
    from facespace.identification.stores.protocol import Store

_SHOWN = 16  # digits of a checksum


def export(
    gallery: GalleryFile,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write, such as people.facespace.")],
    collection: Collection = "default",
) -> None:
    """Write everybody to one file: names, vectors, metadata, thresholds, and crops where they were kept.

    `gallery import` reads it, here or elsewhere. It is not encrypted; removed people and the log stay behind.
    """
    from facespace.identification.exchange import export_gallery
    from facespace.identification.gallery_copy import snapshot
    from facespace.identification.stores.opening import open_store

    with contextlib.closing(_told_of(open_store(gallery, collection=collection))) as store:
        version = store.version()
        with snapshot(store, file.parent) as frozen, progress_bar("exporting") as moved:
            told = export_gallery(frozen, file, progress=moved)
            changed = frozen is store and store.version() != version
    crops = f", {told.n_crops} crops" if told.n_crops else ""
    write_line(f"{one_line(str(file))}: {told.n_people} people, {told.n_photos} photos{crops}")
    if changed:
        say("the gallery was changed meanwhile: people renamed or moved right then may be missing; export again")


def import_(
    gallery: GalleryFile,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `gallery export` wrote.")],
    collection: Collection = "default",
    skip_known: Annotated[
        bool, typer.Option("--skip-known", help="Leave people as they are whose names are known already.")
    ] = False,
) -> None:
    """Add everybody from a file that `gallery export` wrote.

    Who is known by name gets the photos that are new. The file is checked before anything changes; started again after
    it was stopped, it goes on.
    """
    from facespace.identification.exchange import import_gallery
    from facespace.identification.exchange_file import PeopleFile
    from facespace.identification.stores.opening import open_store

    with PeopleFile(file):  # a file that is no export makes no gallery
        pass
    with (
        contextlib.closing(_told_of(open_store(gallery, collection=collection, create=True))) as store,
        progress_bar("importing") as moved,
    ):
        counts = import_gallery(store, file, skip_known=skip_known, progress=moved)
    for remark in counts.remarks:
        say(one_line(remark))
    write_line(f"{counts.new_people} people added, {counts.known_people} known already")
    left = f", {counts.rejected_photos} left out as rejected for their person" if counts.rejected_photos else ""
    write_line(f"{counts.new_photos} photos added, {counts.known_photos} known already{left}")


def _told_of(store: Store) -> Store:
    """The store; what a user should know of it is said."""
    for remark in getattr(store, "remarks", ()):
        say(remark)
    return store


def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="A gallery: its file or address.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="A file that is not there yet, or an address.")],
    collection: Annotated[
        str | None,
        typer.Option("--collection", metavar="NAME", help="This collection alone.", show_default=False),
    ] = None,
) -> None:
    """Copy a gallery to another file or store, at any moment, and compare both at the end.

    From file to file everything is copied, with the log and what can be undone; to another store people with their
    photos, crops and settings.
    """
    from facespace.identification.gallery_copy import copy_gallery

    with progress_bar("copying") as moved:
        done = copy_gallery(source, target, collection=collection, progress=moved)
    for one in done:
        write_line(_line_of(one))
    if any(one.changed for one in done):
        say("the gallery was changed while it was copied; changes made since are not in the copy")


def _line_of(copied: Copied) -> str:
    n_people, n_photos, n_crops, checksum = copied.contents
    crops = f", {n_crops} crops" if n_crops else ""
    return f"{one_line(copied.collection)}: {n_people} people, {n_photos} photos{crops}, checksum {checksum[:_SHOWN]}"


def migrate(
    gallery: GalleryFile,
    model: Annotated[str, typer.Option("--model", metavar="NAME|PATH", help="The model to embed the crops with.")],
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="FILE", help="The new gallery; by default a new collection in the same.", show_default=False
        ),
    ] = None,
    collection: Collection = "default",
    device: EmbeddingDevice = Device.auto,
) -> None:
    """Embed the crops that were kept (`enroll --keep-crops`) with another model, into a new collection or gallery.

    Says who cannot be, as no crop was kept. The old gallery stays as it is.
    """
    from facespace.identification.gallery_migration import migrate as embed_again
    from facespace.identification.stores.opening import open_store

    with contextlib.closing(_told_of(open_store(gallery, collection=collection))) as store:
        embedder = load_embedder(model, device.value)
        name = (
            collection if to is not None else f"{collection}-{re.sub(r'[^a-zA-Z0-9]+', '-', embedder.name).strip('-')}"
        )
        place = to or gallery
        report = Report()
        with progress_bar("embedding") as moved:
            made = embed_again(
                store,
                lambda: open_store(place, collection=name[:100], create=True),
                embedder,
                report=report.fail,
                progress=moved,
            )
        n_people = store.count()
    write_line(f"{made.n_people} of {n_people} people, {made.n_photos} photos, by {embedder.name}")
    write_line(f"use it with --gallery {one_line(place)}" + (f" --collection {name[:100]}" if to is None else ""))
    report.finish()


# Those whose gallery may be the first word.
COMMANDS: dict[str, Callable[..., None]] = {"export": export, "import": import_, "migrate": migrate}
