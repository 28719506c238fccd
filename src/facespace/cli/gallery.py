"""facespace gallery: list and check people, and show the log. Commands that change a gallery are in `gallery_changes`."""

from __future__ import annotations

import json as json_format
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facespace.cli import gallery_changes, gallery_exchange
from facespace.cli.shared.galleries import GalleryCommand, model_of_gallery, open_gallery
from facespace.cli.shared.options import Collection, Device, EmbeddingDevice, GalleryFile, Json, OptionalModel
from facespace.cli.shared.output import progress_bar, write_json, write_line
from facespace.io.text import one_line

if TYPE_CHECKING:
    from facespace.identification.stores.protocol import StoredPerson, StoredPhoto

_PAGE = 10_000  # people per read

_HELP = "List, change and check the people of a gallery, given by --gallery, as the first argument, or by FACESPACE_GALLERY."
app = typer.Typer(help=_HELP, no_args_is_help=True, rich_markup_mode=None)


def list_(gallery: GalleryFile, collection: Collection = "default", json: Json = False) -> None:
    """List the enrolled people by name, with their number of photos."""
    n_people = 0
    with open_gallery(gallery, collection=collection) as opened:
        after = ""
        while page := opened.store.people(after=after, limit=_PAGE):
            for person in page:
                if json:
                    write_json(_person_json(person))
                else:
                    write_line(f"{person.n_photos:5d}  {one_line(person.state.name)}{_external(person)}")
            n_people += len(page)
            after = page[-1].state.name
    if not json:
        write_line(f"{n_people} {'person' if n_people == 1 else 'people'}")


def show(
    gallery: GalleryFile,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    collection: Collection = "default",
    json: Json = False,
) -> None:
    """Show one person, with the number, source, date and quality of each photo."""
    from facespace.identification.edits import person_called

    with open_gallery(gallery, collection=collection) as opened:
        person = person_called(opened.store, name)
        photos = opened.store.photos(person.id)
    if json:
        details = [_photo_json(photo) for photo in photos]
        write_json({**_person_json(person), "rejected": len(person.state.rejected), "details": details})
        return
    state = person.state
    write_line(f"{one_line(state.name)}{_external(person)}, enrolled {person.added}")
    if state.metadata:
        write_line(f"  metadata {one_line(json_format.dumps(state.metadata, ensure_ascii=False))}")
    if state.templates:
        write_line(f"  compared by the {state.templates} of the photos")
    if state.rejected:
        write_line(f"  rejected photos, never enrolled under this name: {len(state.rejected)}")
    write_line("  photo  quality  enrolled              made by, from")
    for photo in photos:
        quality = "      -" if photo.quality is None else f"{photo.quality:7.2f}"
        source = f", {one_line(photo.source)}" if photo.source else ""
        crop = " (crop kept)" if photo.has_crop else ""
        known = f" {json_format.dumps(photo.metadata, ensure_ascii=False)}" if photo.metadata else ""
        write_line(
            f"  {photo.id:5d}  {quality}  {photo.added}  {one_line(photo.made_by)}{source}{crop}{one_line(known)}"
        )


def collections(gallery: GalleryFile, json: Json = False) -> None:
    """List the collections of a gallery, with the number of people and the model of each."""
    from facespace.identification.stores.opening import list_collections

    for name in list_collections(gallery):
        with open_gallery(gallery, collection=name) as opened:
            n_people, model = len(opened), opened.model_name
        if json:
            write_json({"collection": name, "people": n_people, "model": model or None})
        else:
            write_line(f"{n_people:7d} people  {one_line(name)}{f'  (model {one_line(model)})' if model else ''}")


