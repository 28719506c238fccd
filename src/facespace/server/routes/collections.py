"""Collections of people: each with its own model, thresholds and keys. They can be exported to a file and imported."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from facespace.defaults import DEFAULT_RATE
from facespace.errors import FacespaceError, GalleryError
from facespace.identification.exchange import NoModel, export_gallery, import_gallery
from facespace.identification.gallery import Gallery
from facespace.identification.stores.protocol import NoSuchCollection
from facespace.identification.stores.records import Counts
from facespace.server.acting import Admin, AdminOfAll, AnyOfCollections, AnyReader, acting, check_visible, collection_of
from facespace.server.galleries import HIDDEN
from facespace.server.logs import log
from facespace.server.people import checked
from facespace.server.problems import Problem, problems, without_store
from facespace.server.service import Service, service_of

MAX_COLLECTIONS = 1_000  # collections listed in one answer
_MAX_DAYS = 36_500
_PIECE = 2**20
_MODEL = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_NAME = r"[A-Za-z_-][A-Za-z0-9_-]*"

router = APIRouter(tags=["collections"])

EXAMPLE_COLLECTION: dict[str, Any] = {
    "name": "default", "model": "casia-webface", "n_people": 12, "n_photos": 40, "templates": "mean", "retention_days": None,
    "calibrated": False, "strangers_named": 0.01, "threshold": 0.43, "n_unknowns": 3, "n_ignored": 0,
}  # fmt: skip


class Collection(BaseModel):
    """A collection of people."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_COLLECTION]})

    name: str
    model: str | None = Field(description="The model that made its embeddings.")
    n_people: int
    n_photos: int
    templates: Literal["mean", "best"]
    retention_days: float | None = Field(description="Days after which removed photos are erased; null: never.")
    calibrated: bool = Field(description="Whether `calibrate` has chosen its thresholds on photos of its own.")
    strangers_named: float = Field(description="The share of strangers that may get a name by mistake.")
    threshold: float | None = Field(
        description="The similarity that a good face needs for a person with one photo; null: unknown."
    )
    n_unknowns: int
    n_ignored: int


class Collections(BaseModel):
    """The collections that the key may use."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"collections": [EXAMPLE_COLLECTION]}]})

    collections: list[Collection]


class NewCollection(BaseModel):
    """A collection to create. By default it uses the service's `model`."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"name": "visitors"}]})

    name: Annotated[str, Field(min_length=1, max_length=80, pattern=f"^{_NAME}$")]
    model: Annotated[str, Field(min_length=1, max_length=200)] | None = None


class CollectionPatch(BaseModel):
    """Changes of a collection. Missing fields stay unchanged.

    If `retention_days` is null, removed photos are kept until they are erased.
    """

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"retention_days": 30}]})

    templates: Literal["mean", "best"] | None = None
    rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    retention_days: Annotated[float, Field(ge=0, lt=_MAX_DAYS, allow_inf_nan=False)] | None = None


