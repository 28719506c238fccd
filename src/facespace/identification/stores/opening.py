"""Opens a store by its address: a file or a server."""

from __future__ import annotations

from facespace.errors import GalleryError
from facespace.identification.stores.protocol import NoSuchCollection, Store
from facespace.identification.stores.sqlite import SQLiteStore
from facespace.io.text import one_line

_MAX_COLLECTION = 100  # characters


def open_store(address: str, *, collection: str = "default", create: bool = False) -> Store:
    """Open the store at a file's path or an address like `postgresql://user@host/database` or `qdrant://host:6333`.

    `create` creates a missing file and a missing collection; without it, raise `GalleryError` if one is missing. Also
    raise `GalleryError` if the server cannot be reached.
    """
    if not collection or len(collection) > _MAX_COLLECTION or not collection.replace("-", "_").isidentifier():
        raise ValueError(
            f"a collection's name must be letters, digits, '_' and '-', not starting with a digit, got {collection[:40]!r}"
        )
    scheme = address.partition("://")[0] if "://" in address else ""
    if scheme in ("postgresql", "postgres"):
        from facespace.identification.stores.postgres import PostgresStore

        return PostgresStore(address, collection=collection, create=create)
    if scheme in ("qdrant", "qdrants"):
        from facespace.identification.stores.qdrant import QdrantStore

        return QdrantStore(address, collection=collection, create=create)
    if scheme:
        # The message does not repeat the address, which may contain a password.
        raise GalleryError(f"a gallery must be a file, postgresql:// or qdrant://, got {one_line(scheme)[:40]}://")
    return SQLiteStore(address, collection=collection, create=create)


def list_collections(address: str) -> list[str]:
    """Return the names of all collections of the store at an address; raise `GalleryError` if there is no store."""
    try:
        store = open_store(address)
    except NoSuchCollection as missing:
        return missing.collections
    try:
        return store.collections()
    finally:
        store.close()
