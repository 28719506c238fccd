"""A collection's settings: thresholds, model, storage and limits, and those that an administrator can change."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from facespace._version import __version__
from facespace.defaults import DEFAULT_RATE
from facespace.errors import ModelError
from facespace.identification.gallery import Gallery
from facespace.identification.gallery_check import check_gallery
from facespace.models.zoo import find_card
from facespace.server.access import allowed, is_open
from facespace.server.problems import Problem, problems
from facespace.server.service import Service, service_of

router = APIRouter(tags=["settings"])

READ, ADMIN = [Depends(allowed("read"))], [Depends(allowed("admin"))]
CollectionName = Annotated[str, Query(max_length=100, description="The collection of people.")]
# Rates of the curves, from very strict to the largest that a calibration contains.
_RATES = [round(base * 10.0**-power, 12) for power in range(6, 0, -1) for base in (1, 2, 5)]
_CHOSEN = ("rate", "unknowns_days", "keep_crops")
MAX_FINDINGS = 1000  # findings of a check in one answer


class ModelModel(BaseModel):
    """The recognition model that made the embeddings of a collection. All fields but `name` are null for a model without a card."""

    name: str
    network: str | None
    dimension: int | None
    licence: str | None
    origin: str | None
    training_data: str | None
    accuracy: str | None


class RatePoint(BaseModel):
    """A share `rate` of strangers have at least the similarity `threshold` to the person most similar to them."""

    rate: float
    threshold: float


class MatchPoint(BaseModel):
    """A share `fmr` of pairs of different people have at least the similarity `threshold`."""

    fmr: float
    threshold: float


class CalibrationModel(BaseModel):
    """The measurements behind the thresholds.

    `points` is the curve for comparing two photos. `strangers` is the curve for identifying among as many people as the
    collection has, with one photo each; all photos are good. `own` is what `facespace calibrate` measured on your photos.
    """

    points: list[MatchPoint]
    strangers: list[RatePoint]
    measured_on: str | None = Field(description="A description of the photos on which the model's rates were measured.")
    own: dict[str, Any] | None


class StorageModel(BaseModel):
    """Bytes on the disk of this service; null for a gallery on a database server."""

    gallery: int | None
    state: int


class LimitsModel(BaseModel):
    """The limits of one request. Rates are requests per second of one key; null sets no limit."""

    max_body: int
    max_photos: int
    max_pixels: int
    max_faces: int
    rate_per_second: float | None
    burst: int
    request_seconds: float


class SettingsModel(BaseModel):
    """The settings of a collection, with its calibration, storage and limits."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "collection": "default", "version": "0.1.0", "open": False, "workers": 1, "n_people": 2, "n_photos": 9,
                "model": {
                    "name": "sface", "network": "MobileFaceNet", "dimension": 128, "licence": "Apache-2.0",
                    "origin": "OpenCV Zoo", "training_data": "…", "accuracy": "…",
                },
                "rate": 0.01, "rate_from": "default", "threshold": 0.41,
                "calibration": {
                    "points": [{"fmr": 0.01, "threshold": 0.37}], "strangers": [{"rate": 0.01, "threshold": 0.41}],
                    "measured_on": "…", "own": None,
                },
                "retention_days": None, "unknowns_days": 30, "keep_crops": True,
                "storage": {"gallery": 524288, "state": 65536},
                "limits": {
                    "max_body": 33554432, "max_photos": 100, "max_pixels": 50000000, "max_faces": 1000,
                    "rate_per_second": None, "burst": 100, "request_seconds": 60,
                },
            }
        }
    )  # fmt: skip
    collection: str
    version: str
    open: bool = Field(description="True while everyone on this machine may do everything, because there are no keys.")
    workers: int
    n_people: int
    n_photos: int
    model: ModelModel
    rate: float = Field(description="The share of strangers that may get a name by mistake.")
    rate_from: Literal["setting", "calibrate", "default"]
    threshold: float | None = Field(
        description="The similarity that a good face needs for a person with one good photo, at this rate; null if the model"
        " has no calibration. Other faces have other thresholds, given in each answer."
    )
    calibration: CalibrationModel
    retention_days: float | None = Field(description="Days after which removed photos are erased; null: never.")
    unknowns_days: float | None = Field(description="Days for which unknown faces are kept; null: not kept.")
    keep_crops: bool = Field(description="Whether the crops of enrolled photos are kept.")
    storage: StorageModel
    limits: LimitsModel


class SettingsChange(BaseModel):
    """Changes of settings. A missing field stays unchanged; for null see the descriptions of the settings."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"example": {"rate": 0.005, "unknowns_days": 7}}
    )
    rate: float | None = Field(None, gt=0, lt=1, description="Null: what `facespace calibrate` stored, otherwise 0.01.")
    retention_days: float | None = Field(None, ge=0, lt=36_500)
    unknowns_days: float | None = Field(None, ge=0, le=36_500)
    keep_crops: bool = True


class FindingModel(BaseModel):
    """One finding of a check."""

    kind: str
    text: str
    people: list[str]
    photos: list[str]


class CheckModel(BaseModel):
    """The findings in a collection. `complete` is false if more was found than is listed."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"collection": "default", "n_people": 2, "findings": [], "complete": True}}
    )
    collection: str
    n_people: int
    findings: list[FindingModel]
    complete: bool


