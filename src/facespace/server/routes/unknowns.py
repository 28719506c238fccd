"""Unnamed faces: listing, searching, clustering, naming, ignoring and erasing them."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from facespace.errors import ModelError
from facespace.identification import edits
from facespace.identification.edits import Seen
from facespace.identification.stores.protocol import Conflict
from facespace.server.acting import CollectionName, Enroller, Reader, acting, collection_of
from facespace.server.bodies import read_photos
from facespace.server.enrolling import Added, Enrolment, Rejected, Warned, model_of, request_body
from facespace.server.identifying import face_entry, largest_first
from facespace.server.people import MAX_PAGE, Person, checked_name, person_entry, person_number
from facespace.server.problems import Problem, problems
from facespace.server.routes.photos import PNG_RESPONSE, png_response
from facespace.server.service import Service, service_of
from facespace.server.unknown_clusters import like_each
from facespace.server.unknowns import Unknown

MAX_NAMED = 1_000  # faces in one request
_TRIES = 5

router = APIRouter(tags=["unknowns"])

EXAMPLE_ID = "0e1c2b3a495-6f7e8d9c-0"
EXAMPLE_UNKNOWN: dict[str, Any] = {
    "id": EXAMPLE_ID, "seen": "2026-01-02T03:04:05Z", "box": [31.5, 40.2, 118.9, 155.0], "source": "party.jpg",
    "quality": 0.74, "has_crop": True,
}  # fmt: skip
EXAMPLE_KNOWN: dict[str, Any] = {"id": "3", "name": "Ada Lovelace", "external_id": "emp-17"}
FaceId = Annotated[str, Field(max_length=40)]
FaceIds = Annotated[list[FaceId], Field(min_length=1, max_length=MAX_NAMED)]
Ignored = Annotated[bool, Query(description="Use the ignored faces instead.")]


class UnknownFace(BaseModel):
    """One unnamed face."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_UNKNOWN]})

    id: str
    seen: str = Field(description="When the photo was analysed, UTC.")
    box: list[float] = Field(description="x1, y1, x2, y2 in pixels of the photo.")
    source: str = Field(description="The client's name for the photo.")
    quality: float | None
    has_crop: bool


class UnknownFaces(BaseModel):
    """A page of faces, the newest first."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"unknowns": [EXAMPLE_UNKNOWN], "next": None, "total": 1}]}
    )

    unknowns: list[UnknownFace]
    next: str | None = Field(description="Send it as `after` for the next page; null at the end.")
    total: int


class KnownPerson(BaseModel):
    """An enrolled person."""

    id: str
    name: str
    external_id: str


class SuggestedPerson(BaseModel):
    """A known person that a cluster may show."""

    person: KnownPerson
    similarity: float
    threshold: float
    likeness: Literal["very likely", "likely", "possible"]


class FaceCluster(BaseModel):
    """Faces that seem to show one person, the newest first. A single face is listed if known people are suggested for it."""

    id: str
    faces: list[str]
    n: int
    cover: str = Field(description="The best of the faces.")
    suggestions: list[SuggestedPerson] = Field(
        description="Known people whose similarity reaches the threshold, best first."
    )


_EXAMPLE_CLUSTER: dict[str, Any] = {
    "id": EXAMPLE_ID, "faces": [EXAMPLE_ID, "0e1c2b3a4a7-5e6d7c8b-1"], "n": 2, "cover": EXAMPLE_ID,
    "suggestions": [{"person": EXAMPLE_KNOWN, "similarity": 0.52, "threshold": 0.31, "likeness": "likely"}],
}  # fmt: skip


class FaceClusters(BaseModel):
    """All clusters, the largest first, and the faces that are in no cluster."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"clusters": [_EXAMPLE_CLUSTER], "loose": []}]})

    clusters: list[FaceCluster]
    loose: list[str]


class AlikeFace(BaseModel):
    """An unnamed face that is similar to a face of the photo."""

    unknown_id: str
    similarity: float
    threshold: float


class SearchedFace(BaseModel):
    """A face of the photo and the unnamed faces similar to it."""

    box: list[float]
    score: float
    quality: float | None
    matches: list[AlikeFace]


class Searched(BaseModel):
    """The faces of the photo, the largest first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"faces": [{
        "box": [31.5, 40.2, 118.9, 155.0], "score": 0.999, "quality": 0.74,
        "matches": [{"unknown_id": EXAMPLE_ID, "similarity": 0.63, "threshold": 0.31}],
    }]}]})  # fmt: skip

    faces: list[SearchedFace]


class Naming(BaseModel):
    """The faces to name, and either a `name`, new or known, or the id of a `person`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"faces": [EXAMPLE_ID], "name": "Ada Lovelace"}]},)  # fmt: skip

    faces: FaceIds
    name: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    person: Annotated[str, Field(max_length=20)] | None = None


