"""Photos in, faces out: detect, embed, identify, verify."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse

from facespace.server.access import Caller, allowed
from facespace.server.bodies import read_photos
from facespace.server.identifying import face_entry, identified, image_entry, largest_first
from facespace.server.problems import Problem, problems
from facespace.server.service import service_of

router = APIRouter(tags=["faces"])

CollectionName = Annotated[str, Query(max_length=100, description="The collection of people.")]
MaxFaces = Annotated[int | None, Query(ge=1, le=1000, description="Answer at most so many faces, the largest first.")]
Landmarks = Annotated[bool, Query(description="Answer the landmarks of each face too.")]
WithEmbeddings = Annotated[bool, Query(description="Answer the embedding of each face too.")]
Largest = Annotated[bool, Query(description="Look at the largest face alone.")]
TryRotations = Annotated[bool, Query(description="Look in four turns; takes four times as long.")]
Rate = Annotated[float | None, Query(gt=0, lt=1, description="The share of strangers that may be given a name.")]


@router.post("/v1/detect", operation_id="detect", summary="Find the faces of a photo", responses=problems())
async def detect(
    request: Request,
    collection: CollectionName = "default",
    max_faces: MaxFaces = None,
    landmarks: Landmarks = False,
    largest: Largest = False,
    try_rotations: TryRotations = False,
    caller: Caller = Depends(allowed("identify")),
) -> Any:
    """Boxes, scores and qualities, the largest face first."""
    service = service_of(request)
    service.engine.room(1)
    upload = (await read_photos(request, most=1))[0]
    gallery = service.galleries.opened(collection) or await service.engine.run(service.galleries.get, collection)
    (photo,) = await service.engine.analyze(
        [upload.data], model=gallery.model_name, embed=False, largest=largest, try_rotations=try_rotations
    )
    if photo.error is not None:
        raise Problem(422, "unreadable_image", photo.error)
    chosen = largest_first(photo, min(max_faces or service.settings.max_faces, service.settings.max_faces))
    faces = [face_entry(photo.faces[k], landmarks=landmarks) for k in chosen]
    return JSONResponse({"image": image_entry(photo), "faces": faces})


@router.post("/v1/identify", operation_id="identify", summary="Name the people of a photo", responses=problems())
async def identify(
    request: Request,
    collection: CollectionName = "default",
    rate: Rate = None,
    max_faces: MaxFaces = None,
    landmarks: Landmarks = False,
    embeddings: WithEmbeddings = False,
    largest: Largest = False,
    try_rotations: TryRotations = False,
    keep_unknown: bool = True,
    caller: Caller = Depends(allowed("identify")),
) -> Any:
    """Everybody who is enrolled has a name; everybody else is unknown, with the reason."""
    service = service_of(request)
    service.engine.room(1)
    upload = (await read_photos(request, most=1))[0]
    gallery = service.galleries.opened(collection) or await service.engine.run(service.galleries.get, collection)
    (photo,) = await service.engine.analyze(
        [upload.data], model=gallery.model_name, largest=largest, try_rotations=try_rotations
    )
    if photo.error is not None:
        raise Problem(422, "unreadable_image", photo.error)
    answer = await service.engine.run(
        identified, service, gallery, collection, photo, rate=rate,
        max_faces=min(max_faces or service.settings.max_faces, service.settings.max_faces), landmarks=landmarks,
        embeddings=embeddings, keep_unknown=keep_unknown, source=upload.filename,
    )  # fmt: skip
    return JSONResponse(answer)
