"""API keys, and the audit log of what administrators did."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from facespace.server.access import Caller, allowed
from facespace.server.keys import MAX_LABEL, KeyRecord, Role
from facespace.server.problems import Problem, problems
from facespace.server.service import service_of

router = APIRouter(tags=["keys"])

# A key for one collection manages the keys of that collection.
KeyAdministrator = Annotated[Caller, Depends(allowed("admin", scope="callers"))]
AnyCaller = Annotated[Caller, Depends(allowed("identify", "read", scope="callers"))]
_EXAMPLE: dict[str, Any] = {
    "id": "3f2a9c0d1b7e",
    "role": "identify",
    "collection": None,
    "label": "front door",
    "created": "2026-11-30T12:00:00Z",
    "created_by": "ada",
    "expires": "2027-11-30T12:00:00Z",
    "revoked": None,
    "valid": True,
}


class CallerModel(BaseModel):
    """The caller of a request."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"key_id": "3f2a9c0d1b7e", "label": "front door", "role": "identify", "collection": None}
        }
    )
    key_id: str | None = Field(description="Null for callers on this machine while the service has no keys.")
    label: str
    role: Role
    collection: str | None = Field(description="The only collection that the key may use, or null for all.")


class KeyModel(BaseModel):
    """A key, without its secret."""

    model_config = ConfigDict(json_schema_extra={"example": _EXAMPLE})
    id: str
    role: Role
    collection: str | None
    label: str
    created: datetime
    created_by: str
    expires: datetime | None
    revoked: datetime | None
    valid: bool = Field(description="Neither revoked nor expired.")


class NewKeyModel(KeyModel):
    """A key that was just made, with its text, which is shown once."""

    model_config = ConfigDict(json_schema_extra={"example": {**_EXAMPLE, "key": "fsk_3f2a9c0d1b7e_" + "x" * 43}})
    key: str = Field(description="The key to send; it is not stored and cannot be shown again.")


class KeyList(BaseModel):
    """All keys, the latest first."""

    keys: list[KeyModel]


class KeyRequest(BaseModel):
    """A key to make."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"role": "identify", "label": "front door"}}
    )
    role: Role
    collection: str | None = Field(None, min_length=1, max_length=100, description="Limit the key to this collection.")
    label: str = Field("", max_length=MAX_LABEL, description="The purpose of the key.")
    expires: datetime | None = Field(
        None, description="When the key expires; UTC unless it contains another time zone."
    )


class AuditModel(BaseModel):
    """One operation of an administrator, done or refused."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": 7, "at": "2026-11-30T12:00:00Z", "actor": "ada (key 3f2a9c0d1b7e)", "key": "3f2a9c0d1b7e",
                "action": "revoke_key", "collection": None, "path": "/v1/keys/9b1c5d2e7f00", "status": 204,
                "address": "127.0.0.1", "request": "5c0f1a2b3d4e", "details": {},
            }
        }
    )  # fmt: skip
    id: int
    at: datetime
    actor: str
    key: str | None
    action: str = Field(description="The `operationId` of the operation, or the action at the command line.")
    collection: str | None
    path: str
    status: int | None
    address: str
    request: str
    details: dict[str, Any]


class AuditList(BaseModel):
    """Entries of the audit log, the latest first; `next` is the `before` of the next page, or null."""

    entries: list[AuditModel]
    next: int | None


@router.get("/v1/caller", operation_id="get_caller", summary="The rights of this key", responses=problems())
async def get_caller(caller: AnyCaller) -> CallerModel:
    """Return the role and the collection of the key that the request was sent with."""
    return CallerModel(key_id=caller.key_id, label=caller.label, role=caller.role, collection=caller.collection)


@router.get("/v1/keys", operation_id="list_keys", summary="List the keys", responses=problems())
async def list_keys(request: Request, caller: KeyAdministrator) -> KeyList:
    """List all keys without their secrets, including revoked and expired ones. A key for one collection sees only its keys."""
    service = service_of(request)
    found = await service.engine.run(service.keys.list)
    return KeyList(keys=[KeyModel(**_fields(one)) for one in found if caller.collection in (None, one.collection)])