class Faces(BaseModel):
    """A list of faces."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"faces": [EXAMPLE_ID]}]})

    faces: FaceIds


class IgnoredFaces(BaseModel):
    """The number of faces of this request, which are now ignored."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ignored": 1}]})

    ignored: int


@router.get("/v1/unknowns", operation_id="list_unknowns", summary="Unnamed faces", responses=problems())
async def list_unknowns(
    request: Request,
    caller: Reader,
    collection: CollectionName = "default",
    after: Annotated[str, Query(max_length=40, description="The `next` of an earlier answer.")] = "",
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
    ignored: Ignored = False,
) -> UnknownFaces:
    """List unnamed faces, the newest first. They are kept for the time in the setting `unknowns_days`."""
    del caller
    service = service_of(request)
    await collection_of(service, collection)

    def read() -> UnknownFaces:
        if "\0" in after:
            raise Problem(422, "invalid", "after must be the `next` of an earlier answer")
        found, following = service.unknowns.page(collection, after=after, limit=limit, ignored=ignored)
        total = service.unknowns.count(collection, ignored=ignored)
        return UnknownFaces(unknowns=[_entry(one) for one in found], next=following, total=total)

    return await service.engine.run(read)


@router.get(
    "/v1/unknowns/clusters", operation_id="cluster_unknowns", summary="Unnamed faces grouped by person",
    responses=problems(),
)  # fmt: skip
async def cluster_unknowns(request: Request, caller: Reader, collection: CollectionName = "default") -> FaceClusters:
    """Cluster the newest 5,000 unnamed faces. Suggest known people whose similarity reaches the 1:1 threshold."""
    del caller
    service = service_of(request)
    gallery = await collection_of(service, collection)
    found = await service.engine.run(service.grouping.of, collection, gallery)
    clusters = [
        FaceCluster(
            id=one.id,
            faces=one.faces,
            n=len(one.faces),
            cover=one.cover,
            suggestions=[
                SuggestedPerson.model_validate(
                    {**dict(each._asdict()), "similarity": round(each.similarity, 4), "threshold": round(each.threshold, 4)}
                )
                for each in one.suggestions
            ],
        )
        for one in found.clusters
    ]  # fmt: skip
    return FaceClusters(clusters=clusters, loose=found.loose)


@router.get(
    "/v1/unknowns/{face_id}/crop", operation_id="get_unknown_crop", summary="The crop of an unnamed face, as PNG",
    response_class=Response, responses={**problems(), **PNG_RESPONSE},
)  # fmt: skip
async def get_unknown_crop(
    request: Request, caller: Reader, face_id: str, collection: CollectionName = "default", ignored: Ignored = False
) -> Response:
    """Return the face as it was cropped for recognition."""
    del caller
    service = service_of(request)
    await collection_of(service, collection)
    return png_response(request, await service.engine.run(service.unknowns.crop, collection, face_id, ignored=ignored))


@router.post(
    "/v1/unknowns/search", operation_id="search_unknowns", summary="Unnamed faces similar to those of a photo",
    responses=problems(), openapi_extra={"requestBody": request_body(raw=True)},
)  # fmt: skip
async def search_unknowns(
    request: Request,
    caller: Reader,
    collection: CollectionName = "default",
    largest: Annotated[bool, Query(description="Use only the largest face.")] = False,
    limit: Annotated[int, Query(ge=1, le=100, description="The largest number of matches for each face.")] = 20,
) -> Searched:
    """Find the unnamed faces that reach the threshold of a 1:1 comparison, best first."""
    del caller
    service = service_of(request)
    service.engine.check_queue(1)
    upload = (await read_photos(request, most=1))[0]
    gallery = await collection_of(service, collection)
    (photo,) = await service.engine.analyze(
        [upload.data], model=model_of(service, gallery), largest=largest, want_crops=False
    )
    if photo.error is not None:
        raise Problem(422, "unreadable_image", photo.error)
    chosen = largest_first(photo, service.settings.max_faces)

    def search() -> list[list[tuple[str, float, float]]]:
        held = service.unknowns.gallery(collection)
        if held is None or not chosen:
            return [[] for _ in chosen]
        try:
            return list(like_each(held, photo.embeddings[chosen], limit))  # type: ignore[arg-type]
        except ModelError as error:
            raise Problem(409, "conflict", str(error)) from None

    found = await service.engine.run(search)
    faces = []
    for k, alike in zip(chosen, found, strict=True):
        matches = [
            AlikeFace(unknown_id=name, similarity=round(value, 4), threshold=round(least, 4))
            for name, value, least in alike
        ]
        faces.append(SearchedFace(**face_entry(photo.faces[k]), matches=matches))
    return Searched(faces=faces)


