"""Enrols the photos of a request: each photo is added, or rejected with a stable code, independently of the others."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import Query, Request
from pydantic import BaseModel, ConfigDict, Field

from facespace.embedding.vectors import Embeddings
from facespace.faces.alignment import align
from facespace.faces.face import Box, Face
from facespace.faces.quality import face_quality
from facespace.identification import edits
from facespace.identification.edits import Seen
from facespace.identification.gallery import Gallery
from facespace.identification.stores.changes import checked_external_id, checked_metadata
from facespace.identification.stores.protocol import Conflict
from facespace.io.png import encode_png
from facespace.pipeline.drawn_boxes import assumed_face, checked_box, face_in_box, in_photo, region_around
from facespace.pipeline.enrolling import Enrolled, Enroller, LeftOut
from facespace.server.access import Caller
from facespace.server.acting import acting, collection_of
from facespace.server.bodies import Form, Upload
from facespace.server.engine import AnalyzedPhoto
from facespace.server.people import EXAMPLE_PERSON, Person, checked, checked_name, person_entry
from facespace.server.problems import Problem
from facespace.server.service import Service, service_of

_TRIES = 5
_MAX_METADATA = 65_536  # characters of metadata as the client writes it, blanks included

RejectedCode = Literal[
    "unreadable_image", "too_large", "no_face", "several_faces", "poor_quality", "already_known", "other_person"
]
Accepted = Literal["poor_quality", "other_person"]

EXAMPLE_ADDED: dict[str, Any] = {
    "index": 0, "filename": "a.jpg", "photo_id": "7", "quality": 0.81, "box": [31.5, 40.2, 118.9, 155.0], "warnings": [],
}  # fmt: skip
EXAMPLE_REJECTED: dict[str, Any] = {"index": 1, "filename": "b.jpg", "code": "no_face", "detail": "no face found"}
EXAMPLE_ENROLMENT: dict[str, Any] = {"person": EXAMPLE_PERSON, "added": [EXAMPLE_ADDED], "rejected": [EXAMPLE_REJECTED]}


class Warned(BaseModel):
    """A warning about a photo that was added."""

    code: str = Field(
        description="low_quality, of_several, same_photo, resembles_other, unlike_others, drawn_box, or assumed_landmarks."
    )
    detail: str


class Added(BaseModel):
    """A photo that was added. `index` counts the photos of the request from 0."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_ADDED]})

    index: int
    filename: str
    photo_id: str
    quality: float | None
    box: list[float] = Field(description="The face that was enrolled, in pixels of the upright photo.")
    warnings: list[Warned]


class Rejected(BaseModel):
    """A photo that was not added, and the reason."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_REJECTED]})

    index: int
    filename: str
    code: RejectedCode
    detail: str


class Enrolment(BaseModel):
    """The result for each photo. `person` is null if there is no person with the name."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_ENROLMENT]})

    person: Person | None
    added: list[Added]
    rejected: list[Rejected]


class CreatedPerson(Person):
    """A person who was created, and the result for each photo."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{**EXAMPLE_PERSON, "added_photos": [EXAMPLE_ADDED], "rejected": []}]}
    )

    added_photos: list[Added]
    rejected: list[Rejected]


@dataclass(frozen=True, slots=True)
class Options:
    """How to analyse the photos of a request: query parameters of every request that enrols."""

    largest: Annotated[bool, Query(description="If a photo has several faces, enrol the largest.")] = False
    try_rotations: Annotated[bool, Query(description="Search all four rotations; takes four times as long.")] = False
    accept: Annotated[
        list[Accepted] | None,
        Query(max_length=10, description="Reasons that must not reject a photo: they become warnings."),
    ] = None


def request_body(*needed: str, raw: bool = False, **fields: dict[str, Any]) -> dict[str, Any]:
    """Return OpenAPI's `requestBody` for a form with photos. With `raw`, the body itself may be one photo."""
    photo = {"type": "array", "items": {"type": "string", "format": "binary"}, "description": "The photos."}
    schema = {"type": "object", "required": [*needed, "photo"], "properties": {**fields, "photo": photo}}
    content: dict[str, Any] = {"multipart/form-data": {"schema": schema}}
    if raw:
        binary = {"schema": {"type": "string", "format": "binary"}}
        content |= {"image/*": binary, "application/octet-stream": binary}
    return {"required": True, "content": content}


NAME_FIELD = {"type": "string", "minLength": 1, "maxLength": 200, "example": "Ada Lovelace"}
EXTERNAL_ID_FIELD = {"type": "string", "maxLength": 200, "description": "The person's id in another system."}
METADATA_FIELD = {"type": "string", "description": "A small JSON object.", "example": '{"team": "engines"}'}
BOX_FIELD = {
    "type": "string", "example": "31,40,119,155",
    "description": "A box drawn by hand, as x1,y1,x2,y2 in pixels of the upright photo; needs exactly one photo.",
}  # fmt: skip


