"""Webhooks: made, listed and deleted; what could not be delivered, and sending it again."""

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
    """A webhook to make. What is left out stands for all."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"url": "https://example.com/faces", "kinds": ["known"], "label": "front door"}},
    )

    url: str = Field(max_length=MAX_URL, description="Where events are sent to: https://, or http://.")
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
    waiting: int = Field(description="Events that are still to be delivered.")
    dead: int = Field(description="Events that were not accepted; see its dead letters.")
    delivered: str | None = Field(description="When it last accepted an event.")
    error: str | None = Field(description="Why its latest delivery failed.")


class NewWebhookModel(WebhookModel):
    """A webhook that was just made."""

    secret: str = Field(description="Signs what is sent. It is shown once.")


class WebhookList(BaseModel):
    """All webhooks, the oldest first."""

    webhooks: list[WebhookModel]


class DeadLetterModel(BaseModel):
    """An event that the target has not accepted."""

    number: int
    event: EventModel
    attempts: int
    error: str
    at: str = Field(description="When it was last tried.")


class DeadLetters(BaseModel):
    """Dead letters, oldest first."""

    dead: list[DeadLetterModel]
    next: int | None = Field(description="Ask for those `after` this; null at the end.")


@router.get(
    "/v1/webhooks", operation_id="list_webhooks", summary="List the webhooks", response_model=WebhookList,
    responses=problems(),
)  # fmt: skip
async def list_webhooks(request: Request, caller: Admin) -> Any:
    """A key for one collection sees the webhooks of that collection."""
    service = service_of(request)
    return {"webhooks": [_entry(one) for one in await service.engine.run(service.webhooks.all) if _sees(caller, one)]}


@router.post(
    "/v1/webhooks", operation_id="create_webhook", summary="Make a webhook", response_model=NewWebhookModel,
    status_code=201, responses=problems(),
)  # fmt: skip
async def create_webhook(request: Request, body: WebhookRequest, caller: Admin) -> Any:
    """It gets the events from now on. Its secret, which signs them, is in this answer and nowhere else.

    A target on this machine or in a private network is refused, unless the service was started with
    `--allow-private-webhooks`.
    """
    service = service_of(request)
    if caller.collection is not None and body.collection not in (None, caller.collection):
        raise Problem(403, "other_collection", f"this key is for the collection {caller.collection!r} alone")
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
    """How it stands: what waits, what was not accepted, and why."""
    return _entry(await _found(service_of(request), caller, webhook))


@router.delete(
    "/v1/webhooks/{webhook}", operation_id="delete_webhook", summary="Delete a webhook", status_code=204,
    responses=problems(),
)  # fmt: skip
async def delete_webhook(request: Request, webhook: WebhookId, caller: Admin) -> Response:
    """What waits for it and its dead letters are deleted too."""
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
    """After the last retry an event is kept here for 30 days."""
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
    """It is sent at once, with all its retries."""
    service = service_of(request)
    await _found(service, caller, webhook)
    if not await service.engine.run(service.webhooks.retry, webhook, number):
        raise Problem(404, "not_found", f"this webhook has no dead letter {number}")
    service.delivering.wake()
    return Response(status_code=204)


async def _found(service: Service, caller: Caller, identifier: str) -> Webhook:
    webhook: Webhook | None = await service.engine.run(service.webhooks.find, identifier)
    if webhook is None or not _sees(caller, webhook):
        raise Problem(404, "not_found", "there is no webhook with this id")
    return webhook


def _sees(caller: Caller, webhook: Webhook) -> bool:
    return caller.collection is None or caller.collection == webhook.wanted.collection


def _entry(webhook: Webhook) -> dict[str, Any]:
    return {
        "id": webhook.id,
        "url": webhook.url,
        "kinds": list(webhook.wanted.kinds or ()),
        "collection": webhook.wanted.collection,
        "person": webhook.wanted.person,
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
