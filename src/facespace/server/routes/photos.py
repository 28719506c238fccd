"""Adding, listing, showing and removing photos of a person."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from facespace.identification import edits
from facespace.identification.edits import Done, Seen
from facespace.identification.stores.protocol import StoredPhoto
from facespace.server.acting import CollectionName, Enroller, Reader, acting, collection_of
from facespace.server.bodies import read_form
from facespace.server.enrolling import (
    BOX_FIELD,
    METADATA_FIELD,
    Enrolment,
    Options,
    Target,
    enroll_form,
    metadata_of,
    request_body,
)
from facespace.server.people import (
    EXAMPLE_PHOTO,
    PhotoEntry,
    if_match,
    person_entry,
    person_number,
    photo_entry,
    photo_number,
)
from facespace.server.problems import Problem, problems
from facespace.server.routes.people import ChangedPerson, Undo
from facespace.server.service import service_of

MAX_PHOTOS_PAGE = 1_000  # photos in one answer
PNG = b"\x89PNG\r\n\x1a\n"
PNG_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}, "description": "The crop."},
    304: {"description": "The client's crop, named by the ETag in If-None-Match, is current."},
}

router = APIRouter(tags=["photos"])


class Photos(BaseModel):
    """Photos of a person, in the order they were added."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"photos": [EXAMPLE_PHOTO], "next": None, "total": 1}]})

    photos: list[PhotoEntry]
    next: str | None = Field(description="Send it as `after` for the next page; null at the end.")
    total: int


class PhotoRemoved(Undo):
    """The result of removing a photo. `person` is null if it was the person's last photo."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"undo": 12, "person": None}]})

    person: ChangedPerson | None


@router.post(
    "/v1/people/{person_id}/photos", operation_id="add_photos", summary="Add photos to a person", responses=problems(409),
    openapi_extra={"requestBody": request_body(raw=True, metadata=METADATA_FIELD, box=BOX_FIELD)},
)  # fmt: skip
async def add_photos(
    request: Request,
    caller: Enroller,
    person_id: str,
    options: Annotated[Options, Depends()],
    collection: CollectionName = "default",
) -> Enrolment:
    """Add or reject each photo independently, with a stable code. Added photos are on the disk.

    `metadata` is a JSON object that is stored with each photo. With `box`, the request must have one photo; the face in
    the drawn box is enrolled, even if the detector found none.
    """
    service_of(request).engine.check_queue(1)
    number = person_number(person_id)
    form = await read_form(request, raw_as="photo")
    return await enroll_form(
        request, caller, collection, form, Target(number=number), options, photo_metadata=metadata_of(form)
    )  # fmt: skip


@router.get(
    "/v1/people/{person_id}/photos", operation_id="list_photos", summary="List a person's photos", responses=problems()
)
async def list_photos(
    request: Request,
    caller: Reader,
    person_id: str,
    collection: CollectionName = "default",
    after: Annotated[str | None, Query(max_length=20, description="The `next` of an earlier answer.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PHOTOS_PAGE)] = 100,
) -> Photos:
    """List photos in the order they were added. `next` is the id of the last photo in the answer."""
    del caller
    service, number = service_of(request), person_number(person_id)
    last = 0 if after is None else photo_number(after)
    gallery = await collection_of(service, collection)

    def read() -> list[StoredPhoto]:
        edits.person_called(gallery.store, Seen(number))
        return gallery.store.photos(number)

    photos = await service.engine.run(read)
    rest = [photo for photo in photos if photo.id > last]
    return Photos(
        photos=[PhotoEntry.model_validate(photo_entry(photo)) for photo in rest[:limit]],
        next=str(rest[limit - 1].id) if len(rest) > limit else None,
        total=len(photos),
    )


@router.get(
    "/v1/people/{person_id}/photos/{photo_id}/crop", operation_id="get_crop", summary="The crop of a photo, as PNG",
    response_class=Response, responses={**problems(), **PNG_RESPONSE},
)  # fmt: skip
async def get_crop(
    request: Request, caller: Reader, person_id: str, photo_id: str, collection: CollectionName = "default"
) -> Response:
    """Return the face as it was cropped for recognition. Photos themselves are not kept. 404 if no crop was kept."""
    del caller
    service, number, photo = service_of(request), person_number(person_id), photo_number(photo_id)
    gallery = await collection_of(service, collection)

    def read() -> tuple[str, bytes] | None:
        edits.person_called(gallery.store, Seen(number))
        found = next((one for one in gallery.store.photos(number) if one.id == photo), None)
        crop = gallery.store.crop(photo) if found is not None and found.has_crop else None
        return None if found is None or crop is None else (found.digest, crop)

    return png_response(request, await service.engine.run(read))


def png_response(request: Request, crop: tuple[str, bytes] | None) -> Response:
    """Return a stored crop (its digest and bytes). Raise `Problem` 404 if it is missing or not a PNG."""
    if crop is None or not crop[1].startswith(PNG):
        raise Problem(404, "no_such_photo", "there is no such photo, or no crop of it was kept")
    digest, data = crop
    headers = {"ETag": f'"{digest[:24]}"', "Cache-Control": "private, no-cache"}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(data, media_type="image/png", headers=headers)


@router.delete(
    "/v1/people/{person_id}/photos/{photo_id}", operation_id="remove_photo", summary="Remove a photo, until undone or erased",
    responses=problems(409, 412),
)  # fmt: skip
async def remove_photo(
    request: Request, caller: Enroller, person_id: str, photo_id: str, collection: CollectionName = "default"
) -> PhotoRemoved:
    """Remove a photo; removing the last one removes the person. If-Match with the person's ETag is optional."""
    service, number, photo = service_of(request), person_number(person_id), photo_number(photo_id)
    gallery = await collection_of(service, collection)

    def remove() -> tuple[Done, dict[str, Any] | None]:
        store = gallery.store
        who = if_match(request, gallery, number, needed=False)
        name = edits.person_called(store, who).state.name
        done = edits.remove_photos(store, who, [photo])
        left = store.get([number])
        entry = person_entry(store, left[0]) if left else None
        data = {"person": {"id": person_id, "name": name}, "undo": done.number}
        service.events.emit("removed" if entry is None else "changed", collection, data)
        return done, entry

    done, entry = await acting(service, caller, remove)
    person = None if entry is None else ChangedPerson.model_validate({**entry, "undo": done.number})
    return PhotoRemoved(undo=done.number, person=person)