def log(
    gallery: GalleryFile,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Number of changes to show.")] = 20,
    collection: Collection = "default",
    json: Json = False,
) -> None:
    """Show the last changes, latest first: number, time, user and change. `gallery undo` reverts one."""
    with open_gallery(gallery, collection=collection) as opened:
        entries = opened.log(limit)
    for entry in entries:
        if json:
            can_be_undone = entry.change is not None and not entry.undone
            write_json(
                {
                    "number": entry.id, "at": entry.at, "by": entry.actor, "kind": entry.kind, "text": entry.text,
                    "undone": entry.undone, "can_be_undone": can_be_undone,
                }
            )  # fmt: skip
        else:
            undone = "  (undone)" if entry.undone else ""
            write_line(
                f"{entry.id:5d}  {entry.at}  {one_line(entry.actor)}  {entry.kind:6}  {one_line(entry.text)}{undone}"
            )


def check(
    gallery: GalleryFile,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Only look for damage and for photos enrolled under two names, without comparing faces."
        ),
    ] = False,
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate", metavar="R", help="Target share of people who are wrongly reported as similar to another."
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold", metavar="T", min=-1, max=1, help="Similarity to use as the threshold, instead of a rate."
        ),
    ] = None,
    collection: Collection = "default",
    json: Json = False,
    device: EmbeddingDevice = Device.auto,
    model: OptionalModel = None,
) -> None:
    """Look for damage, photos under two names, two names for one person, and photos unlike the person's others.

    The exit code is 1 if anything was found. All people are compared with each other, which takes hours for a million.
    """
    from facespace.cli.shared.models import load_embedder
    from facespace.identification.gallery_check import check_gallery

    if rate is not None and not 0 < rate < 1:
        raise typer.BadParameter(f"must be between 0 and 1, for instance 0.01, got {rate}", param_hint="--rate")
    made_with = model_of_gallery(gallery, collection=collection)
    embedder = None if quick else load_embedder(model, device.value, made_with=made_with)
    n_found = 0
    with open_gallery(gallery, embedder, collection=collection) as opened, progress_bar("checking") as show_progress:
        n_people = len(opened)
        for found in check_gallery(opened, embedder, rate=rate, threshold=threshold, progress=show_progress):
            n_found += 1
            if not json:
                write_line(f"{found.kind}: {one_line(found.text)}")
                continue
            entry: dict[str, Any] = {"kind": found.kind, "text": found.text}
            entry |= {"people": list(found.people), "photos": list(found.photos)}
            if found.similarity is not None and found.threshold is not None:
                entry |= {"similarity": round(found.similarity, 4), "threshold": round(found.threshold, 4)}
            write_json(entry)
    if not json:
        write_line(f"{n_people} {'person' if n_people == 1 else 'people'} checked; {n_found or 'nothing'} found")
    if n_found:
        raise typer.Exit(1)


def _external(person: StoredPerson) -> str:
    return f"  ({one_line(person.state.external_id)})" if person.state.external_id else ""


def _person_json(person: StoredPerson) -> dict[str, Any]:
    state = person.state
    return {
        "name": state.name, "photos": person.n_photos, "added": person.added, "external_id": state.external_id,
        "metadata": state.metadata, "templates": state.templates,
    }  # fmt: skip


def _photo_json(photo: StoredPhoto) -> dict[str, Any]:
    return {
        "number": photo.id, "source": photo.source, "added": photo.added, "by": photo.actor,
        "quality": None if photo.quality is None else round(photo.quality, 3), "made_by": photo.made_by,
        "metadata": photo.metadata, "crop": photo.has_crop, "digest": photo.digest,
    }  # fmt: skip


_COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_,
    "show": show,
    "rename": gallery_changes.rename,
    "remove": gallery_changes.remove,
    "merge": gallery_changes.merge,
    "split": gallery_changes.split,
    "reject": gallery_changes.reject,
    "set": gallery_changes.set_,
    "templates": gallery_changes.templates,
    "log": log,
    "undo": gallery_changes.undo,
    "erase": gallery_changes.erase,
    "retention": gallery_changes.retention,
    "check": check,
    "collections": collections,
    **gallery_exchange.COMMANDS,
}
for _name, _command in _COMMANDS.items():
    app.command(_name, cls=GalleryCommand)(_command)
app.command("copy")(gallery_exchange.copy)  # takes two galleries