class Imported(BaseModel):
    """The numbers of people and photos that were added, known already, or rejected."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "new_people": 2, "known_people": 0, "new_photos": 5, "known_photos": 0, "rejected_photos": 0, "remarks": [],
    }]})  # fmt: skip

    new_people: int
    known_people: int
    new_photos: int
    known_photos: int
    rejected_photos: int
    remarks: list[str]


@router.get("/v1/collections", operation_id="list_collections", summary="The collections", responses=problems())
async def list_collections(request: Request, caller: AnyOfCollections) -> Collections:
    """List the collections. A key for one collection sees only that collection."""
    service = service_of(request)

    def read() -> list[dict[str, Any]]:
        names = [one for one in service.galleries.names() if caller.collection in (None, one)]
        return [entry for name in names[:MAX_COLLECTIONS] if (entry := _entry_if_there(service, name)) is not None]

    return Collections.model_validate({"collections": await service.engine.run(read)})


@router.post(
    "/v1/collections", operation_id="create_collection", summary="Create a collection", status_code=201,
    responses=problems(409),
)  # fmt: skip
async def create_collection(request: Request, caller: AdminOfAll, new: NewCollection) -> Collection:
    """Create an empty collection with its model. Answer 409 `conflict` if it exists already."""
    service = service_of(request)
    if new.name.endswith(HIDDEN):
        raise Problem(422, "invalid", f"the name of a collection must not end with {' or '.join(HIDDEN)}")
    if new.model is not None and not re.fullmatch(_MODEL, new.model):
        raise Problem(422, "invalid", "model must be the name of a model, not a path")

    def create() -> dict[str, Any]:
        if new.name in service.galleries.get().store.collections():
            raise Problem(409, "conflict", f"the collection {new.name!r} exists already")
        try:
            gallery = service.galleries.create(new.name, new.model)
        except GalleryError:
            raise
        except FacespaceError as error:  # no such model
            raise Problem(422, "invalid", str(error)) from None
        return _entry(service, gallery)

    return Collection.model_validate(await acting(service, caller, create))


@router.get("/v1/collections/{name}", operation_id="get_collection", summary="One collection", responses=problems())
async def get_collection(request: Request, caller: AnyReader, name: str) -> Collection:
    """Return a collection's model, thresholds, and number of people."""
    del caller
    service = service_of(request)
    gallery = await _named(service, name)
    return Collection.model_validate(await service.engine.run(_entry, service, gallery))


@router.patch(
    "/v1/collections/{name}", operation_id="change_collection", summary="Change a collection", responses=problems(409)
)
async def change_collection(request: Request, caller: Admin, name: str, patch: CollectionPatch) -> Collection:
    """Change how photos are compared, the rate of named strangers, and how long removed photos are kept."""
    service = service_of(request)
    gallery = await _named(service, name)

    def change() -> dict[str, Any]:
        if patch.templates is not None:
            gallery.set_templates(patch.templates)
        if patch.rate is not None:
            checked(lambda rate: service.choices.change(gallery, {"rate": rate}), patch.rate)
        if "retention_days" in patch.model_fields_set:
            checked(gallery.set_retention, patch.retention_days)
        return _entry(service, gallery)

    return Collection.model_validate(await acting(service, caller, change))


@router.delete(
    "/v1/collections/{name}", operation_id="erase_collection", summary="Erase a collection permanently", status_code=204,
    responses=problems(),
)  # fmt: skip
async def erase_collection(request: Request, caller: Admin, name: str) -> Response:
    """Erase a collection: people, removed people, unnamed and ignored faces, settings and log. This cannot be undone.

    The collection `default` is created again, empty, when it is used next.
    """
    service = service_of(request)
    gallery = await _named(service, name)

    def erase() -> None:
        service.unknowns.forget(name)
        there = gallery.store.collections()
        for hidden in HIDDEN:
            if name + hidden in there:
                service.galleries.get(name + hidden, hidden=True).store.drop()
                service.galleries.forget(name + hidden)
        gallery.store.drop()
        service.galleries.forget(name)
        service.events.forget(name)
        service.events.emit("removed", name, {})

    await acting(service, caller, erase)
    return Response(status_code=204)


@router.get(
    "/v1/collections/{name}/export", operation_id="export_collection", summary="Export a collection as one file",
    response_class=StreamingResponse,
    responses={
        **problems(409),
        200: {
            "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
            "description": "The file of `facespace gallery export`: names, embeddings, metadata, crops. It is not encrypted.",
        },
    },
)  # fmt: skip
async def export_collection(request: Request, caller: Admin, name: str) -> StreamingResponse:
    """Export all people, for `import` here or elsewhere. Removed people and the log are not exported."""
    del caller
    service = service_of(request)
    gallery = await _named(service, name)
    with _disk_errors():
        file = await service.engine.run(_exported, service, gallery)

    async def pieces() -> AsyncIterator[bytes]:
        with contextlib.closing(file):
            while data := await service.engine.run(file.read, _PIECE):
                yield data

    size = os.fstat(file.fileno()).st_size
    headers = {
        "Content-Disposition": f'attachment; filename="{name}.facespace"', "Content-Length": str(size),
        "Cache-Control": "no-store",
    }  # fmt: skip
    return StreamingResponse(pieces(), media_type="application/zip", headers=headers)