def metadata_of(form: Form, field: str = "metadata") -> dict[str, Any] | None:
    """Return the JSON object in a field of a form; None if the form lacks the field. Raise `Problem` 422 otherwise."""
    text = form.text(field)
    if text is None:
        return None
    if len(text) > _MAX_METADATA:
        raise Problem(422, "invalid", f"{field} must have at most {_MAX_METADATA} characters, got {len(text)}")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise Problem(422, "invalid", f"{field} must be a JSON object") from None
    return checked(checked_metadata, value)


@dataclass(frozen=True, slots=True)
class Target:
    """The person that photos are added to.

    `number` is the person's number, 0 for a new person, or None for the person called `name`, who may be new.
    `external_id` and `metadata` are set together with the first photo.
    """

    name: str = ""
    number: int | None = None
    external_id: str | None = None
    metadata: dict[str, Any] | None = None


async def enroll_form(
    request: Request,
    caller: Caller,
    collection: str,
    form: Form,
    target: Target,
    options: Options,
    *,
    photo_metadata: dict[str, Any] | None = None,
) -> Enrolment:
    """Add the photos of a form to a person, and return the result for each photo. Added photos are on the disk by then.

    `photo_metadata` is stored with each photo. Raise `Problem` 422 `photo_needed` if there is no photo, 409 `name_taken`
    if the name or the external id belongs to another person; `UnknownPerson` if no person has the number `target.number`.
    """
    service = service_of(request)
    uploads = form.photos()
    if not uploads:
        raise Problem(422, "photo_needed", "at least one file `photo` is needed")
    if len(uploads) > service.settings.max_photos:
        raise Problem(
            413, "too_large", f"a request may have at most {service.settings.max_photos} photos, got {len(uploads)}"
        )
    numbers = _box_numbers(form, len(uploads))
    gallery = await collection_of(service, collection)
    await service.engine.run(_check_target, gallery, target)
    photos = await service.engine.analyze(
        [one.data for one in uploads], model=model_of(service, gallery), largest=options.largest,
        try_rotations=options.try_rotations, keep_pixels=numbers is not None,
    )  # fmt: skip
    warned: list[list[Warned]] = [[] for _ in photos]
    if numbers is not None and photos[0].error is None:
        warned[0].append(await _take_box(service, gallery, photos[0], numbers))
    accepted = set(options.accept or ()) | ({"poor_quality"} if numbers is not None else set())

    def work() -> Enrolment:
        return _Work(service, gallery, collection, target, accepted, photo_metadata).run(uploads, photos, warned)

    return await acting(service, caller, work)


def model_of(service: Service, gallery: Gallery) -> str:
    """Return the name of the model that made the embeddings of a collection."""
    return service.galleries.model(gallery.store.collection)


class _Work:
    """Adds the photos of one request, in a thread."""

    def __init__(
        self,
        service: Service,
        gallery: Gallery,
        collection: str,
        target: Target,
        accepted: set[str],
        photo_metadata: dict[str, Any] | None,
    ) -> None:
        self._service, self._gallery, self._collection = service, gallery, collection
        self._target = target
        self._metadata = photo_metadata
        self._enroller = Enroller(
            gallery, any_quality="poor_quality" in accepted, refuse_others="other_person" not in accepted,
            keep_crops=service.choices.of(gallery).keep_crops,
        )  # fmt: skip

    def run(
        self, uploads: Sequence[Upload], photos: Sequence[AnalyzedPhoto], warned: Sequence[list[Warned]]
    ) -> Enrolment:
        store, number = self._gallery.store, self._target.number
        added: list[tuple[int, Enrolled]] = []
        rejected = []
        for k, (upload, photo) in enumerate(zip(uploads, photos, strict=True)):
            try:
                number, done = self._add(photo, upload.filename, number)
            except LeftOut as reason:
                code: RejectedCode = "too_large" if _is_too_large(photo) else reason.code
                rejected.append(Rejected(index=k, filename=upload.filename, code=code, detail=reason.text))
                continue
            if not done.new:
                text = "this face is already enrolled for this person"
                rejected.append(Rejected(index=k, filename=upload.filename, code="already_known", detail=text))
                continue
            if not added:
                self._set_state(number)
            added.append((k, done))
        held = store.get([number]) if number else []
        person = held[0] if held else store.find(self._target.name) if self._target.name else None
        listed = store.photos(person.id) if person is not None else []
        ids = {photo.digest: str(photo.id) for photo in listed}
        entry = None if person is None else Person.model_validate(person_entry(store, person, listed))
        self._service.unknowns.named(self._collection, [one.digest for _, one in added])
        if added and entry is not None:
            data = {"person": {"id": entry.id, "name": entry.name}, "n_added": len(added), "n_photos": entry.n_photos}
            self._service.events.emit("enrolled", self._collection, data)
        entries = [
            Added(
                index=k,
                filename=uploads[k].filename,
                photo_id=ids.get(one.digest, ""),
                quality=None if one.face.quality is None else round(one.face.quality, 3),
                box=[round(float(value), 2) for value in one.face.box],
                warnings=[*warned[k], *(Warned(code=remark.code, detail=remark.text) for remark in one.remarks)],
            )
            for k, one in added
        ]
        return Enrolment(person=entry, added=entries, rejected=rejected)

    def _add(self, photo: AnalyzedPhoto, filename: str, number: int | None) -> tuple[int | None, Enrolled]:
        """Add one photo. Return the person's number and the result. Try again if the person is renamed meanwhile."""
        for turn in range(_TRIES):
            name = self._target.name
            if number:
                name = edits.person_called(self._gallery.store, Seen(number)).state.name
            try:
                done = self._enroller.add(name, photo, source=filename, metadata=self._metadata, person=number)
            except Conflict:
                if number == 0:
                    _refuse_name(self._gallery, name)
                if turn == _TRIES - 1:
                    raise
                continue
            if number == 0 and (found := self._gallery.store.find(name)) is not None:
                number = found.id
            return number, done
        raise AssertionError

    def _set_state(self, number: int | None) -> None:
        """Set the external id and the metadata of the person, who now has a photo."""
        if self._target.external_id is None and self._target.metadata is None:
            return
        who = Seen(number) if number else self._target.name
        edits.edit(
            self._gallery.store, who, external_id=self._target.external_id, metadata=self._target.metadata
        )  # fmt: skip


