"""Creating, listing and deleting webhooks, and sending dead letters again."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from facespace.server.access import Caller, allowed
from facespace.server.problems import Problem, problems
from facespace.server.routes.events import EventModel
from facespace.server.service import Service, service_of
from facespace.server.webhook_targets import MAX_URL, TargetRefused
from facespace.server.webhooks import Webhook

router = APIRouter(tags=["webhooks"])

Kind = Literal["known", "unknown", "enrolled", "removed", "changed"]
Admin = Annotated[Caller, Depends(allowed("admin", scope="callers"))]
WebhookId = Annotated[str, Path(max_length=40, description="The webhook's id.")]


class WebhookRequest(BaseModel):
    """A webhook to create. A missing `kinds`, `collection` or `person` selects all of them."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"url": "https://example.com/faces", "kinds": ["known"], "label": "front door"}},
    )

    url: str = Field(max_length=MAX_URL, description="The target of the events: https://, or http://.")
    kinds: list[Kind] = Field(default=[], max_length=20, description="Only events of these kinds.")
    collection: str | None = Field(None, max_length=100, description="Only events of this collection.")
    person: str | None = Field(None, max_length=40, description="Only events of the person with this id.")
    label: str = Field("", max_length=100)


class WebhookModel(BaseModel):
    """A webhook, without its secret."""

    id: str
    url: str
    kinds: list[Kind] = Field(description="Empty for all.")
    collection: str | None
    person: str | None
    label: str
    created: str
    created_by: str
    waiting: int = Field(description="The number of events still to be delivered.")
    dead: int = Field(description="The number of dead letters: events that the target did not accept.")
    delivered: str | None = Field(description="When the target last accepted an event.")
    error: str | None = Field(description="Why the latest delivery failed.")


class NewWebhookModel(WebhookModel):
    """A webhook that was just made."""

    secret: str = Field(description="Signs the events. It is shown once.")


class WebhookList(BaseModel):
    """All webhooks, the oldest first."""

    webhooks: list[WebhookModel]


class DeadLetterModel(BaseModel):
    """An event that the target has not accepted."""

    number: int
    event: EventModel
    attempts: int
    error: str
    at: str = Field(description="The time of the last attempt.")


class DeadLetters(BaseModel):
    """Dead letters, oldest first."""

    dead: list[DeadLetterModel]
    next: int | None = Field(description="Send it as `after` for the next page; null at the end.")


@router.get(
    "/v1/webhooks", operation_id="list_webhooks", summary="List the webhooks", response_model=WebhookList,
    responses=problems(),
)  # fmt: skip
async def list_webhooks(request: Request, caller: Admin) -> Any:
    """List the webhooks. A key for one collection sees only the webhooks of that collection."""
    service = service_of(request)
    return {"webhooks": [_entry(one) for one in await service.engine.run(service.webhooks.all) if _sees(caller, one)]}


@router.post(
    "/v1/webhooks", operation_id="create_webhook", summary="Create a webhook", response_model=NewWebhookModel,
    status_code=201, responses=problems(),
)  # fmt: skip
async def create_webhook(request: Request, body: WebhookRequest, caller: Admin) -> Any:
    """Create a webhook, which gets the selected events from now on. Only this answer contains the secret that signs its events.

    A target on this machine or in a private network is refused, unless the service was started with
    `--allow-private-webhooks`.
    """
    service = service_of(request)
    if caller.collection is not None and body.collection not in (None, caller.collection):
        raise Problem(403, "other_collection", f"this key is only valid for the collection {caller.collection!r}")
    try:
        new = await service.engine.run(
            lambda: service.webhooks.create(
                body.url, kinds=body.kinds, collection=body.collection or caller.collection, person=body.person,
                label=body.label, created_by=caller.actor,
            )
        )  # fmt: skip
    except TargetRefused as error:
        raise Problem(422, "invalid", str(error), errors=[{"where": "body.url", "message": str(error)}]) from None
    except ValueError as error:
        raise Problem(422, "invalid", str(error)) from None
    made = await _found(service, caller, new.id)
    return {**_entry(made), "secret": new.secret}


@router.get(
    "/v1/webhooks/{webhook}", operation_id="get_webhook", summary="One webhook", response_model=WebhookModel,
    responses=problems(),
)  # fmt: skip
async def get_webhook(request: Request, webhook: WebhookId, caller: Admin) -> Any:
    """Return the webhook's state: waiting events, dead letters, and the latest error."""
    return _entry(await _found(service_of(request), caller, webhook))


@router.delete(
    "/v1/webhooks/{webhook}", operation_id="delete_webhook", summary="Delete a webhook", status_code=204,
    responses=problems(),
)  # fmt: skip
async def delete_webhook(request: Request, webhook: WebhookId, caller: Admin) -> Response:
    """Delete a webhook with its waiting events and its dead letters."""
    service = service_of(request)
    await _found(service, caller, webhook)
    await service.engine.run(service.webhooks.remove, webhook)
    return Response(status_code=204)


@router.get(
    "/v1/webhooks/{webhook}/dead", operation_id="list_dead_letters", summary="Events that were not accepted",
    response_model=DeadLetters, responses=problems(),
)  # fmt: skip
async def list_dead_letters(
    request: Request,
    caller: Admin,
    webhook: WebhookId,
    after: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Any:
    """List dead letters, oldest first. They are kept for 30 days after the last attempt."""
    service = service_of(request)
    await _found(service, caller, webhook)
    letters = await service.engine.run(lambda: service.webhooks.dead(webhook, after=after, limit=limit))
    entries = [
        {"number": one.number, "event": one.event, "attempts": one.attempts, "error": one.error, "at": _time(one.at)}
        for one in letters
    ]
    return {"dead": entries, "next": letters[-1].number if len(letters) == limit else None}


@router.post(
    "/v1/webhooks/{webhook}/dead/{number}/retry", operation_id="retry_dead_letter", summary="Send a dead letter again",
    status_code=204, responses=problems(),
)  # fmt: skip
async def retry_dead_letter(
    request: Request,
    webhook: WebhookId,
    number: Annotated[int, Path(ge=1, le=2**63 - 1)],
    caller: Admin,
) -> Response:
    """Send a dead letter again at once, with all its retries."""
    service = service_of(request)
    await _found(service, caller, webhook)
    if not await service.engine.run(service.webhooks.retry, webhook, number):
        raise Problem(404, "not_found", f"this webhook has no dead letter with the number {number}")
    service.delivering.wake()
    return Response(status_code=204)


async def _found(service: Service, caller: Caller, identifier: str) -> Webhook:
    webhook: Webhook | None = await service.engine.run(service.webhooks.find, identifier)
    if webhook is None or not _sees(caller, webhook):
        raise Problem(404, "not_found", "there is no webhook with this id")
    return webhook


def _sees(caller: Caller, webhook: Webhook) -> bool:
    return caller.collection is None or caller.collection == webhook.event_filter.collection


def _entry(webhook: Webhook) -> dict[str, Any]:
    return {
        "id": webhook.id,
        "url": webhook.url,
        "kinds": list(webhook.event_filter.kinds or ()),
        "collection": webhook.event_filter.collection,
        "person": webhook.event_filter.person,
        "label": webhook.label,
        "created": _time(webhook.created),
        "created_by": webhook.created_by,
        "waiting": webhook.n_waiting,
        "dead": webhook.n_dead,
        "delivered": None if webhook.delivered is None else _time(webhook.delivered),
        "error": webhook.error,
    }


def _time(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