@router.post("/v1/keys", operation_id="create_key", summary="Make a key", status_code=201, responses=problems(409))
async def create_key(request: Request, response: Response, body: KeyRequest, caller: KeyAdministrator) -> NewKeyModel:
    """Make a key and show it once.

    Without keys, everyone on the machine may use a service. The first key ends that, so it must be an administrator's
    key for all collections.
    """
    service = service_of(request)
    request.state.audit = body.model_dump(mode="json", exclude_none=True)
    collection = body.collection
    if caller.collection is not None:
        collection = caller.collection if collection is None else collection
        if collection != caller.collection:
            raise Problem(403, "other_collection", f"this key can only make keys for {caller.collection!r}")
    if caller.key_id is None and (body.role != "admin" or collection is not None or body.expires is not None):
        raise Problem(
            409,
            "conflict",
            "the first key must have the role admin, no collection and no expiry, as it makes the others",
        )
    expires = body.expires
    if expires is not None and expires.tzinfo is None:
        expires = expires.replace(tzinfo=timezone.utc)

    def make() -> tuple[str, KeyRecord]:
        ends = None if expires is None else expires.timestamp()
        new = service.keys.create(body.role, collection, ends, body.label, created_by=caller.actor)
        record = service.keys.find(new.id)
        assert record is not None
        return new.text, record

    try:
        text, record = await service.engine.run(make)
    except (ValueError, OverflowError) as error:
        raise Problem(422, "invalid", str(error)) from None
    request.state.audit = {**request.state.audit, "key": record.id}
    response.headers["Location"] = f"{request.scope.get('root_path', '')}/v1/keys/{record.id}"
    response.headers["Cache-Control"] = "no-store"
    return NewKeyModel(**_fields(record), key=text)


@router.delete(
    "/v1/keys/{id}", operation_id="revoke_key", summary="Revoke a key", status_code=204, responses=problems()
)
async def revoke_key(
    request: Request,
    caller: KeyAdministrator,
    id: Annotated[str, Path(max_length=40, description="The id of the key.")],  # noqa: A002 - its name in the path
) -> None:
    """Make a key invalid at once, in all workers. It stays in the list. Revoking it again changes nothing."""
    service = service_of(request)
    record = await service.engine.run(service.keys.find, id)
    if record is None or caller.collection not in (None, record.collection):
        raise Problem(404, "not_found", "there is no key with this id")
    await service.engine.run(service.keys.revoke, id)


@router.get("/v1/audit", operation_id="list_audit", summary="Operations of administrators", responses=problems())
async def list_audit(
    request: Request,
    caller: KeyAdministrator,
    before: Annotated[int | None, Query(ge=1, le=2**53, description="Only entries with a smaller id.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> AuditList:
    """List changes of keys and settings, erasures and exports, with their actors. Refused operations have their status."""
    service = service_of(request)
    found = await service.engine.run(service.audit.entries, before=before, limit=limit, collection=caller.collection)
    entries = [
        AuditModel(
            id=one.id, at=_time(one.at), actor=one.actor, key=one.key, action=one.action, collection=one.collection,
            path=one.path, status=one.status, address=one.address, request=one.request, details=one.details,
        )
        for one in found
    ]  # fmt: skip
    return AuditList(entries=entries, next=entries[-1].id if len(entries) == limit else None)


def _fields(record: KeyRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "role": record.role,
        "collection": record.collection,
        "label": record.label,
        "created": _time(record.created),
        "created_by": record.created_by,
        "expires": None if record.expires is None else _time(record.expires),
        "revoked": None if record.revoked is None else _time(record.revoked),
        "valid": record.is_valid(datetime.now(timezone.utc).timestamp()),
    }


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc).replace(microsecond=0)
