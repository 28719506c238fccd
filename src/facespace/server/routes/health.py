"""The state of the service (is it running, is it ready) and its metrics."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel
from starlette.responses import Response

from facespace.server.access import allowed
from facespace.server.openapi import answer
from facespace.server.problems import problems
from facespace.server.service import service_of

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The answer of a service that is running."""

    status: str = "ok"


@router.get(
    "/healthz", operation_id="health", summary="Is the service running?", responses=answer(Health, {"status": "ok"})
)
async def health() -> Health:
    """Answer as long as the process can. Nothing else is checked."""
    return Health()


@router.get(
    "/readyz", operation_id="ready", summary="Is the service ready?", responses=answer(Health, {"status": "ok"})
)
async def ready(request: Request) -> Health:
    """Answer 200 if the gallery's store can be read and the network is loaded, otherwise 503."""
    service = service_of(request)
    await service.engine.run(lambda: len(service.galleries.get()))
    return Health()


@router.get(
    "/metrics", operation_id="metrics", summary="Metrics for Prometheus", response_class=Response,
    responses={
        **problems(),
        200: {
            "description": "Prometheus' text format.",
            "content": {"text/plain": {"schema": {"type": "string"}, "example": "facespace_photos_total 3.0"}},
        },
    },
    dependencies=[Depends(allowed("read", scope="all"))],
)  # fmt: skip
async def metrics(request: Request) -> Response:
    """Return all metrics in Prometheus' text format."""
    service = service_of(request)
    return Response(service.metrics.text(), media_type=service.metrics.media_type)
