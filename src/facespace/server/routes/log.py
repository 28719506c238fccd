"""The log of changes, and undoing them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from facespace.identification.edits import Refused
from facespace.identification.stores.protocol import LogEntry
from facespace.server.acting import CollectionName, Enroller, Reader, acting, collection_of
from facespace.server.problems import Problem, problems, without_store
from facespace.server.service import service_of

MAX_LOG = 1_000  # entries in one answer

router = APIRouter(tags=["log"])

EXAMPLE_CHANGE: dict[str, Any] = {
    "number": 12, "at": "2026-01-02T03:04:05Z", "actor": "front desk (key 3f9a)", "kind": "merge",
    "text": "Ada into Ada Lovelace", "undone": False, "can_be_undone": True,
}  # fmt: skip


class LoggedChange(BaseModel):
    """One change of people or photos."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_CHANGE]})

    number: int
    at: str
    actor: str = Field(description="A user of the machine, or a key of the service.")
    kind: str
    text: str
    undone: bool
    can_be_undone: bool


class Log(BaseModel):
    """The last changes, the latest first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"changes": [EXAMPLE_CHANGE]}]})

    changes: list[LoggedChange]


class UndoRequest(BaseModel):
    """The number of the change to undo; without a number, the last one."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"number": 12}]})

    number: Annotated[int, Field(ge=1, lt=2**63)] | None = None


@router.get("/v1/log", operation_id="list_changes", summary="The last changes of the gallery", responses=problems())
async def list_changes(
    request: Request,
    caller: Reader,
    collection: CollectionName = "default",
    limit: Annotated[int, Query(ge=1, le=MAX_LOG)] = 20,
) -> Log:
    """List changes, the latest first. Erased people appear under a random name."""
    del caller
    service = service_of(request)
    gallery = await collection_of(service, collection)
    entries = await service.engine.run(gallery.log, limit)
    return Log(changes=[LoggedChange.model_validate(_entry(one)) for one in entries])


@router.post("/v1/undo", operation_id="undo", summary="Undo a change", responses=problems(409))
async def undo(
    request: Request, caller: Enroller, body: UndoRequest | None = None, collection: CollectionName = "default"
) -> LoggedChange:
    """Undo a change and return it. Answer 409 `undo_refused` if it is undone, or its people or photos changed since."""
    service = service_of(request)
    gallery = await collection_of(service, collection)

    def run() -> LogEntry:
        try:
            done = gallery.undo(None if body is None else body.number)
        except Refused as refused:
            raise Problem(409, "undo_refused", without_store(refused)) from None
        service.events.emit("changed", collection, {"undone": done.id, "kind": done.kind, "text": done.text})
        return done

    done = await acting(service, caller, run)
    return LoggedChange.model_validate({**_entry(done), "undone": True, "can_be_undone": False})


def _entry(entry: LogEntry) -> dict[str, Any]:
    return {
        "number": entry.id, "at": entry.at, "actor": entry.actor, "kind": entry.kind, "text": entry.text,
        "undone": entry.undone, "can_be_undone": entry.change is not None and not entry.undone,
    }  # fmt: skip
