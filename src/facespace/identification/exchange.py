"""A gallery written to one file, and read into a gallery again: to move people, to keep them, to give them on.

The file is described in `exchange_file`. It holds vectors, names and whatever else is known of people and photos, in plain:
keep it as you keep the gallery. Removed people, the log and undo stay behind; `gallery_copy` takes them along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from facespace.embedding.compatibility import difference
from facespace.errors import GalleryError
from facespace.identification.exchange_file import PeopleFile, is_export, write_people
from facespace.identification.exchange_lines import Header, checked_model, checked_settings
from facespace.identification.stores.bulk import add_people, batches, people_of
from facespace.identification.stores.protocol import Store
from facespace.identification.stores.records import Counts, PersonRecord
from facespace.io.text import plain_text

SETTINGS = ("templates", "calibration")
BATCH = 4_000  # photos that become part of a gallery at once
_UNDOABLE = 1_000  # photos of a file; the log of more would be as large as they are

Progress = Callable[[int, int], None]


def export_gallery(store: Store, path: Path, *, progress: Progress | None = None) -> Header:
    """Write all people of an open collection to a file, whole or not at all; returns what is in it.

    A file that is there is replaced if it is an older export; `GalleryError` if it is anything else, if the gallery has no
    model yet, or if it is damaged. Each person is as at one moment: where the gallery is changed meanwhile,
    `store.version()` tells. `progress` is called with the number of people done and of all.
    """
    if path.is_file() and path.stat().st_size and not is_export(path):
        raise GalleryError(
            f"{plain_text(str(path))}: exists already and is no export of a gallery; choose another name"
        )
    model = stored_model(store)
    header = Header(model, store.collection, stored_settings(store))
    return write_people(path, header, counted(checked_people(store, model), store.count(), progress))


def import_gallery(
    store: Store,
    path: Path,
    *,
    skip_known: bool = False,
    progress: Progress | None = None,
) -> Counts:
    """Bring everybody in a file that `export_gallery` wrote to an open collection; returns what became of them.

    The file is read through and checked before anything is changed. Whoever has the name of a person in the file is that
    person, and gets the photos that are new (see `stores.records.joined`); with `skip_known` nobody who is known changes. A
    collection that has no people yet takes over the settings too. Stopped at any moment and started again, it ends in the
    same state. `GalleryError` where the file is damaged or its vectors are of another model than the collection's.
    """
    with PeopleFile(path) as file:
        held = store.setting("embedder")
        if held is not None:
            _check_same_model(store, held, path, file.header.model)
        file.check()
        _check_same_model(store, store.set_once("embedder", file.header.model), path, file.header.model)
        if not store.count():
            for key, value in file.header.settings.items():
                store.set_once(key, value)
        counts = Counts()
        n_people = 0
        for batch in batches(file.people(), BATCH):
            n_people += len(batch)
            text = f"{plain_text(path.name)}, {n_people} of {file.header.n_people} people"
            small = file.header.n_photos <= _UNDOABLE
            counts = counts.plus(add_people(store, batch, text=text, skip_known=skip_known, undoable=small))
            if progress is not None:
                progress(n_people, file.header.n_people)
    return counts


def _check_same_model(store: Store, held: Any, path: Path, model: dict[str, Any]) -> None:
    if (other := difference(model, held if isinstance(held, dict) else {})) is not None:
        raise GalleryError(
            f"{plain_text(str(path))}: its vectors {other}, which {store.name} has; import into a new gallery"
        )


def stored_model(store: Store) -> dict[str, Any]:
    """The model whose vectors a collection has; `GalleryError` where it has none yet, or is damaged."""
    held = store.setting("embedder")
    if held is None:
        raise GalleryError(f"{store.name}: nobody is enrolled in the collection {store.collection!r}")
    if isinstance(held, dict) and "unfinished" in held:
        raise GalleryError(f"{store.name}: not whole yet; start the command again that was filling it")
    try:
        return checked_model(held)
    except ValueError as error:
        raise GalleryError(f"{store.name}: damaged ({error})") from None


def stored_settings(store: Store) -> dict[str, Any]:
    """What else is stored of a collection; `GalleryError` where it is damaged."""
    told = {key: value for key in SETTINGS if (value := store.setting(key)) is not None}
    try:
        return checked_settings(told)
    except ValueError as error:
        raise GalleryError(f"{store.name}: damaged ({error})") from None


def checked_people(store: Store, model: dict[str, Any]) -> Iterator[PersonRecord]:
    """Everybody of a collection, by name; `GalleryError` where a vector is of another length than the model's."""
    for record in people_of(store):
        for photo in record.photos:
            if photo.entry.embedding.shape != (model["dimension"],):
                raise GalleryError(f"{store.name}: damaged (a vector of {record.state.name!r} has another length)")
        yield record


def counted(people: Iterable[PersonRecord], total: int, progress: Progress | None) -> Iterator[PersonRecord]:
    """The people as they come; `progress` is called with how many have come, and how many will."""
    for n, record in enumerate(people, 1):
        yield record
        if progress is not None and n % 100 == 0:
            progress(n, max(n, total))
