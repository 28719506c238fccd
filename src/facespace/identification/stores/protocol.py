"""The interface of a store: people, their photos as vectors, and a log of changes.

A store object gives access to one collection. Every change of people and photos is one `Change`, which contains the state
before and after it. A change is therefore refused if another process changed the same people first, and its inverse
undoes it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from facespace.errors import GalleryError
from facespace.identification.people_index import Nearest

Templates = str  # how a person's photos are compared: "mean", "best", or "" for the collection's setting


@dataclass(frozen=True, slots=True)
class Entry:
    """One photo to store: a unit `embedding` (D,), and as `digest` the SHA-256 (hex) of the crop it was made from.

    `source` says where the photo came from, `made_by` which runtime and precision computed the embedding. `quality` is
    the quality of the face from 0 to 1, or None. `crop` is the encoded crop if it is to be stored.
    """

    embedding: npt.NDArray[np.float32]
    digest: str
    source: str
    made_by: str
    quality: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    crop: bytes | None = None


@dataclass(frozen=True, slots=True)
class PersonState:
    """The fields of a person that can be changed.

    `rejected` are digests of crops that a user rejected as not showing this person. `templates` says how the person's
    photos are compared.
    """

    name: str
    external_id: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    rejected: tuple[str, ...] = ()
    templates: Templates = ""


@dataclass(frozen=True, slots=True)
class StoredPerson:
    """One person in a store; `added` is a UTC time."""

    id: int
    state: PersonState
    n_photos: int
    added: str


@dataclass(frozen=True, slots=True)
class StoredPhoto:
    """One photo of a person, without its vector and crop. `actor` is the user or client who enrolled it."""

    id: int
    person: int
    digest: str
    source: str
    made_by: str
    actor: str
    added: str
    quality: float | None
    metadata: dict[str, Any]
    has_crop: bool


class PersonChange(NamedTuple):
    """A person's state before and after a change; None where the person does not exist. A new person's id is 0 or less."""

    id: int
    before: PersonState | None
    after: PersonState | None


class PhotoChange(NamedTuple):
    """The id of a photo's owner before and after a change: None if the photo is removed, 0 or less for a new person."""

    id: int
    before: int | None
    after: int | None


@dataclass(frozen=True, slots=True)
class Change:
    """One atomic change; `kind` is a single word, `text` a line for the user."""

    kind: str
    text: str
    people: tuple[PersonChange, ...] = ()
    photos: tuple[PhotoChange, ...] = ()

    def inverse(self) -> Change:
        """Return the change that undoes this one.

        >>> Change("move", "", photos=(PhotoChange(3, 1, 2),)).inverse().photos
        (PhotoChange(id=3, before=2, after=1),)
        """
        return dataclasses.replace(
            self,
            kind="undo",
            people=tuple(PersonChange(one.id, one.after, one.before) for one in self.people),
            photos=tuple(PhotoChange(one.id, one.after, one.before) for one in self.photos),
        )


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One entry of the log: `at` is a UTC time, `actor` made the change; `change` is None if it cannot be undone."""

    id: int
    at: str
    actor: str
    kind: str
    text: str
    change: Change | None
    undone: bool = False


class Conflict(GalleryError):
    """Another process changed the same people or photos first; read them again and retry."""


class NoSuchCollection(GalleryError):
    """The store has no collection of that name; `collections` are the names of those it has.

    `removed` is the name of the collection if it was removed while it was open, otherwise empty.
    """

    def __init__(self, message: str, collections: Sequence[str], removed: str = "") -> None:
        super().__init__(message)
        self.collections = list(collections)
        self.removed = removed


class StoredVectors(NamedTuple):
    """The P people of a store and their N embeddings.

    `names` has P names and `owners` (N,) are indices into them. `embeddings` is (N,D), and `qualities` (N,) are NaN if
    unknown.
    """

    names: list[str]
    owners: npt.NDArray[np.int64]
    embeddings: npt.NDArray[np.float32]
    qualities: npt.NDArray[np.float32]


class Store(Protocol):
    """The people of one collection; it can be shared between threads and processes, and every change is atomic.

    `name` identifies the store in error messages. When a method returns, its change is durable and survives a crash. All
    methods raise `GalleryError` if the store cannot be read or written.
    """

    @property
    def name(self) -> str:
        """The file or address."""

    @property
    def collection(self) -> str:
        """The name of the open collection."""

    def close(self) -> None:
        """Close the store; all changes are already stored."""

    def version(self) -> int:
        """Return a number that changes with every change of the people, by this or another process."""

    def collections(self) -> list[str]:
        """Return the names of all collections of the store."""

    def setting(self, key: str) -> Any:
        """Return a stored setting (JSON), or None."""

    def set_once(self, key: str, value: Any) -> Any:
        """Store a setting unless it already has a value; return the stored value."""

    def set(self, key: str, value: Any) -> None:
        """Store a setting, replacing the old value."""

    def count(self, *, photos: bool = False) -> int:
        """Return the number of people, or with `photos` the number of all their photos."""

    def people(self, *, after: str = "", limit: int | None = None) -> list[StoredPerson]:
        """Return people sorted by the code points of their names: at most `limit` after the name `after`."""

    def get(self, ids: Sequence[int]) -> list[StoredPerson]:
        """Return the people with these ids, in the order of `ids`, leaving out unknown ids."""

    def find(self, name: str) -> StoredPerson | None:
        """Return the person with that name, or None."""

    def find_external(self, external_id: str) -> StoredPerson | None:
        """Return the person with that external id, or None."""

    def find_digest(self, digest: str) -> list[int]:
        """Return the ids of the people who have a photo with that digest."""

    def photos(self, person: int) -> list[StoredPhoto]:
        """Return the photos of the person with that id, in the order they were added."""

    def embeddings(self, photos: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return the vectors (n,D) of photos, including removed ones; raise `GalleryError` for an unknown id."""

    def crop(self, photo: int) -> bytes | None:
        """Return the encoded crop of a photo, or None if it was not stored."""

    def add(self, name: str, entry: Entry, person: int | None = None) -> bool:
        """Store a photo under a name, creating the person if needed; return False if they have a photo of this digest.

        `person` is the id of the person the caller expects to have the name, or 0 for no person; raise `Conflict` if that
        has changed.
        """

    def apply(self, change: Change, *, undoes: int | None = None) -> int:
        """Apply a change and log it; return its number in the log.

        Raise `Conflict` if the stored state differs from the change's state before it, if two people would have the same
        name or external id, if a photo would have no owner without being removed, or if a person would have no photos.
        `undoes` is the number of the change that this one undoes: it is marked as undone, or `Conflict` is raised if it
        already was.
        """

    def log(self, limit: int = 20) -> list[LogEntry]:
        """Return the last changes, latest first."""

    def erase(self, people: Sequence[int] | None = None, *, before: float | None = None) -> int:
        """Erase removed photos and people permanently, also from the disk; return how many photos were erased.

        `people` limits the erasure to people with these ids, and `before`, in seconds since 1970 (UTC), to what was
        removed before that time. In the log, a random name replaces each person; actors and times stay.
        """

    def drop(self) -> None:
        """Erase the whole collection, also from the disk: all people, removed people, settings and the log.

        Stores that have it open raise `NoSuchCollection` from then on.
        """

    def nearest(self, probes: npt.NDArray[np.float32], k: int) -> Nearest:
        """Return the k most similar people of each probe (N,D)."""

    def vectors(self, dimension: int) -> StoredVectors:
        """Return all people and embeddings; raise `GalleryError` if an embedding has another dimension."""
