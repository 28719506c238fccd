"""What keeps a gallery's vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Entry:
    """One embedding to store: `embedding` (D,) of unit length, `digest` of the crop it was made from.

    `source` says where the photo came from, `made_by` the runtime and precision that computed the embedding, `quality`
    how good the face is, from 0 to 1, or None.
    """

    embedding: npt.NDArray[np.float32]
    digest: str
    source: str
    made_by: str
    quality: float | None = None


class StoredVectors(NamedTuple):
    """The P people of a store and their N embeddings.

    `names` (P), `owners` (N,) indices into them, `embeddings` (N,D), `qualities` (N,), NaN where unknown.
    """

    names: list[str]
    owners: npt.NDArray[np.int64]
    embeddings: npt.NDArray[np.float32]
    qualities: npt.NDArray[np.float32]


class Store(Protocol):
    """Embeddings by person's name, and settings. Safe to share between threads; every change is whole or not at all.

    `name` is what errors call the store. All methods raise `GalleryError` where the store cannot be read or written.
    """

    @property
    def name(self) -> str:
        """The file or address."""

    def close(self) -> None:
        """Close the store; nothing is pending."""

    def version(self) -> int:
        """A number that changes whenever this or another process has changed the store."""

    def setting(self, key: str) -> Any:
        """A stored setting (JSON), or None."""

    def set_once(self, key: str, value: Any) -> Any:
        """Store a setting unless it has a value; returns the value that holds."""

    def set(self, key: str, value: Any) -> None:
        """Store a setting in place of what it was."""

    def add(self, name: str, entry: Entry) -> bool:
        """Store one embedding under a name; False when this person has an embedding of that digest already."""

    def people(self) -> list[tuple[str, int, str]]:
        """(name, number of photos, UTC time added) of everyone, by name."""

    def rename(self, old: str, new: str) -> None:
        """Give a person another name; `UnknownPerson` if there is nobody, `GalleryError` if the name is taken."""

    def remove(self, name: str) -> int:
        """Erase a person and every embedding; returns how many embeddings there were. `UnknownPerson` if nobody."""

    def vectors(self, dimension: int) -> StoredVectors:
        """Everything that is compared, embeddings of another dimension being damage."""
