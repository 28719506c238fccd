"""Embeds a gallery with another model, from the crops that were stored at enrolment."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from facespace.embedding.compatibility import difference, model_of
from facespace.embedding.embedder import Embedder
from facespace.errors import GalleryError, ImageError
from facespace.faces.crops import CropRecord
from facespace.faces.input_spec import InputSpec
from facespace.identification.exchange import Progress, checked_people, counted, stored_model, stored_settings
from facespace.identification.gallery_copy import begin, finish
from facespace.identification.stores.bulk import add_people
from facespace.identification.stores.protocol import Store
from facespace.identification.stores.records import PersonRecord, PhotoRecord
from facespace.io import image

_N_CROPS = 256  # crops that are embedded at once
_MAX_PIXELS = 2**22

Report = Callable[[str, str], None]


class Migrated(NamedTuple):
    """The numbers of people and photos of the new collection, and the names of people who lost photos."""

    n_people: int
    n_photos: int
    left_out: list[str]


def migrate(
    source: Store,
    open_target: Callable[[], Store],
    embedder: Embedder,
    *,
    report: Report | None = None,
    progress: Progress | None = None,
) -> Migrated:
    """Embed all crops stored in `source`, and store them with their people in an empty collection.

    `open_target` creates and opens that collection after the checks. The original stays unchanged. The new collection
    cannot be searched until it is complete; an interrupted migration can be started again and goes on. `report` is called
    with the name and the reason for each person who loses some or all photos. The calibration is not copied, because it
    belongs to the old model. Raise `GalleryError` if the crops do not fit the new model, if no crops were stored, or if
    the collection has people.
    """
    old_model, model = stored_model(source), model_of(embedder)
    if difference(old_model, model) is None:
        raise GalleryError(f"{source.name}: its vectors are already of the model {embedder.name!r}")
    made = InputSpec.from_dict(old_model["input_spec"])
    if misfit := CropRecord(made.size, made.crop_margin, made.template).misfit(embedder.spec):
        raise GalleryError(f"{source.name}: {misfit}; enrol the photos again, with {embedder.name}, into a new gallery")
    if not any(photo.entry.crop for record in checked_people(source, old_model) for photo in record.photos):
        raise GalleryError(
            f"{source.name}: no crops are stored in it; enrol the photos again, with {embedder.name}, into a new gallery"
        )
    left_out: list[str] = []

    def lose(name: str, reason: str) -> None:
        left_out.append(name)
        if report is not None:
            report(name, reason)

    with contextlib.closing(open_target()) as target:
        begin(target, model, f"{source.name} {source.collection} by another model")
        if (templates := stored_settings(source).get("templates")) is not None:
            target.set("templates", templates)
        waiting: list[tuple[PersonRecord, list[npt.NDArray[np.uint8]]]] = []
        people = counted(checked_people(source, old_model), source.count(), progress)
        for found in _with_crops(people, old_model["input_spec"]["size"], lose):
            if not _is_there(target, found[0]):
                waiting.append(found)
            if sum(len(crops) for _, crops in waiting) >= _N_CROPS:
                _embed(target, embedder, waiting)
                waiting = []
        _embed(target, embedder, waiting)
        n_people = n_photos = 0
        for record in checked_people(target, model):
            n_people += 1
            n_photos += len(record.photos)
        finish(target, model)
    return Migrated(n_people, n_photos, left_out)


def _with_crops(
    people: Iterable[PersonRecord], size: int, lose: Report
) -> Iterator[tuple[PersonRecord, list[npt.NDArray[np.uint8]]]]:
    """Yield the people who have crops, reduced to the photos with a crop, and these crops."""
    for record in people:
        photos: list[PhotoRecord] = []
        crops: list[npt.NDArray[np.uint8]] = []
        reasons = []
        for photo in record.photos:
            try:
                crops.append(_crop_of(photo, size))
                photos.append(photo)
            except ValueError as error:
                reasons.append(str(error))
        if reasons:
            n = len(record.photos)
            what = "left out" if not photos else f"{len(reasons)} of {n} photos left out"
            lose(record.state.name, f"{what} ({reasons[0]})")
        if photos:
            yield PersonRecord(record.state, record.added, tuple(photos)), crops


def _crop_of(photo: PhotoRecord, size: int) -> npt.NDArray[np.uint8]:
    """Return the crop of a photo; raise `ValueError` with the reason if it has no crop."""
    if photo.entry.crop is None:
        raise ValueError("no crop is stored")
    try:
        crop = image.read(photo.entry.crop, max_pixels=_MAX_PIXELS)
    except ImageError as error:
        raise ValueError(f"its crop cannot be read: {error.reason}") from None
    if crop.shape[:2] != (size, size) or hashlib.sha256(crop.tobytes()).hexdigest() != photo.entry.digest:
        raise ValueError("its crop is not the one that was enrolled")
    return crop


def _is_there(target: Store, record: PersonRecord) -> bool:
    """Return whether an earlier, interrupted migration has already stored the person."""
    person = target.find(record.state.name)
    if person is None:
        return False
    stored = {photo.digest for photo in target.photos(person.id)}
    return person.state == record.state and stored.issuperset(photo.entry.digest for photo in record.photos)


def _embed(target: Store, embedder: Embedder, people: list[tuple[PersonRecord, list[npt.NDArray[np.uint8]]]]) -> None:
    """Embed crops and store their people, in one change if the store supports it."""
    if not people:
        return
    crops = np.stack([crop for _, several in people for crop in several])
    vectors = iter(np.asarray(embedder.represent(crops), np.float32))
    made_by = f"{embedder.runtime} {embedder.precision}"
    records = []
    for record, _ in people:
        photos = []
        for photo in record.photos:
            entry = dataclasses.replace(photo.entry, embedding=next(vectors), made_by=made_by)
            photos.append(PhotoRecord(entry, photo.added))
        records.append(PersonRecord(record.state, record.added, tuple(photos)))
    add_people(target, records, text=f"{len(records)} people by {embedder.name}", undoable=False)