def _is_too_large(photo: AnalyzedPhoto) -> bool:
    return photo.error is not None and "the limit is" in photo.error


def _check_target(gallery: Gallery, target: Target) -> None:
    """Raise the errors of a target that can be found before any photo is analysed."""
    if target.number:
        edits.person_called(gallery.store, Seen(target.number))
    elif target.number == 0:
        _refuse_name(gallery, target.name)
    if target.external_id:
        other = gallery.store.find_external(target.external_id)
        if other is not None and (target.number == 0 or other.state.name != target.name):
            text = f"the external id {target.external_id!r} already belongs to {other.state.name!r}"
            raise Problem(409, "name_taken", text, other=str(other.id))


def _refuse_name(gallery: Gallery, name: str) -> None:
    other = gallery.store.find(name)
    if other is not None:
        raise Problem(409, "name_taken", f"a person is already called {name!r}", other=str(other.id))


def checked_target(form: Form, *, number: int | None, person_metadata: bool) -> Target:
    """Return the target that a form names. Raise `Problem` 422 for an invalid name, external id or metadata."""
    name = form.text("name")
    if name is None:
        raise Problem(422, "invalid", "the field `name` is needed")
    external_id = form.text("external_id")
    if external_id is not None:
        checked(checked_external_id, external_id)
    return Target(checked_name(name), number, external_id, metadata_of(form) if person_metadata else None)


def _box_numbers(form: Form, n_photos: int) -> list[float] | None:
    text = form.text("box")
    if text is None:
        return None
    if n_photos != 1:
        raise Problem(422, "invalid", f"a request with a box must have one photo, got {n_photos}")
    try:
        return [float(one) for one in text[:200].split(",")]
    except ValueError:
        raise Problem(422, "invalid", "box must be four numbers: x1,y1,x2,y2") from None


async def _take_box(service: Service, gallery: Gallery, photo: AnalyzedPhoto, numbers: list[float]) -> Warned:
    """Keep only the face in a box that a user drew, given as `numbers` x1, y1, x2, y2.

    If no face is found there, its landmarks are assumed. Return the warning that says which of the two happened.
    """
    assert photo.pixels is not None
    box: Box = checked(lambda given: checked_box(given, photo.width, photo.height), numbers)
    warned = Warned(code="drawn_box", detail="the face in the drawn box was enrolled")
    face = face_in_box(photo.faces, box)
    if face is None:
        region = await service.engine.run(region_around, photo.pixels, box)
        png = await service.engine.run(encode_png, region.pixels)
        (found,) = await service.engine.analyze([png], model=model_of(service, gallery), embed=False)
        face = face_in_box([in_photo(one, region) for one in found.faces], box)
    if face is None:
        face = assumed_face(box)
        text = "no face was found in the drawn box; eyes, nose and mouth are assumed at their average positions"
        warned = Warned(code="assumed_landmarks", detail=text)
    await service.engine.run(_take_face, gallery, photo, face)
    return warned


def _take_face(gallery: Gallery, photo: AnalyzedPhoto, face: Face) -> None:
    """Make this face the only one of the photo, with its own crop and embedding."""
    assert photo.pixels is not None
    embedder = gallery.embedder
    face = dataclasses.replace(face, quality=face_quality(photo.pixels, face))
    photo.crops = align(photo.pixels, face, embedder.spec)[None]
    vectors = embedder.represent(photo.crops)
    quality = np.array([face.quality], np.float32)
    photo.embeddings = Embeddings(
        vectors.view(np.ndarray), made_by=vectors.made_by, model=vectors.model, quality=quality
    )
    photo.faces = [face]
    photo.pixels = None