@router.post(
    "/v1/collections/{name}/import", operation_id="import_collection", summary="Add all people from an exported file",
    responses=problems(409),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}},
                        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)  # fmt: skip
async def import_collection(
    request: Request,
    caller: Admin,
    name: str,
    skip_known: Annotated[bool, Query(description="Do not change people whose names are known already.")] = False,
) -> Imported:
    """Add the people of a file, which is checked before anything changes. Known people get the photos that are new."""
    service = service_of(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/zip", "application/octet-stream"):
        raise Problem(415, "unsupported_media_type", "the body must be application/zip or application/octet-stream")
    gallery = await _named(service, name)
    with (
        _disk_errors(),
        tempfile.NamedTemporaryFile(dir=_folder(service), prefix="import-", suffix=".facespace") as file,
    ):
        async for piece in request.stream():  # limited by `admission.MAX_IMPORT`
            await service.engine.run(file.write, piece)
        await service.engine.run(file.flush)
        counts = await acting(service, caller, _imported, gallery, Path(file.name), skip_known)
    service.events.emit("enrolled", name, {"imported": True, "n_added": counts.new_photos})
    return Imported.model_validate({**counts._asdict(), "remarks": list(counts.remarks)[:100]})


def _imported(gallery: Gallery, path: Path, skip_known: bool) -> Counts:
    try:
        return import_gallery(gallery.store, path, skip_known=skip_known)
    except NoSuchCollection:
        raise
    except GalleryError as error:
        text = str(error).replace(f"{path}: ", "")
        if text == str(error):  # an error of the store
            raise
        raise Problem(422, "invalid", f"the file: {text}") from None


def _exported(service: Service, gallery: Gallery) -> Any:
    """Return the exported file, open but deleted: no other program can open it, and it vanishes when it is closed."""
    with tempfile.TemporaryDirectory(dir=_folder(service), prefix="export-") as folder:
        path = Path(folder) / "people.facespace"
        try:
            export_gallery(gallery.store, path)
        except NoModel as error:
            raise Problem(409, "conflict", without_store(error)) from None
        return path.open("rb")


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """Answer 503 if the file of a request cannot be written."""
    try:
        yield
    except OSError as error:
        log("a file in the state folder cannot be written", level=logging.ERROR, reason=error.strerror)
        detail = "the service cannot write the file, or its disk is full; its log says why"
        raise Problem(503, "store_unavailable", detail, headers={"Retry-After": "60"}) from None


def _folder(service: Service) -> str:
    return str(service.state.path.parent)


async def _named(service: Service, name: str) -> Gallery:
    check_visible(name)
    return await collection_of(service, name)


def _entry_if_there(service: Service, name: str) -> dict[str, Any] | None:
    """Return a collection as JSON, or None if it was removed meanwhile or is too damaged to be opened."""
    try:
        return _entry(service, service.galleries.get(name))
    except NoSuchCollection:
        service.galleries.forget(name)
        return None
    except Problem as problem:
        if problem.status == 404:
            return None
        raise


def _entry(service: Service, gallery: Gallery) -> dict[str, Any]:
    store = gallery.store
    days = store.setting("retention_days")
    stored, chosen = gallery.calibration(), service.choices.of(gallery).rate
    rate = chosen if chosen is not None else stored.rate if stored is not None else DEFAULT_RATE
    return {
        "name": store.collection, "model": gallery.model_name or None, "n_people": len(gallery),
        "n_photos": store.count(photos=True), "templates": "best" if store.setting("templates") == "best" else "mean",
        "retention_days": float(days) if isinstance(days, (int, float)) else None, "calibrated": stored is not None,
        "strangers_named": rate,
        "threshold": _or_none(lambda: round(float(gallery.thresholds_for(1, 1.0, 1.0, among=max(1, len(gallery)), rate=chosen)), 4)),
        "n_unknowns": service.unknowns.count(store.collection),
        "n_ignored": service.unknowns.count(store.collection, ignored=True),
    }  # fmt: skip


def _or_none(function: Callable[[], float]) -> float | None:
    try:
        return function()
    except FacespaceError:
        return None
