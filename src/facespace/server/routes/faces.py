"""Detecting, embedding, identifying and verifying the faces of photos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import JSONResponse, Response

from facespace.identification.gallery import Gallery
from facespace.server import face_answers as answers
from facespace.server.access import allowed
from facespace.server.bodies import Upload, read_form, read_photos
from facespace.server.comparing import (
    OneFace,
    compare_faces,
    compare_with_person,
    face_of,
    one_face,
    person_with,
)
from facespace.server.engine import AnalyzedPhoto
from facespace.server.identifying import (
    check_rate,
    embedding_of,
    face_entry,
    identified,
    image_entry,
    largest_first,
    person_entry,
)
from facespace.server.openapi import answer, photo_body
from facespace.server.problems import Problem
from facespace.server.service import Service, service_of

router = APIRouter(tags=["faces"], dependencies=[Depends(allowed("identify"))])

CollectionName = Annotated[str, Query(min_length=1, max_length=100, description="The collection of people.")]
Rate = Annotated[
    float | None,
    Query(
        gt=0,
        le=0.5,
        description="The share of strangers that may get a name by mistake; by default the collection's own.",
    ),
]


@dataclass(frozen=True, slots=True)
class FaceOptions:
    """Options of the operations on one photo."""

    collection: str
    max_faces: int | None
    landmarks: bool
    largest: bool
    try_rotations: bool

    def most(self, service: Service) -> int:
        """Return the largest number of faces in an answer."""
        return min(self.max_faces or service.settings.max_faces, service.settings.max_faces)


async def face_options(
    collection: CollectionName = "default",
    max_faces: Annotated[
        int | None, Query(ge=1, le=1000, description="The largest number of faces in the answer, largest faces first.")
    ] = None,
    landmarks: Annotated[bool, Query(description="Include five landmarks of each face.")] = False,
    largest: Annotated[bool, Query(description="Use only the largest face.")] = False,
    try_rotations: Annotated[
        bool, Query(description="Search all four rotations, for photos that are not upright; takes four times as long.")
    ] = False,
) -> FaceOptions:
    """Return the options of a request."""
    return FaceOptions(collection, max_faces, landmarks, largest, try_rotations)


Options = Annotated[FaceOptions, Depends(face_options)]
Embeddings = Annotated[bool, Query(description="Include the embedding of each face.")]
KeepUnknown = Annotated[
    bool, Query(description="Keep unknown faces, if the service is set to keep them; false keeps none.")
]
EmitEvents = Annotated[
    bool, Query(alias="events", description="Send events about the faces; false if the caller reports them itself.")
]


async def gallery_of(service: Service, collection: str) -> Gallery:
    """Return the open collection."""
    opened = service.galleries.opened(collection)  # compare with None, because an empty collection is false
    return opened if opened is not None else await service.engine.run(service.galleries.get, collection)


async def _check_rate(request: Request, collection: str, rate: float | None) -> None:
    """Raise `Problem` 403 if the caller may not use this rate, before the photo is analysed."""
    if rate is not None:
        service = service_of(request)
        gallery = await gallery_of(service, collection)
        may_loosen = request.state.caller.may("admin")
        await service.engine.run(check_rate, rate, gallery, service, may_loosen=may_loosen)


async def _analyzed(request: Request, options: FaceOptions, *, embed: bool) -> tuple[Gallery, Upload, AnalyzedPhoto]:
    """Return the only photo of a request, analysed with the model of its collection."""
    service = service_of(request)
    (upload,) = await read_photos(request, most=1)
    gallery = await gallery_of(service, options.collection)
    (photo,) = await service.engine.analyze(
        [upload.data], model=service.galleries.model(options.collection), embed=embed, largest=options.largest,
        try_rotations=options.try_rotations,
    )  # fmt: skip
    if photo.error is not None:
        raise Problem(422, "unreadable_image", photo.error)
    return gallery, upload, photo


@router.post(
    "/v1/detect", operation_id="detect", summary="Find the faces of a photo", openapi_extra=photo_body(),
    response_class=JSONResponse, responses=answer(answers.Detected, answers.DETECTED_EXAMPLE),
)  # fmt: skip
async def detect(request: Request, options: Options) -> Response:
    """Return boxes, scores and qualities, the largest face first."""
    _, _, photo = await _analyzed(request, options, embed=False)
    chosen = largest_first(photo, options.most(service_of(request)))
    faces = [face_entry(photo.faces[k], landmarks=options.landmarks) for k in chosen]
    return JSONResponse({"image": image_entry(photo), "faces": faces})


@router.post(
    "/v1/embed", operation_id="embed", summary="Find and embed the faces of a photo", openapi_extra=photo_body(),
    response_class=JSONResponse, responses=answer(answers.Embedded, answers.EMBEDDED_EXAMPLE),
)  # fmt: skip
async def embed(request: Request, options: Options) -> Response:
    """Return the faces with their embeddings, the largest first. Compare embeddings of one model by their cosine."""
    _, _, photo = await _analyzed(request, options, embed=True)
    service = service_of(request)
    chosen = largest_first(photo, options.most(service))
    faces = [face_entry(photo.faces[k], embedding_of(photo, k), landmarks=options.landmarks) for k in chosen]
    return JSONResponse(
        {"image": image_entry(photo), "model": service.galleries.model(options.collection), "faces": faces}
    )


@router.post(
    "/v1/identify", operation_id="identify", summary="Name the people of a photo", openapi_extra=photo_body(),
    response_class=JSONResponse, responses=answer(answers.Identified, answers.IDENTIFIED_EXAMPLE),
)  # fmt: skip
async def identify(
    request: Request,
    options: Options,
    rate: Rate = None,
    embeddings: Embeddings = False,
    keep_unknown: KeepUnknown = True,
    emit: EmitEvents = True,
) -> Response:
    """Name the enrolled people. Every other face is unknown, with a reason. A name always reaches its threshold.

    A `rate` above the collection's own needs a key with the role admin.
    """
    await _check_rate(request, options.collection, rate)
    gallery, upload, photo = await _analyzed(request, options, embed=True)
    service = service_of(request)
    found = await service.engine.run(
        identified, service, gallery, options.collection, photo, rate=rate, max_faces=options.most(service),
        landmarks=options.landmarks, embeddings=embeddings, keep_unknown=keep_unknown, emit=emit,
        source=upload.filename,
    )  # fmt: skip
    return JSONResponse({"image": image_entry(photo), **found})


@router.post(
    "/v1/identify/batch", operation_id="identify_batch", summary="Name the people of several photos",
    openapi_extra=photo_body(several=True), response_class=JSONResponse,
    responses=answer(answers.IdentifiedBatch, answers.BATCH_EXAMPLE),
)  # fmt: skip
async def identify_batch(
    request: Request,
    options: Options,
    rate: Rate = None,
    embeddings: Embeddings = False,
    keep_unknown: KeepUnknown = True,
) -> Response:
    """Identify people in each file `photo` of a form. A photo that cannot be read gets an `error`; the others are named."""
    service = service_of(request)
    await _check_rate(request, options.collection, rate)
    uploads = await read_photos(request)
    gallery = await gallery_of(service, options.collection)
    photos = await service.engine.analyze(
        [upload.data for upload in uploads], model=service.galleries.model(options.collection), largest=options.largest,
        try_rotations=options.try_rotations,
    )  # fmt: skip

    def name_all() -> dict[str, Any]:
        held: dict[str, Any] = {}
        entries = []
        for index, (upload, photo) in enumerate(zip(uploads, photos, strict=True)):
            entry: dict[str, Any] = {"index": index, "filename": upload.filename}
            if photo.error is not None:
                entries.append({**entry, "error": {"code": "unreadable_image", "detail": photo.error}})
                continue
            found = identified(
                service, gallery, options.collection, photo, rate=rate, max_faces=options.most(service),
                landmarks=options.landmarks, embeddings=embeddings, keep_unknown=keep_unknown, source=upload.filename,
            )  # fmt: skip
            entries.append({**entry, "image": image_entry(photo), "faces": found.pop("faces")})
            held = found
        if not held:
            nothing = AnalyzedPhoto("")
            held = identified(service, gallery, options.collection, nothing, rate=rate, max_faces=1)
            held.pop("faces")
        return {**held, "photos": entries}

    return JSONResponse(await service.engine.run(name_all))


@router.post(
    "/v1/verify", operation_id="verify", summary="Compare two faces",
    openapi_extra=photo_body(
        several=True,
        raw=False,
        fields={
            "person": {"type": "string", "description": "The id of a person to compare one photo with."},
            "other": {"type": "array", "items": {"type": "string", "format": "binary"}, "description": "Photos to compare with."},
        },
    ),
    response_class=JSONResponse, responses=answer(answers.Verified | answers.VerifiedMany, answers.VERIFIED_EXAMPLE),
)  # fmt: skip
async def verify(
    request: Request,
    collection: CollectionName = "default",
    rate: Annotated[
        float | None, Query(gt=0, le=0.5, description="The share of different people that may be accepted as the same.")
    ] = None,
) -> Response:
    """Compare the largest face of a file `photo` with that of another `photo`, of each file `other`, or a `person`."""
    service = service_of(request)
    form = await read_form(request)
    photos, others, person = form.photos("photo"), form.photos("other"), form.text("person")
    n_photos = 1 if others or person is not None else 2
    if len(photos) != n_photos or (others and person is not None):
        raise Problem(
            422,
            "invalid",
            "verify needs two files 'photo', or one 'photo' and a 'person', or one 'photo' and files 'other'; got "
            f"{len(photos)} photo, {len(others)} other, {0 if person is None else 1} person",
        )
    gallery = await gallery_of(service, collection)
    model = service.galleries.model(collection)
    embedder = service.engine.embedder(model)
    stored = None
    if person is not None:
        await _check_rate(request, collection, rate)
        stored = await service.engine.run(person_with, gallery, person)
        rate = service.choices.of(gallery).rate if rate is None else rate
    found = await service.engine.analyze([one.data for one in (*photos, *others)], model=model, largest=True)
    first = one_face(found[0], "photo")
    if stored is not None:
        compared = await service.engine.run(compare_with_person, first, stored, gallery, rate)
        return JSONResponse(
            {
                **compared.entry(),
                "false_match_rate": compared.rate,
                "faces": [face_of(first)],
                "person": person_entry(stored) if compared.same else None,
            }
        )
    if not others:
        second = one_face(found[1], "photo")
        compared = compare_faces(first, second, embedder, rate)
        faces = [face_of(first), face_of(second)]
        return JSONResponse({**compared.entry(), "false_match_rate": compared.rate, "faces": faces})
    entries = []
    for index, (upload, photo) in enumerate(zip(others, found[1:], strict=True)):
        entry: dict[str, Any] = {"index": index, "filename": upload.filename}
        try:
            other: OneFace = one_face(photo, "other")
        except Problem as problem:
            entries.append({**entry, "error": {"code": problem.code, "detail": str(problem.detail)}})
            continue
        entries.append({**entry, **compare_faces(first, other, embedder, rate).entry(), "face": face_of(other)})
    table = embedder.calibration
    used = rate if rate is not None else table.default_rate if table is not None else 0.0
    return JSONResponse({"false_match_rate": used, "face": face_of(first), "photos": entries})
