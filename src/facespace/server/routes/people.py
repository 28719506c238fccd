"""Listing, creating, changing, merging, splitting, removing and erasing people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from facespace.errors import UnknownPerson
from facespace.identification import edits
from facespace.identification.edits import Done, Seen
from facespace.identification.gallery import Gallery
from facespace.identification.stores.changes import checked_external_id, checked_metadata
from facespace.identification.stores.protocol import Store
from facespace.io.text import plain_text
from facespace.server.access import Caller
from facespace.server.acting import Admin, CollectionName, Enroller, Reader, acting, collection_of
from facespace.server.bodies import Form, read_form
from facespace.server.enrolling import (
    BOX_FIELD,
    EXTERNAL_ID_FIELD,
    METADATA_FIELD,
    NAME_FIELD,
    CreatedPerson,
    Enrolment,
    Options,
    checked_target,
    enroll_form,
    metadata_of,
    request_body,
)
from facespace.server.people import (
    EXAMPLE_PERSON,
    MAX_PAGE,
    Person,
    PersonWithPhotos,
    checked,
    checked_name,
    if_match,
    people_page,
    person_entry,
    person_number,
    person_with_photos,
    photo_number,
)
from facespace.server.problems import Problem, problems
from facespace.server.service import Service, service_of

MAX_MERGED = 100  # people in one request
MAX_CHOSEN = 1_000  # photos in one request

router = APIRouter(tags=["people"])

Name = Annotated[str, Field(min_length=1, max_length=1000)]
Ids = Annotated[list[Annotated[str, Field(max_length=20)]], Field(min_length=1, max_length=MAX_CHOSEN)]
_ETAG = {"ETag": {"description": "The person's etag in quotes.", "schema": {"type": "string"}}}
_IF_MATCH: dict[str, Any] = {
    "parameters": [
        {
            "name": "If-Match", "in": "header", "required": False, "schema": {"type": "string", "maxLength": 1000},
            "description": "The person's ETag. Without it the answer is 428, if it differs 412. `*` accepts any state.",
            "example": "*",
        }
    ]
}  # fmt: skip


class People(BaseModel):
    """A page of a list of people."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"people": [EXAMPLE_PERSON], "next": None, "total": 1}]})

    people: list[Person]
    next: str | None = Field(description="Send it as `after` for the next page; null at the end.")
    total: int = Field(description="The number of people in the collection.")


class NewPerson(BaseModel):
    """A person to create. In a form, the photos are sent with it."""

    name: Name
    external_id: str | None = None
    metadata: dict[str, Any] | None = None


class PersonPatch(BaseModel):
    """Changes of a person. Missing fields stay unchanged."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "Ada King"}]})

    name: Name | None = None
    external_id: str | None = None
    metadata: dict[str, Any] | None = None
    templates: Literal["", "mean", "best"] | None = None


class Undo(BaseModel):
    """The number of a change, for `undo`; null if nothing had to change."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"undo": 12}]})

    undo: int | None


class ChangedPerson(Person, Undo):
    """A person after a change."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**EXAMPLE_PERSON, "undo": 12}]})


class Merge(BaseModel):
    """The people whose photos the person gets. `etags`, in the same order, are the ETags that the client saw."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"others": ["4"]}]})

    others: Annotated[list[Annotated[str, Field(max_length=20)]], Field(min_length=1, max_length=MAX_MERGED)]
    etags: list[Annotated[str, Field(max_length=100)]] | None = None


class Split(BaseModel):
    """The photos to move, and the name of the other person."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"photos": ["7"], "to": "Grace Hopper"}]})

    photos: Ids
    to: Name


class Reject(BaseModel):
    """The photos that do not show the person, and the name of the person they show, if known."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"photos": ["7"]}]})

    photos: Ids
    to: Name | None = None


class Moved(BaseModel):
    """Both people after photos were moved; null for a person without photos."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"person": EXAMPLE_PERSON, "other": None, "undo": 12}]})

    person: Person | None
    other: Person | None
    undo: int | None


class Erased(BaseModel):
    """The number of photos that were erased permanently."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"erased": 2}]})

    erased: int


