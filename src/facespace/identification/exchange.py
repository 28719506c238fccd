"""Exports a gallery to one file and imports such files, to move, back up or share people.

`exchange_file` describes the file. It contains vectors, names and all other data of people and photos unencrypted:
protect it like the gallery itself. It omits removed people and the log, so nothing in it can be undone; `gallery_copy`
copies removed people and the log too.
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
BATCH = 4_000  # photos that are added to a gallery in one change
_UNDOABLE_PHOTOS = (
    1_000  # photos of a file whose import can be undone; for more, the log would be as large as the photos
)

Progress = Callable[[int, int], None]


class NoModel(GalleryError):
    """The collection stores no model, because nobody was enrolled in it yet."""


def export_gallery(store: Store, path: Path, *, progress: Progress | None = None) -> Header:
    """Write all people of an open collection atomically to a file; return the file's header.

    An existing file is replaced if it is an older export. Raise `GalleryError` if it is anything else, or if the gallery
    has no model yet or is damaged. Each person is read in one consistent state; compare `store.version()` before and
    after to detect changes during the export. `progress` is called with the number of people done and the total.
    """
    if path.is_file() and path.stat().st_size and not is_export(path):
        raise GalleryError(
            f"{plain_text(str(path))}: already exists and is not an export of a gallery; choose another name"
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
    """Import all people from an export, a file of `export_gallery`, into an open collection; return what was added.

    The whole file is checked before anything changes. If the collection already has a person of the same name, that
    person gets the photos it lacks (see `stores.records.joined`), or stays unchanged with `skip_known`. An empty
    collection also gets the settings in the file. An interrupted import can be started again and ends in the
    same state. Raise `GalleryError` if the file is damaged, or if its vectors are from another model than the
    collection's.
    """
    with PeopleFile(path) as file:
        stored = store.setting("embedder")
        if stored is not None:
            _check_same_model(store, stored, path, file.header.model)
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
            undoable = file.header.n_photos <= _UNDOABLE_PHOTOS
            counts = counts.plus(add_people(store, batch, text=text, skip_known=skip_known, undoable=undoable))
            if progress is not None:
                progress(n_people, file.header.n_people)
    return counts


def _check_same_model(store: Store, stored: Any, path: Path, model: dict[str, Any]) -> None:
    if (other := difference(model, stored if isinstance(stored, dict) else {})) is not None:
        raise GalleryError(
            f"{plain_text(str(path))}: its vectors {other}, which {store.name} has; import into a new gallery"
        )


def stored_model(store: Store) -> dict[str, Any]:
    """Return the stored facts about the model of a collection's vectors.

    Raise `NoModel` if none are stored yet, `GalleryError` if they are damaged or the collection is incomplete.
    """
    stored = store.setting("embedder")
    if stored is None:
        raise NoModel(f"{store.name}: no people are enrolled in the collection {store.collection!r}")
    if isinstance(stored, dict) and "unfinished" in stored:
        raise GalleryError(f"{store.name}: incomplete; run the command that was filling it again")
    try:
        return checked_model(stored)
    except ValueError as error:
        raise GalleryError(f"{store.name}: damaged ({error})") from None


def stored_settings(store: Store) -> dict[str, Any]:
    """Return the settings of a collection that an export contains; raise `GalleryError` if they are damaged."""
    settings = {key: value for key in SETTINGS if (value := store.setting(key)) is not None}
    try:
        return checked_settings(settings)
    except ValueError as error:
        raise GalleryError(f"{store.name}: damaged ({error})") from None


def checked_people(store: Store, model: dict[str, Any]) -> Iterator[PersonRecord]:
    """Yield all people of a collection by name; raise `GalleryError` if a vector's length differs from the model's."""
    for record in people_of(store):
        for photo in record.photos:
            if photo.entry.embedding.shape != (model["dimension"],):
                raise GalleryError(f"{store.name}: damaged (a vector of {record.state.name!r} has the wrong length)")
        yield record


def counted(people: Iterable[PersonRecord], total: int, progress: Progress | None) -> Iterator[PersonRecord]:
    """Yield the people unchanged; after every 100, call `progress` with the number of people so far and the total."""
    for n, record in enumerate(people, 1):
        yield record
        if progress is not None and n % 100 == 0:
            progress(n, max(n, total))
