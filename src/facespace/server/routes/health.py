"""Whether the service lives and is ready, and its figures."""

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
    """The service answers."""

    status: str = "ok"


@router.get(
    "/healthz", operation_id="health", summary="Does the service live?", responses=answer(Health, {"status": "ok"})
)
async def health() -> Health:
    """Answers as long as the process does; looks at nothing else."""
    return Health()


@router.get(
    "/readyz", operation_id="ready", summary="Can the service do its work?", responses=answer(Health, {"status": "ok"})
)
async def ready(request: Request) -> Health:
    """Answers 200 if the store of the gallery can be read and the network is loaded, else 503."""
    service = service_of(request)
    await service.engine.run(lambda: len(service.galleries.get()))
    return Health()


@router.get(
    "/metrics", operation_id="metrics", summary="Figures for Prometheus", response_class=Response,
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
    """All figures in Prometheus' text format."""
    service = service_of(request)
    return Response(service.metrics.text(), media_type=service.metrics.media_type)