@router.get("/v1/people", operation_id="list_people", summary="List the people", responses=problems())
async def list_people(
    request: Request,
    caller: Reader,
    collection: CollectionName = "default",
    after: Annotated[str | None, Query(max_length=2000, description="The `next` of an earlier answer.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    search: Annotated[str, Query(max_length=200, description="A part of the name, without case and accents.")] = "",
    external_id: Annotated[str | None, Query(max_length=200)] = None,
) -> People:
    """List people by name. A page of a search may be short, or empty, even if `next` shows that more follow."""
    del caller
    service = service_of(request)
    gallery = await collection_of(service, collection)

    def read() -> dict[str, Any]:
        store = gallery.store
        if external_id is not None:
            found = store.find_external(external_id) if external_id and plain_text(external_id) == external_id else None
            people, following = [found] if found is not None else [], None
        else:
            people, following = people_page(store, after=after, limit=limit, search=search)
        return {"people": [person_entry(store, one) for one in people], "next": following, "total": store.count()}

    return People.model_validate(await service.engine.run(read))


@router.post(
    "/v1/people", operation_id="create_person", summary="Create a person from photos", status_code=201,
    responses={**problems(409), 201: {"headers": {**_ETAG, "Location": {"schema": {"type": "string"}}}}},
    openapi_extra={
        "requestBody": request_body(
            "name", name=NAME_FIELD, external_id=EXTERNAL_ID_FIELD, metadata=METADATA_FIELD, box=BOX_FIELD
        )
    },
)  # fmt: skip
async def create_person(
    request: Request,
    caller: Enroller,
    response: Response,
    options: Annotated[Options, Depends()],
    collection: CollectionName = "default",
) -> CreatedPerson:
    """Create a person, who needs photos: the request is a form with `name` and one or more files `photo`.

    If the name is taken, nothing is added: 409 `name_taken` with the id of the `other` person. If no photo can be enrolled:
    422 `photo_needed` with the `rejected` photos.
    """
    service_of(request).engine.check_queue(1)
    form = await _form_or_json(request)
    target = checked_target(form, number=0, person_metadata=True)
    done = await enroll_form(request, caller, collection, form, target, options)
    if done.person is None:
        rejected = [one.model_dump() for one in done.rejected]
        raise Problem(
            422, "photo_needed", f"no photo could be enrolled: {done.rejected[0].detail}", rejected=rejected
        )  # fmt: skip
    person = CreatedPerson(**done.person.model_dump(), added_photos=done.added, rejected=done.rejected)
    _set_etag(response, person)
    response.headers["Location"] = f"{request.scope.get('root_path', '')}/v1/people/{person.id}"
    return person


@router.post(
    "/v1/enroll", operation_id="enroll", summary="Add photos to a new or known person by name",
    responses=problems(409),
    openapi_extra={
        "requestBody": request_body(
            "name", name=NAME_FIELD, external_id=EXTERNAL_ID_FIELD, metadata=METADATA_FIELD, box=BOX_FIELD
        )
    },
)  # fmt: skip
async def enroll(
    request: Request, caller: Enroller, options: Annotated[Options, Depends()], collection: CollectionName = "default"
) -> Enrolment:
    """Add or reject each photo independently; a rejected photo gets a stable code. `metadata` is stored per photo.

    `person` is null if no person has the name and no photo was added.
    """
    service_of(request).engine.check_queue(1)
    form = await read_form(request)
    target = checked_target(form, number=None, person_metadata=False)
    return await enroll_form(
        request, caller, collection, form, target, options, photo_metadata=metadata_of(form)
    )  # fmt: skip


async def _form_or_json(request: Request) -> Form:
    """Return the form of a request. Raise `Problem` 422 for JSON, which contains no photos."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return await read_form(request)
    try:
        person = NewPerson.model_validate_json(await request.body())
    except (ValidationError, RecursionError, ValueError) as error:
        is_json = isinstance(error, ValidationError) and all(one["type"] != "json_invalid" for one in error.errors())
        if is_json:
            raise Problem(422, "invalid", "the body must be an object with a name") from None
        raise Problem(400, "malformed", "the body is not valid JSON") from None
    checked_name(person.name)
    raise Problem(422, "photo_needed", "a person needs a photo: send a form with the name and files `photo`")


@router.get(
    "/v1/people/{person_id}", operation_id="get_person", summary="One person with their photos",
    responses={**problems(), 200: {"headers": _ETAG}},
)  # fmt: skip
async def get_person(
    request: Request, caller: Reader, response: Response, person_id: str, collection: CollectionName = "default"
) -> PersonWithPhotos:
    """Return a person with at most 1,000 photos; `/v1/people/{person_id}/photos` lists all."""
    del caller
    service = service_of(request)
    gallery = await collection_of(service, collection)
    found = await service.engine.run(person_with_photos, gallery.store, person_number(person_id))
    person = PersonWithPhotos.model_validate(found)
    _set_etag(response, person)
    return person


@router.patch(
    "/v1/people/{person_id}", operation_id="change_person", summary="Change a person",
    responses={**problems(409, 412, 428), 200: {"headers": _ETAG}}, openapi_extra=_IF_MATCH,
)  # fmt: skip
async def change_person(
    request: Request,
    caller: Enroller,
    response: Response,
    person_id: str,
    patch: PersonPatch,
    collection: CollectionName = "default",
) -> ChangedPerson:
    """Rename a person, or change the external id, the metadata (as a whole) or the templates."""
    name = None if patch.name is None else checked_name(patch.name)
    if patch.external_id is not None:
        checked(checked_external_id, patch.external_id)
    metadata = None if patch.metadata is None else checked(checked_metadata, patch.metadata)

    def change(gallery: Gallery, who: Seen) -> Done:
        return edits.edit(
            gallery.store, who, new_name=name, external_id=patch.external_id, metadata=metadata,
            templates=patch.templates,
        )  # fmt: skip

    return await _changed(request, response, caller, collection, person_id, change)


@router.delete(
    "/v1/people/{person_id}", operation_id="remove_person", summary="Remove a person, until undone or erased",
    responses=problems(409, 412, 428), openapi_extra=_IF_MATCH,
)  # fmt: skip
async def remove_person(
    request: Request, caller: Enroller, person_id: str, collection: CollectionName = "default"
) -> Undo:
    """Remove a person, who is then no longer found or named. `undo` restores the person; `erase` deletes permanently."""
    service, number = service_of(request), person_number(person_id)
    gallery = await collection_of(service, collection)

    def remove() -> Done:
        who = if_match(request, gallery, number)
        name = edits.person_called(gallery.store, who).state.name
        done = edits.remove(gallery.store, who)
        service.events.emit("removed", collection, {"person": {"id": person_id, "name": name}, "undo": done.number})
        return done

    return Undo(undo=(await acting(service, caller, remove)).number)


@router.post(
    "/v1/people/{person_id}/merge", operation_id="merge_people", summary="Give a person the photos of others",
    responses={**problems(409, 412, 428), 200: {"headers": _ETAG}}, openapi_extra=_IF_MATCH,
)  # fmt: skip
async def merge_people(
    request: Request,
    caller: Enroller,
    response: Response,
    person_id: str,
    merge: Merge,
    collection: CollectionName = "default",
) -> ChangedPerson:
    """Move the photos of other people to this person, and remove the others.

    With `etags`, the answer is 412 if one of the others has changed since the client saw it.
    """
    if merge.etags is not None and len(merge.etags) != len(merge.others):
        raise Problem(422, "invalid", f"etags must be as many as others, {len(merge.others)}, got {len(merge.etags)}")
    numbers = [person_number(one) for one in merge.others]
    if person_number(person_id) in numbers:
        raise Problem(422, "invalid", "a person cannot be merged into the same person")
    tags: list[str | None] = [tag.strip('"') for tag in merge.etags] if merge.etags else [None] * len(numbers)
    others = [Seen(one, tag) for one, tag in zip(numbers, tags, strict=True)]
    return await _changed(
        request, response, caller, collection, person_id, lambda gallery, who: edits.merge(gallery.store, others, who)
    )


@router.post(
    "/v1/people/{person_id}/split", operation_id="split_person", summary="Move photos to a new or known person",
    responses=problems(409, 412, 428), openapi_extra=_IF_MATCH,
)  # fmt: skip
async def split_person(
    request: Request, caller: Enroller, person_id: str, split: Split, collection: CollectionName = "default"
) -> Moved:
    """Move photos to another person. If no photo is left, the first person is removed."""
    return await _moved(request, caller, collection, person_id, split.photos, split.to, reject=False)


@router.post(
    "/v1/people/{person_id}/reject", operation_id="reject_photos", summary="Mark photos that do not show this person",
    responses=problems(409, 412, 428), openapi_extra=_IF_MATCH,
)  # fmt: skip
async def reject_photos(
    request: Request, caller: Enroller, person_id: str, reject: Reject, collection: CollectionName = "default"
) -> Moved:
    """Remove photos, or move them to the person `to`. They are never enrolled as this person again."""
    return await _moved(request, caller, collection, person_id, reject.photos, reject.to, reject=True)


@router.post(
    "/v1/people/{person_id}/erase", operation_id="erase_person", summary="Erase a person permanently",
    responses=problems(409, 412, 428), openapi_extra=_IF_MATCH,
)  # fmt: skip
async def erase_person(
    request: Request, caller: Admin, person_id: str, collection: CollectionName = "default"
) -> Erased:
    """Erase the embeddings, crops and log entries of a person, even after removal. This cannot be undone.

    The names of people who were merged into this person are erased too. Unnamed faces, backups and exports are not changed.
    """
    service, number = service_of(request), person_number(person_id)
    gallery = await collection_of(service, collection)

    def erase() -> int:
        store = gallery.store
        also = edits.merged_into(store, number)
        try:
            who = if_match(request, gallery, number, needed=bool(store.get([number])))
            edits.remove(store, who)
        except UnknownPerson:
            n_photos = store.erase([number, *also])
            if not n_photos:
                raise
        else:
            n_photos = store.erase([number, *also])
        for one in (number, *also):
            service.events.forget(collection, str(one))
        service.events.emit("removed", collection, {"person": {"id": person_id, "name": None}, "erased": True})
        return n_photos

    return Erased(erased=await acting(service, caller, erase))


async def _changed(
    request: Request,
    response: Response,
    caller: Caller,
    collection: str,
    person_id: str,
    change: Callable[[Gallery, Seen], Done],
) -> ChangedPerson:
    service, number = service_of(request), person_number(person_id)
    gallery = await collection_of(service, collection)

    def run() -> dict[str, Any]:
        done = change(gallery, if_match(request, gallery, number))
        entry = _entry(gallery.store, number)
        if entry is None:
            raise Problem(409, "conflict", "the person was changed, but then removed by another request")
        if done.number is not None:
            _emit_changed(service, collection, entry, done)
        return {**entry, "undo": done.number}

    person = ChangedPerson.model_validate(await acting(service, caller, run))
    _set_etag(response, person)
    return person


async def _moved(
    request: Request,
    caller: Caller,
    collection: str,
    person_id: str,
    photos: list[str],
    to: str | None,
    *,
    reject: bool,
) -> Moved:
    service, number = service_of(request), person_number(person_id)
    name = None if to is None else checked_name(to)
    numbers = [photo_number(one) for one in photos]
    gallery = await collection_of(service, collection)

    def run() -> dict[str, Any]:
        store, who = gallery.store, if_match(request, gallery, number)
        if name is None:
            done = edits.remove_photos(store, who, numbers, reject=True)
        else:
            done = edits.move(store, who, numbers, name, reject=reject)
        entry = _entry(store, number)
        found = None if name is None else store.find(name)
        other = None if found is None else person_entry(store, found)
        for one in (entry, other):
            if one is not None:
                _emit_changed(service, collection, one, done)
        return {"person": entry, "other": other, "undo": done.number}

    return Moved.model_validate(await acting(service, caller, run))


def _entry(store: Store, number: int) -> dict[str, Any] | None:
    found = store.get([number])
    return person_entry(store, found[0]) if found else None


def _emit_changed(service: Service, collection: str, entry: dict[str, Any], done: Done) -> None:
    person = {"id": entry["id"], "name": entry["name"]}
    data = {"person": person, "n_photos": entry["n_photos"], "undo": done.number}
    service.events.emit("changed", collection, data)


def _set_etag(response: Response, person: Person) -> None:
    response.headers["ETag"] = f'"{person.etag}"'
