"""Events of the service: a stream of server-sent events, and the same events as a list."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response, StreamingResponse

from facespace.server.access import Caller, allowed
from facespace.server.events import MAX_LISTED, Event, EventFilter, Events, Listener, checked_kinds
from facespace.server.problems import Problem, busy, problems
from facespace.server.service import Service, service_of

router = APIRouter(tags=["events"])

_HEARTBEAT = 15.0  # seconds between two comments that keep the connection open
_CHECK = 1.0  # seconds between two checks of the key
_AT_ONCE = 100  # events that are sent together
_RETRY = 3000  # milliseconds until a browser reconnects
_LARGEST = 2**63 - 1

_EXAMPLE: dict[str, Any] = {
    "id": "1764515853201",
    "at": "2026-11-30T15:17:33.201Z",
    "kind": "known",
    "collection": "default",
    "source": "api",
    "person": {"id": "7", "name": "Grace Hopper", "external_id": None},
    "similarity": 0.61,
    "threshold": 0.37,
    "box": [31.2, 40.5, 130.0, 171.8],
    "quality": 0.74,
}


class PersonOfEvent(BaseModel):
    """The person that an event is about."""

    id: str
    name: str | None = Field(None, description="Missing if the person was erased.")
    external_id: str | None = None


class EventModel(BaseModel):
    """One event. It contains neither images nor embeddings. Fields that do not apply are missing."""

    model_config = ConfigDict(json_schema_extra={"example": _EXAMPLE})

    id: str = Field(description="Increases from event to event; never reused.")
    at: str = Field(description="The time of the event: UTC, ISO 8601.")
    kind: Literal["known", "unknown", "enrolled", "removed", "changed"]
    collection: str
    source: str = Field(description="`api`, or the name of a camera.")
    person: PersonOfEvent | None = None
    similarity: float | None = None
    threshold: float | None = None
    box: list[float] | None = None
    quality: float | None = None
    photo_id: str | None = None
    unknown_id: str | None = None
    reason: str | None = Field(None, description="Why a face is unknown, as in `/v1/identify`.")
    actor: str | None = Field(None, description="The key or user that changed something.")


class EventList(BaseModel):
    """Events, oldest first."""

    model_config = ConfigDict(json_schema_extra={"example": {"events": [_EXAMPLE], "next": _EXAMPLE["id"]}})

    events: list[EventModel]
    next: str = Field(description="Send it as `after` for the next events.")


Kinds = Annotated[
    str | None,
    Query(
        max_length=100, description="Only these kinds, separated by commas: known, unknown, enrolled, removed, changed."
    ),
]
Collection = Annotated[str | None, Query(max_length=100, description="Only events of this collection.")]
After = Annotated[
    str | None, Query(max_length=19, pattern="^[0-9]+$", description="Only events after the one with this id.")
]


Reader = Annotated[Caller, Depends(allowed("read", scope="callers"))]


@router.get(
    "/v1/events",
    operation_id="stream_events",
    summary="Events as they happen (server-sent events)",
    response_class=StreamingResponse,
    responses={
        **problems(),
        200: {
            "description": "A stream that ends when the client or the service closes it, or after `wait` seconds.",
            "content": {
                "text/event-stream": {
                    "schema": {
                        "type": "object",
                        "description": "One event of the stream; `data` is the event as JSON.",
                        "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
                    },
                    "example": 'id: 1764515853201\nevent: known\ndata: {"id":"1764515853201","kind":"known"}\n\n',
                }
            },
        },
    },
)
async def stream_events(
    request: Request,
    caller: Reader,
    kinds: Kinds = None,
    collection: Collection = None,
    after: After = None,
    last_event_id: Annotated[
        str | None, Header(max_length=19, description="The id of the last event that the client received.")
    ] = None,
    wait: Annotated[float | None, Query(ge=0, le=86_400, description="End the stream after this many seconds.")] = None,
) -> Response:
    """Stream events. A client that reconnects with the last event's id as `Last-Event-ID` misses no event.

    Without an id the stream begins with new events. A comment is sent at least every 15 seconds. The event `missed` means
    that events after the id have been deleted because they were too old or too many.
    """
    service = service_of(request)
    events: Events = service.events
    event_filter = _event_filter(caller, kinds, collection)
    text = last_event_id or after
    if text is not None and not text.isdecimal():
        raise Problem(422, "invalid", f"Last-Event-ID must be the id of an event, got {text[:19]!r}")
    # Before there is a listener: no event that was emitted earlier is sent, and every later one is.
    begin = await asyncio.to_thread(events.newest_in_file) if text is None else min(int(text), _LARGEST)
    try:
        listener = events.listen(caller.key_id or "")
    except RuntimeError as error:
        if events.closed:
            raise Problem(503, "shutting_down", "the service is shutting down", headers={"Retry-After": "5"}) from None
        raise busy(str(error), 10) from None
    end = time.monotonic() + wait if wait is not None else None
    return StreamingResponse(
        _stream(service, listener, caller, event_filter, begin, end, resumed=text is not None),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


@router.get(
    "/v1/events/list",
    operation_id="list_events",
    summary="Past events",
    response_model=EventList,
    response_model_exclude_none=True,
    responses=problems(),
)
async def list_events(
    request: Request,
    caller: Reader,
    kinds: Kinds = None,
    collection: Collection = None,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LISTED, description="The largest number of events.")] = 100,
) -> Any:
    """List events, oldest first. Send `next` as `after` to continue.

    People seen are recorded only while there is a listener. Each call counts as a listener for a minute.
    """
    service = service_of(request)
    events: Events = service.events
    event_filter = _event_filter(caller, kinds, collection)
    number = 0 if after is None else min(int(after), _LARGEST)
    await service.engine.run(events.listed)
    found, last = await service.engine.run(events.read, number, limit, event_filter)
    body = f'{{"events":[{",".join(event.json for event in found)}],"next":"{last}"}}'
    return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})


async def _stream(
    service: Service,
    listener: Listener,
    caller: Caller,
    event_filter: EventFilter,
    number: int,
    end: float | None,
    *,
    resumed: bool,
) -> AsyncIterator[bytes]:
    events: Events = service.events
    try:
        yield f"retry: {_RETRY}\n\n".encode()
        if resumed and await asyncio.to_thread(events.missed_before, number):
            yield b"event: missed\ndata: {}\n\n"
        checked = sent = time.monotonic()
        while not events.closed:
            now = time.monotonic()
            if now - checked >= _CHECK:
                checked = now
                if not await asyncio.to_thread(_is_still_allowed, service, caller):
                    return
            found, number = await listener.read(number, _AT_ONCE, event_filter)
            if found:
                sent = time.monotonic()
                yield b"".join(map(_message, found))
                continue
            now = time.monotonic()
            if end is not None and now >= end:
                return
            if now - sent >= _HEARTBEAT:
                sent = now
                yield b": still here\n\n"
                continue
            until = min(sent + _HEARTBEAT, now + _CHECK, *(() if end is None else (end,)))
            await listener.wait(max(until - now, 0.001))
    finally:
        listener.close()


def _message(event: Event) -> bytes:
    return f"id: {event.number}\nevent: {event.kind}\ndata: {event.json}\n\n".encode()


def _event_filter(caller: Caller, kinds: str | None, collection: str | None) -> EventFilter:
    """Return the filter of the events that a caller receives. Raise `Problem` for an unknown kind.

    Events of collections that the caller's key may not use are left out; asking for one raises `Problem`.
    """
    if caller.collection is not None and collection not in (None, caller.collection):
        raise Problem(403, "other_collection", f"this key is only valid for the collection {caller.collection!r}")
    try:
        chosen = checked_kinds(filter(None, (kind.strip() for kind in (kinds or "").split(","))))
    except ValueError as error:
        raise Problem(
            422, "invalid", f"kinds: {error}", errors=[{"where": "query.kinds", "message": str(error)}]
        ) from None
    return EventFilter(chosen, collection or caller.collection)


def _is_still_allowed(service: Service, caller: Caller) -> bool:
    """Return whether the key is still valid: neither revoked nor expired since the stream began."""
    if caller.key_id is None:
        return not service.keys.any()  # once there is a key, callers without one are refused
    record = service.keys.find(caller.key_id)
    return record is not None and record.is_valid(time.time())