@router.post("/v1/unknowns/name", operation_id="name_unknowns", summary="Name unnamed faces", responses=problems(409))
async def name_unknowns(
    request: Request, caller: Enroller, naming: Naming, collection: CollectionName = "default"
) -> Enrolment:
    """Enroll unnamed faces as photos of a person. `undo` removes them from the person."""
    if (naming.name is None) == (naming.person is None):
        raise Problem(422, "invalid", "the request must have either a name or the id of a person")
    name = None if naming.name is None else checked_name(naming.name)
    number = None if naming.person is None else person_number(naming.person)
    service = service_of(request)
    await collection_of(service, collection)
    return await acting(service, caller, _name, service, collection, naming.faces, name, number)


def _name(service: Service, collection: str, ids: list[str], name: str | None, number: int | None) -> Enrolment:
    gallery = service.galleries.get(collection)
    store = gallery.store
    if number is not None:
        edits.person_called(store, Seen(number))
    unknowns = service.unknowns.find(collection, ids)
    added: list[tuple[int, Unknown, list[Warned]]] = []
    rejected, done = [], []
    entries = service.unknowns.entries(collection, unknowns)
    if not service.choices.of(gallery).keep_crops:
        entries = [dataclasses.replace(entry, crop=None) for entry in entries]
    for k, (one, entry) in enumerate(zip(unknowns, entries, strict=True)):
        for turn in range(_TRIES):
            person = edits.person_called(store, Seen(number)) if number is not None else store.find(name or "")
            called = person.state.name if person is not None else name or ""
            if person is not None and entry.digest in person.state.rejected:
                text = f"this photo was marked as not showing {called}"
                rejected.append(Rejected(index=k, filename=one.id, code="other_person", detail=text))
                break
            try:
                new = store.add(called, entry, number)
            except Conflict:
                if turn == _TRIES - 1:
                    raise
                continue
            done.append(one)
            if new:
                others = [two.state.name for two in store.get(store.find_digest(entry.digest))]
                twice = [two for two in others if two != called]
                text = f"the same photo is enrolled as {', '.join(twice)}"
                added.append((k, one, [Warned(code="same_photo", detail=text)] if twice else []))
            else:
                text = "this face is already enrolled for this person"
                rejected.append(Rejected(index=k, filename=one.id, code="already_known", detail=text))
            break
    service.unknowns.erase(collection, done)
    there = store.get([number]) if number is not None else [found] if (found := store.find(name or "")) else []
    photos = store.photos(there[0].id) if there else []
    numbers = {photo.digest: str(photo.id) for photo in photos}
    entry_of = Person.model_validate(person_entry(store, there[0], photos)) if there else None
    if added and entry_of is not None:
        data: dict[str, Any] = {"person": {"id": entry_of.id, "name": entry_of.name}, "n_added": len(added)}
        service.events.emit("enrolled", collection, {**data, "n_photos": entry_of.n_photos})
    entries_added = [
        Added(
            index=k, filename=one.id, photo_id=numbers.get(one.photo.digest, ""),
            quality=None if one.quality is None else round(one.quality, 3), box=one.box, warnings=warnings,
        )
        for k, one, warnings in added
    ]  # fmt: skip
    return Enrolment(person=entry_of, added=entries_added, rejected=rejected)


@router.post(
    "/v1/unknowns/ignore", operation_id="ignore_unknowns", summary="Ignore a person's faces from now on",
    responses=problems(409),
)  # fmt: skip
async def ignore_unknowns(
    request: Request, caller: Enroller, faces: Faces, collection: CollectionName = "default"
) -> IgnoredFaces:
    """Ignore the person in these faces: `identify` answers `ignored` for similar faces, which are not kept."""
    service = service_of(request)
    await collection_of(service, collection)
    return IgnoredFaces(ignored=await acting(service, caller, service.unknowns.ignore, collection, faces.faces))


@router.delete(
    "/v1/unknowns/{face_id}", operation_id="erase_unknown", summary="Erase an unnamed face permanently", status_code=204,
    responses=problems(),
)  # fmt: skip
async def erase_unknown(
    request: Request, caller: Enroller, face_id: str, collection: CollectionName = "default", ignored: Ignored = False
) -> Response:
    """Erase an unnamed face, or with `ignored=true` an ignored face; its person is then no longer ignored."""
    service = service_of(request)
    await collection_of(service, collection)

    def erase() -> None:
        found = service.unknowns.find(collection, [face_id], ignored=ignored)
        service.unknowns.erase(collection, found, ignored=ignored)

    await acting(service, caller, erase)
    return Response(status_code=204)


def _entry(one: Unknown) -> UnknownFace:
    quality = None if one.quality is None else round(one.quality, 3)
    return UnknownFace(
        id=one.id, seen=one.seen, box=one.box, source=one.source, quality=quality, has_crop=one.has_crop
    )  # fmt: skip
