"""The application: all routers, and the middleware that a request passes first."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator

from fastapi import FastAPI

from facespace._version import __version__
from facespace.errors import FacespaceError
from facespace.server import logs, openapi
from facespace.server.admission import Admission
from facespace.server.audit_trail import AuditTrail
from facespace.server.cross_site import CrossSite
from facespace.server.idempotency import Erasure, Idempotency
from facespace.server.key_check import KeyCheck
from facespace.server.metrics import Metrics
from facespace.server.orphans import end_with_parent
from facespace.server.priorities import answer_promptly
from facespace.server.problems import add_problem_handlers
from facespace.server.routes import (
    collections,
    events,
    faces,
    health,
    keys,
    log,
    page,
    people,
    photos,
    settings as settings_routes,
    unknowns,
    webhooks,
)
from facespace.server.service import Service
from facespace.server.settings import Settings
from facespace.server.stopping import calling_at_stop
from facespace.server.tracing import Tracing

ROUTERS = (
    collections.router,
    events.router,
    faces.router,
    health.router,
    page.router,
    log.router,
    people.router,
    photos.router,
    unknowns.router,
    openapi.router,
    keys.router,
    settings_routes.router,
    webhooks.router,
)


def create_app(settings: Settings) -> FastAPI:
    """Return the application with these settings. It makes its `Service` when it starts, and closes it when it ends."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = Service(settings)
        end_with_parent()
        try:
            try:
                await service.engine.run(service.start)
            except FacespaceError as error:
                logs.log("the service cannot start", level=logging.ERROR, reason=str(error))
                logging.getLogger("uvicorn.error").addFilter(_no_traceback)
                raise
            app.state.service = service
            with calling_at_stop(service.begin_closing):
                yield
        finally:
            service.begin_closing()
            service.close()

    def service() -> Service | None:
        return getattr(app.state, "service", None)

    def metrics() -> Metrics | None:
        there = service()
        return None if there is None else there.metrics

    app = FastAPI(
        title="facespace",
        version=__version__,
        summary="Finds faces, compares them, and names the people who are enrolled.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    add_problem_handlers(app, ROUTERS)
    for router in ROUTERS:
        app.include_router(router)
    openapi.describe(app, settings.root_path)
    # The middleware that is added last runs first.
    app.add_middleware(AuditTrail)
    app.add_middleware(Erasure)
    app.add_middleware(Idempotency)
    app.add_middleware(KeyCheck)
    app.add_middleware(CrossSite, settings=settings)
    app.add_middleware(Admission, settings=settings, service=service)
    app.add_middleware(Tracing, metrics=metrics, root_path=settings.root_path)
    return app


def _no_traceback(record: logging.LogRecord) -> bool:
    """Keep all log lines except tracebacks. uvicorn logs one for an error that this module has already reported."""
    return not record.getMessage().startswith("Traceback")


def app_from_environment() -> FastAPI:
    """Return the application of a worker process, with the settings from the environment."""
    settings = Settings.from_environment()
    logs.configure(settings.log_level)
    answer_promptly()
    return create_app(settings)
