"""Shared by the routes that read and change people: opening the collection, and recording the caller in the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

from fastapi import Depends, Query

from facespace.identification.gallery import Gallery
from facespace.identification.stores.actors import acting_as
from facespace.server.access import Caller, allowed
from facespace.server.galleries import is_hidden
from facespace.server.problems import Problem
from facespace.server.service import Service

CollectionName = Annotated[str, Query(max_length=100, description="The collection of people.")]
# The callers of a route, by the role that their key must have.
Reader = Annotated[Caller, Depends(allowed("read"))]
Enroller = Annotated[Caller, Depends(allowed("enroll"))]
Admin = Annotated[Caller, Depends(allowed("admin"))]
AdminOfAll = Annotated[Caller, Depends(allowed("admin", scope="all"))]
AnyReader = Annotated[Caller, Depends(allowed("identify", "read"))]
AnyOfCollections = Annotated[Caller, Depends(allowed("identify", "read", scope="callers"))]

R = TypeVar("R")


def check_visible(collection: str) -> None:
    """Raise `Problem` 404 for a hidden collection, which only the service itself uses."""
    if is_hidden(collection):
        raise Problem(404, "no_such_collection", f"there is no collection {collection!r}")


async def collection_of(service: Service, collection: str) -> Gallery:
    """Return the open collection. Raise `Problem` 404 if it does not exist."""
    check_visible(collection)
    found = service.galleries.opened(collection)
    return found if found is not None else await service.engine.run(service.galleries.get, collection)


async def acting(service: Service, caller: Caller, function: Callable[..., R], *args: object, **options: object) -> R:
    """Call a blocking function in a thread in the name of the caller, so that the log names the caller."""

    def call() -> R:
        with acting_as(caller.actor):
            return function(*args, **options)

    return await service.engine.run(call)
