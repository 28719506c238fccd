"""A store by its address: a file, or a server."""

from __future__ import annotations

from facespace.errors import GalleryError
from facespace.identification.stores.protocol import NoSuchCollection, Store
from facespace.identification.stores.sqlite import SQLiteStore
from facespace.io.text import one_line

_MAX_COLLECTION = 100  # characters


def open_store(address: str, *, collection: str = "default", create: bool = False) -> Store:
    """The store at the path of a file, or at an address such as `postgresql://user@host/database` or `qdrant://host:6333`.

    `create` makes a missing file and a missing collection. `GalleryError` where there is none, or no such server.
    """
    if not collection or len(collection) > _MAX_COLLECTION or not collection.replace("-", "_").isidentifier():
        raise ValueError(f"a collection must be letters, digits, '_' and '-', got {collection[:40]!r}")
    scheme = address.partition("://")[0] if "://" in address else ""
    if scheme in ("postgresql", "postgres"):
        from facespace.identification.stores.postgres import PostgresStore

        return PostgresStore(address, collection=collection, create=create)
    if scheme in ("qdrant", "qdrants"):
        from facespace.identification.stores.qdrant import QdrantStore

        return QdrantStore(address, collection=collection, create=create)
    if scheme:
        # The address is not repeated: there may be a password in it.
        raise GalleryError(f"a gallery is a file, or is at postgresql:// or qdrant://; got {one_line(scheme)[:40]}://")
    return SQLiteStore(address, collection=collection, create=create)


def list_collections(address: str) -> list[str]:
    """The names of all collections of the store at an address; `GalleryError` where there is no store."""
    try:
        store = open_store(address)
    except NoSuchCollection as there_are_others:
        return there_are_others.collections
    try:
        return store.collections()
    finally:
        store.close()
