"""What keeps a gallery's people: their photos as vectors, what is known of them, and what was changed.

A store holds one collection. Every change of people and photos is one `Change`, which says what was there before and
what is there after it: so it is refused where somebody else was faster, and undone by its inverse.
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

Templates = str  # how photos become what is compared: "" as the collection says, "mean", or "best"


@dataclass(frozen=True, slots=True)
class Entry:
    """One embedding to store: `embedding` (D,) of unit length, `digest` the SHA-256 (hex) of the crop it was made from.

    `source` says where the photo came from, `made_by` the runtime and precision that computed the embedding, `quality`
    how good the face is, from 0 to 1, or None. `crop` is the encoded picture of the face, where it is to be kept.
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
    """What can be changed of a person.

    `rejected` are digests of crops that somebody said do not show this person; `templates` is how their photos are
    compared.
    """

    name: str
    external_id: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    rejected: tuple[str, ...] = ()
    templates: Templates = ""


@dataclass(frozen=True, slots=True)
class StoredPerson:
    """One person: `added` a UTC time."""

    id: int
    state: PersonState
    n_photos: int
    added: str


@dataclass(frozen=True, slots=True)
class StoredPhoto:
    """One photo of a person: all but its vector and crop. `actor` is who enrolled it."""

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
    """A person before and after a change; None where there is nobody. The id of a person who is new is 0 or below."""

    id: int
    before: PersonState | None
    after: PersonState | None


class PhotoChange(NamedTuple):
    """Whose photo it was and whose it is after a change; None for a removed one, 0 or below for a new person."""

    id: int
    before: int | None
    after: int | None


@dataclass(frozen=True, slots=True)
class Change:
    """One change that is whole or not at all: `kind` one word, `text` a line for people."""

    kind: str
    text: str
    people: tuple[PersonChange, ...] = ()
    photos: tuple[PhotoChange, ...] = ()

    def inverse(self) -> Change:
        """The change that takes this one back.

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
    """One line of the log: `at` a UTC time, `actor` who did it; `change` is None where it cannot be undone any more."""

    id: int
    at: str
    actor: str
    kind: str
    text: str
    change: Change | None
    undone: bool = False


class Conflict(GalleryError):
    """Somebody else changed the same people or photos first: read them again and try again."""


class NoSuchCollection(GalleryError):
    """The store has no collection of that name; `collections` are those it has.

    `removed` is the name of one that was open, and that somebody has removed since.
    """

    def __init__(self, message: str, collections: Sequence[str], removed: str = "") -> None:
        super().__init__(message)
        self.collections = list(collections)
        self.removed = removed


class StoredVectors(NamedTuple):
    """The P people of a store and their N embeddings.

    `names` (P), `owners` (N,) indices into them, `embeddings` (N,D), `qualities` (N,), NaN where unknown.
    """

    names: list[str]
    owners: npt.NDArray[np.int64]
    embeddings: npt.NDArray[np.float32]
    qualities: npt.NDArray[np.float32]


class Store(Protocol):
    """The people of one collection. Safe to share between threads and processes; every change is whole or not at all.

    `name` is what errors call the store. What a method returned from is kept: it is there after a crash. All methods raise
    `GalleryError` where the store cannot be read or written.
    """

    @property
    def name(self) -> str:
        """The file or address."""

    @property
    def collection(self) -> str:
        """The collection that is open."""

    def close(self) -> None:
        """Close the store; nothing is pending."""

    def version(self) -> int:
        """A number that changes whenever this or another process has changed the people."""

    def collections(self) -> list[str]:
        """The names of all collections of the store."""

    def setting(self, key: str) -> Any:
        """A stored setting (JSON), or None."""

    def set_once(self, key: str, value: Any) -> Any:
        """Store a setting unless it has a value; returns the value that holds."""

    def set(self, key: str, value: Any) -> None:
        """Store a setting in place of what it was."""

    def count(self, *, photos: bool = False) -> int:
        """How many people there are, or how many `photos` they have together."""

    def people(self, *, after: str = "", limit: int | None = None) -> list[StoredPerson]:
        """People by name (in the order of its code points), those after the name `after` and at most `limit`."""

    def get(self, ids: Sequence[int]) -> list[StoredPerson]:
        """The people with these ids who are there, in the order of `ids`."""

    def find(self, name: str) -> StoredPerson | None:
        """The person of that name."""

    def find_external(self, external_id: str) -> StoredPerson | None:
        """The person whom another system calls so."""

    def find_digest(self, digest: str) -> list[int]:
        """The ids of the people who have a photo with that digest."""

    def photos(self, person: int) -> list[StoredPhoto]:
        """The photos of the person with that id, in the order they were added."""

    def embeddings(self, photos: Sequence[int]) -> npt.NDArray[np.float32]:
        """The vectors (n,D) of photos, removed ones included; `GalleryError` for an id that is not there."""

    def crop(self, photo: int) -> bytes | None:
        """The encoded crop of a photo, where it was kept."""

    def add(self, name: str, entry: Entry, person: int | None = None) -> bool:
        """Store one embedding under a name, a new one makes a person; False when the person has that digest already.

        With `person`, the id of who has the name, or 0 for nobody: `Conflict` where that is not so any more.
        """

    def apply(self, change: Change, *, undoes: int | None = None) -> int:
        """Do a change and log it; returns its number in the log.

        `Conflict` where what is there is not what the change expects before, where a person would share a name or an
        external id with another one, where nobody would own a photo that is not removed, or where a person would have no photos.
        With `undoes`, the number of
        the change that this one takes back, that one is marked as undone; `Conflict` where it was already.
        """

    def log(self, limit: int = 20) -> list[LogEntry]:
        """The last changes, the latest first."""

    def erase(self, people: Sequence[int] | None = None, *, before: float | None = None) -> int:
        """Erase removed photos and people for good, from the disk too; returns how many photos there were.

        Of the people with these ids, or of all; with `before`, a time in seconds since 1970 (UTC), what was removed before it.
        In the log a random name stands for each of them then, with who enrolled and removed them and when.
        """

    def drop(self) -> None:
        """Erase the collection itself: everybody, removed ones too, settings and log; from the disk too.

        Whoever has it open gets `NoSuchCollection` from then on.
        """

    def nearest(self, probes: npt.NDArray[np.float32], k: int) -> Nearest:
        """The k most similar people of each probe (N,D)."""

    def vectors(self, dimension: int) -> StoredVectors:
        """Everything that is compared, embeddings of another dimension being damage."""
