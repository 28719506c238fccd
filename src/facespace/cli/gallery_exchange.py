"""facespace gallery export, import, copy and migrate: move people between files, stores and models."""

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

_N_DIGITS = 16  # printed digits of a checksum


def export(
    gallery: GalleryFile,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write, such as people.facespace.")],
    collection: Collection = "default",
) -> None:
    """Write all people to one file: names, embeddings, metadata, thresholds, and crops if they were stored.

    `gallery import` reads it. The file is not encrypted. Removed people and the log are not exported.
    """
    from facespace.identification.exchange import export_gallery
    from facespace.identification.gallery_copy import snapshot
    from facespace.identification.stores.opening import open_store

    with contextlib.closing(_with_remarks(open_store(gallery, collection=collection))) as store:
        version = store.version()
        with snapshot(store, file.parent) as frozen, progress_bar("exporting") as show:
            exported = export_gallery(frozen, file, progress=show)
            changed = frozen is store and store.version() != version
    crops = f", {exported.n_crops} crops" if exported.n_crops else ""
    write_line(f"{one_line(str(file))}: {exported.n_people} people, {exported.n_photos} photos{crops}")
    if changed:
        say("the gallery was changed during the export: people renamed or moved meanwhile may be missing; export again")


def import_(
    gallery: GalleryFile,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `gallery export` wrote.")],
    collection: Collection = "default",
    skip_known: Annotated[
        bool, typer.Option("--skip-known", help="Do not change people whose names are already known.")
    ] = False,
) -> None:
    """Add all people from a file that `gallery export` wrote.

    People with a known name get the photos they do not have yet. The file is checked before anything changes. Run an
    interrupted import again to resume it.
    """
    from facespace.identification.exchange import import_gallery
    from facespace.identification.exchange_file import PeopleFile
    from facespace.identification.stores.opening import open_store

    with PeopleFile(file):  # checks the file before a gallery is created
        pass
    with (
        contextlib.closing(_with_remarks(open_store(gallery, collection=collection, create=True))) as store,
        progress_bar("importing") as show,
    ):
        counts = import_gallery(store, file, skip_known=skip_known, progress=show)
    for remark in counts.remarks:
        say(one_line(remark))
    write_line(f"{counts.new_people} people added, {counts.known_people} known already")
    left = (
        f", {counts.rejected_photos} left out because they are rejected for that person"
        if counts.rejected_photos
        else ""
    )
    write_line(f"{counts.new_photos} photos added, {counts.known_photos} known already{left}")


def _with_remarks(store: Store) -> Store:
    """Report the remarks of a store on stderr, and return it."""
    for remark in getattr(store, "remarks", ()):
        say(remark)
    return store


def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="The gallery to copy: a file or an address.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="A new file, or an address.")],
    collection: Annotated[
        str | None,
        typer.Option("--collection", metavar="NAME", help="Copy only this collection.", show_default=False),
    ] = None,
) -> None:
    """Copy a gallery to another file or store, even while it is in use, and compare both at the end.

    From file to file everything is copied, including the log and changes that can be undone; to another store only
    people with their photos, crops and settings.
    """
    from facespace.identification.gallery_copy import copy_gallery

    with progress_bar("copying") as show:
        done = copy_gallery(source, target, collection=collection, progress=show)
    for one in done:
        write_line(_line_of(one))
    if any(one.changed for one in done):
        say("the gallery was changed while it was copied; the copy does not contain the latest changes")


def _line_of(copied: Copied) -> str:
    n_people, n_photos, n_crops, checksum = copied.contents
    crops = f", {n_crops} crops" if n_crops else ""
    return (
        f"{one_line(copied.collection)}: {n_people} people, {n_photos} photos{crops}, checksum {checksum[:_N_DIGITS]}"
    )


def migrate(
    gallery: GalleryFile,
    model: Annotated[str, typer.Option("--model", metavar="NAME|PATH", help="The model to embed the crops with.")],
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="FILE",
            help="The new gallery; by default a new collection in the same gallery.",
            show_default=False,
        ),
    ] = None,
    collection: Collection = "default",
    device: EmbeddingDevice = Device.auto,
) -> None:
    """Embed the stored crops (`enroll --keep-crops`) with another model, into a new collection or gallery.

    People without stored crops are reported. The old gallery is not changed.
    """
    from facespace.identification.gallery_migration import migrate as embed_again
    from facespace.identification.stores.opening import open_store

    with contextlib.closing(_with_remarks(open_store(gallery, collection=collection))) as store:
        embedder = load_embedder(model, device.value)
        name = (
            collection if to is not None else f"{collection}-{re.sub(r'[^a-zA-Z0-9]+', '-', embedder.name).strip('-')}"
        )
        place = to or gallery
        report = Report()
        with progress_bar("embedding") as show:
            made = embed_again(
                store,
                lambda: open_store(place, collection=name[:100], create=True),
                embedder,
                report=report.fail,
                progress=show,
            )
        n_people = store.count()
    write_line(f"{made.n_people} of {n_people} people, {made.n_photos} photos, by {embedder.name}")
    write_line(f"use it with --gallery {one_line(place)}" + (f" --collection {name[:100]}" if to is None else ""))
    report.finish()


# The commands that accept the gallery as their first argument.
COMMANDS: dict[str, Callable[..., None]] = {"export": export, "import": import_, "migrate": migrate}