@router.get(
    "/v1/settings",
    operation_id="get_settings",
    summary="Settings of a collection",
    responses=problems(),
    dependencies=READ,
)
async def get_settings(request: Request, collection: CollectionName = "default") -> SettingsModel:
    """Return the thresholds with their curves, the model, the storage, the limits, and which data is kept."""
    service = service_of(request)
    return await service.engine.run(_settings, service, collection)


@router.patch(
    "/v1/settings",
    operation_id="change_settings",
    summary="Change settings",
    responses=problems(),
    dependencies=ADMIN,
)
async def change_settings(
    request: Request, changes: SettingsChange, collection: CollectionName = "default"
) -> SettingsModel:
    """Change the rate of named strangers, and which data is kept for how long. All workers follow within a second."""
    service = service_of(request)
    given = changes.model_dump(exclude_unset=True)
    request.state.audit = given

    def change() -> SettingsModel:
        gallery = service.galleries.get(collection)
        if "retention_days" in given:
            gallery.set_retention(given["retention_days"])
        chosen = {name: given[name] for name in _CHOSEN if name in given}
        if chosen:
            service.choices.change(gallery, chosen)
        return _settings(service, collection)

    try:
        return await service.engine.run(change)
    except ValueError as error:
        raise Problem(422, "invalid", str(error)) from None


@router.get("/v1/check", operation_id="check", summary="Check for damage", responses=problems(), dependencies=READ)
async def check(request: Request, collection: CollectionName = "default") -> CheckModel:
    """Find damage of the store, and photos under two names. Faces are only compared by `facespace gallery check`."""
    service = service_of(request)

    def look() -> CheckModel:
        gallery = service.galleries.get(collection)
        found = list(itertools.islice(check_gallery(gallery, None), MAX_FINDINGS + 1))
        return CheckModel(
            collection=collection,
            n_people=len(gallery),
            findings=[
                FindingModel(
                    kind=one.kind, text=one.text, people=list(one.people), photos=[str(photo) for photo in one.photos]
                )
                for one in found[:MAX_FINDINGS]
            ],
            complete=len(found) <= MAX_FINDINGS,
        )

    return await service.engine.run(look)


def _settings(service: Service, collection: str) -> SettingsModel:
    gallery = service.galleries.get(collection)
    choice = service.choices.of(gallery)
    own = gallery.calibration()
    rate = choice.rate if choice.rate is not None else own.rate if own is not None else DEFAULT_RATE
    days = gallery.store.setting("retention_days")
    settings = service.settings
    n_people = len(gallery)
    return SettingsModel(
        collection=collection,
        version=__version__,
        open=is_open(service),
        workers=settings.workers,
        n_people=n_people,
        n_photos=gallery.store.count(photos=True),
        model=_model(gallery.model_name or settings.model),
        rate=rate,
        rate_from="setting" if choice.rate is not None else "calibrate" if own is not None else "default",
        threshold=_threshold(gallery, n_people, choice.rate),
        calibration=_calibration(service, gallery, n_people),
        retention_days=days if isinstance(days, (int, float)) else None,
        unknowns_days=choice.unknowns_days,
        keep_crops=choice.keep_crops,
        storage=StorageModel(gallery=_file_size(settings.gallery), state=service.state.size()),
        limits=LimitsModel(
            max_body=settings.max_body, max_photos=settings.max_photos, max_pixels=settings.max_pixels,
            max_faces=settings.max_faces, rate_per_second=settings.rate_per_second, burst=settings.burst,
            request_seconds=settings.request_seconds,
        ),
    )  # fmt: skip


def _model(name: str) -> ModelModel:
    card = find_card(name)
    if card is None:
        return ModelModel(
            name=name, network=None, dimension=None, licence=None, origin=None, training_data=None, accuracy=None
        )
    return ModelModel(
        name=card.name, network=card.network, dimension=card.dimension, licence=card.licence, origin=card.origin,
        training_data=card.training_data, accuracy=card.accuracy,
    )  # fmt: skip


def _threshold(gallery: Gallery, n_people: int, rate: float | None) -> float | None:
    try:
        (threshold,) = gallery.thresholds_for([1], 1.0, 1.0, among=max(1, n_people), rate=rate)
    except ModelError:
        return None
    return round(float(threshold), 4)


def _calibration(service: Service, gallery: Gallery, n_people: int) -> CalibrationModel:
    table = service.engine.embedder(gallery.model_name or service.settings.model).calibration
    own = gallery.calibration()
    points, strangers = [], []
    if table is not None:
        points = [MatchPoint(fmr=rate, threshold=round(table.match_threshold(rate), 4)) for rate in _RATES]
        strangers = [
            RatePoint(
                rate=rate, threshold=round(float(table.thresholds_among(rate, max(1, n_people), [1], 1.0, 1.0)[0]), 4)
            )
            for rate in _RATES
        ]
    return CalibrationModel(
        points=points,
        strangers=strangers,
        measured_on=None if table is None else table.conditions,
        own=None if own is None else {"rate": own.rate, "offset": round(own.offset, 4), "evidence": own.evidence},
    )


def _file_size(gallery: str) -> int | None:
    path = Path(gallery)
    return path.stat().st_size if "://" not in gallery and path.is_file() else None
