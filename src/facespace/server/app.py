"""The application: every router, and what a request passes before it comes to one."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI

from facespace._version import __version__
from facespace.server.audit_trail import AuditTrail
from facespace.server.cross_site import CrossSite
from facespace.server.idempotency import Erasure, Idempotency
from facespace.server.problems import add_problem_handlers
from facespace.server.routes import faces, health
from facespace.server.service import Service
from facespace.server.settings import Settings

ROUTERS = (
    faces.router,
    health.router,
)


def create_app(settings: Settings) -> FastAPI:
    """The application with these settings; the `Service` is made when it starts, and closed when it ends."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = Service(settings)
        app.state.service = service
        try:
            gallery = await service.engine.run(service.galleries.get)
            await service.engine.run(service.engine.warm, gallery.model_name or settings.model)
            yield
        finally:
            service.close()

    app = FastAPI(
        title="facespace",
        version=__version__,
        summary="Finds faces, compares them, and names the people who are enrolled.",
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        root_path=settings.root_path,
        redirect_slashes=False,
    )
    add_problem_handlers(app)
    # The last one that is added comes first.
    app.add_middleware(AuditTrail)
    app.add_middleware(Erasure)
    app.add_middleware(Idempotency)
    app.add_middleware(CrossSite, settings=settings)
    for router in ROUTERS:
        app.include_router(router)
    return app


def app_from_environment() -> FastAPI:
    """The application of a worker process, whose settings are in the environment."""
    return create_app(Settings.from_environment())
