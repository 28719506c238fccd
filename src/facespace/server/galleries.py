"""The collections of the gallery, opened once and shared by all requests."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from facespace.errors import GalleryError
from facespace.identification.gallery import Gallery
from facespace.identification.stores.opening import list_collections
from facespace.identification.stores.protocol import NoSuchCollection
from facespace.server.problems import Problem
from facespace.server.settings import Settings

if TYPE_CHECKING:
    from facespace.server.engine import Engine

DEFAULT_COLLECTION = "default"
HIDDEN = ("-unknowns", "-ignored")  # name endings of the collections that the service keeps for itself


def is_hidden(collection: str) -> bool:
    """Return whether a collection contains unnamed or ignored faces, which only the service itself uses.

    >>> is_hidden("default-unknowns"), is_hidden("default")
    (True, False)
    """
    return collection.endswith(HIDDEN)


class Galleries:
    """Opens each collection once, with the model that made its vectors. All methods are thread-safe and may block."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._address = settings.gallery
        self._model = settings.model
        self._engine = engine
        self._open: dict[str, Gallery] = {}
        self._models: dict[str, str] = {}
        self._lock = threading.RLock()

    def opened(self, collection: str) -> Gallery | None:
        """Return the collection if it is open already and not hidden, otherwise None. Never blocks for long."""
        return None if is_hidden(collection) else self._open.get(collection)

    def get(self, collection: str = DEFAULT_COLLECTION, *, hidden: bool = False) -> Gallery:
        """Return the open collection. Raise `Problem` 404 if it does not exist, 503 if the store cannot be reached.

        The default collection is created if needed. With `hidden`, a hidden collection is returned too.
        """
        if is_hidden(collection) and not hidden:
            raise Problem(404, "no_such_collection", "there is no collection with this name")
        found = self._open.get(collection)
        return found if found is not None else self._opened(collection, create=collection == DEFAULT_COLLECTION)

    def model(self, collection: str) -> str:
        """Return the name of an open collection's model, for `Engine.analyze`."""
        return self._models[collection]

    def create(self, collection: str, model: str | None = None) -> Gallery:
        """Return the collection, and create it if it does not exist, with `model` or by default the service's model."""
        return self._opened(collection, create=True, model=model)

    def names(self) -> list[str]:
        """Return the names of all collections except the hidden ones."""
        self.get()
        return [name for name in list_collections(self._address) if not is_hidden(name)]

    def forget(self, collection: str) -> None:
        """Close a collection, such as one that was removed. The next `get` opens it again."""
        with self._lock:
            gallery = self._open.pop(collection, None)
        if gallery is not None:
            gallery.close()

    def close(self) -> None:
        """Close all collections."""
        with self._lock:
            for gallery in self._open.values():
                gallery.close()
            self._open.clear()

    def _opened(self, collection: str, *, create: bool, model: str | None = None) -> Gallery:
        with self._lock:
            if (found := self._open.get(collection)) is not None:
                return found
            try:
                held = ""
                try:
                    with Gallery(self._address, collection=collection) as there:
                        held = there.model_name
                except GalleryError:
                    if not create:
                        raise
                chosen = held or model or self._model
                embedder = self._engine.embedder(chosen)
                gallery = Gallery(self._address, embedder, collection=collection, create=create)
            except NoSuchCollection:
                raise Problem(404, "no_such_collection", "there is no collection with this name") from None
            except ValueError as error:
                raise Problem(422, "invalid", str(error)) from None
            self._models[collection] = chosen
            self._open[collection] = gallery
            return gallery
