"""Whether the service lives and is ready, and its figures."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel
from starlette.responses import Response

from facespace.server.access import Caller, allowed
from facespace.server.problems import Problem, problems
from facespace.server.service import service_of

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The service answers."""

    status: str = "ok"


@router.get("/healthz", operation_id="health", summary="Does the service live?", responses=problems())
async def health() -> Health:
    """Answers as long as the process does; looks at nothing else."""
    return Health()


@router.get("/readyz", operation_id="ready", summary="Can the service do its work?", responses=problems())
async def ready(request: Request) -> Health:
    """Answers 200 if the store of the gallery can be read and the network is loaded, else 503."""
    service = service_of(request)
    if service.is_closing:
        raise Problem(503, "shutting_down", "the service is shutting down", headers={"Retry-After": "5"})
    await service.engine.run(lambda: len(service.galleries.get()))
    return Health()


@router.get(
    "/metrics", operation_id="metrics", summary="Figures for Prometheus", response_class=Response,
    responses={**problems(), 200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)  # fmt: skip
async def metrics(request: Request, caller: Caller = Depends(allowed("read"))) -> Response:
    """All figures in Prometheus' text format."""
    del caller
    service = service_of(request)
    return Response(service.metrics.text(), media_type=service.metrics.media_type)
