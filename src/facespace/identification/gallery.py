"""The gallery: people are enrolled from photos, and faces in other photos are identified or reported as unknown."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import operator
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from types import TracebackType
from typing import Any, NamedTuple, Protocol, overload

import numpy as np
import numpy.typing as npt

from facespace.defaults import DEFAULT_RATE
from facespace.embedding import calibration
from facespace.embedding.compatibility import (
    Vectors,
    model_of,
    other_model,
    probes_of,
    qualities_of,
    represented,
)
from facespace.embedding.embedder import Embedder
from facespace.errors import GalleryError
from facespace.identification import edits, threshold_tuning
from facespace.identification.edits import PersonRef
from facespace.identification.matching import Match, matches, matches_of_photo
from facespace.identification.open_set import templates, thresholds_of_table
from facespace.identification.stores.changes import checked_metadata
from facespace.identification.stores.opening import open_store
from facespace.identification.stores.protocol import Entry, LogEntry, Store, StoredPerson, StoredPhoto
from facespace.identification.threshold_tuning import TunedThresholds
from facespace.io.png import encode_png
from facespace.io.text import clean_name, plain_text

_LARGEST_OFFSET = 1.001  # of a stored calibration: 1 up to rounding, see `Gallery.calibration`
# Similarities of strangers have a mean of 0 and a standard deviation of 0.09 with 128 numbers, less with 512, and the
# similarity to the most similar person is higher. Among thousands of strangers none was below this value, so no
# calibration can choose it.
_LOWEST_THRESHOLD = -0.3
_MAX_SOURCE = 1000  # characters of a photo's source that are kept


@dataclass(frozen=True, slots=True)
class Person:
    """An enrolled person with `n_photos` different photos; `added` is a UTC time.

    `external_id` identifies the person in another system, and `metadata` is a small JSON object.
    """

    name: str
    n_photos: int
    added: str
    external_id: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


class FaceWithEmbedding(Protocol):
    """A face with its crop and its embedding, as `pipeline.analyzer.FaceAnalyzer` returns it."""

    @property
    def crop(self) -> npt.NDArray[np.uint8]:
        """The crop (S,S,3) that the model takes."""

    @property
    def embedding(self) -> npt.NDArray[np.float32]:
        """The embedding (D,) that `represent` computed from the crop."""


class Gallery:
    """Enrolled people in a file or another store.

    A person's photos become one template, the mean of their embeddings scaled to length 1. A probe (a face to identify)
    is compared with every template. With `templates="best"` (see `set_templates`) it is compared with every photo, and
    each person's most similar photo counts. The store records the weights and the `InputSpec` that made its vectors;
    opening it with another model raises `GalleryError`. Without an `embedder`, people can only be listed and edited.

    `store` is the path of an SQLite file, the address of a server (see `stores.opening`), or an open store; `close`
    closes any of them. With `create`, a missing file is created. A store contains several collections of people, each
    with its own model and thresholds; `collection` is the one to open.
    """

    def __init__(
        self,
        store: str | PathLike[str] | Store,
        embedder: Embedder | None = None,
        *,
        create: bool = False,
        collection: str = "default",
    ) -> None:
        if isinstance(store, (str, PathLike)):
            store = open_store(os.fspath(store), collection=collection, create=create)
        elif not hasattr(store, "nearest"):
            raise TypeError(f"store must be the path of a file, an address, or a store, got {type(store).__name__}")
        self._store: Store = store
        self._embedder = embedder
        self._claimed = False
        if create:
            self.erase_what_is_due()
        if embedder is not None:
            try:
                self._check_model(embedder, create)
            except BaseException:
                self._store.close()
                raise

    def _check_model(self, embedder: Embedder, create: bool) -> None:
        stored = self._store.set_once("embedder", model_of(embedder)) if create else self._store.setting("embedder")
        if stored is None:  # an empty gallery has no model yet
            return
        if reason := other_model(stored, embedder):
            raise GalleryError(f"{self._store.name}: {reason}, or enrol into a new gallery")
        self._claimed = True

    def __enter__(self) -> Gallery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the store; everything enrolled is already stored."""
        self._store.close()

    def __len__(self) -> int:
        return self._store.count()

    @property
    def model_name(self) -> str:
        """The name of the model that made the vectors; empty for a gallery without vectors."""
        stored = self._store.setting("embedder")
        name = stored.get("model") if isinstance(stored, dict) else None
        return name if isinstance(name, str) else ""

    @property
    def remarks(self) -> tuple[str, ...]:
        """Messages for the user about the store, such as that its format was changed."""
        return tuple(getattr(self._store, "remarks", ()))

    @property
    def store(self) -> Store:
        """The store that contains the people."""
        return self._store

    @property
    def embedder(self) -> Embedder:
        """The embedder that the gallery was opened with. Raises `GalleryError` if it was opened without one."""
        return self._model()

    def people(self, *, after: str = "", limit: int | None = None) -> list[Person]:
        """Return the enrolled people by name; `after` and `limit` select a page: at most `limit` people after that name."""
        return [_person(one) for one in self._store.people(after=after, limit=limit)]

    def person(self, name: PersonRef) -> Person:
        """Return the person with a name or an `edits.Seen`'s id; raise `UnknownPerson`, or `Stale` if changed since."""
        return _person(edits.person_called(self._store, name))

    def photos(self, name: PersonRef) -> list[StoredPhoto]:
        """Return the photos of a person in the order of enrolment; raise `UnknownPerson` if there is no such person."""
        return self._store.photos(edits.person_called(self._store, name).id)

    def templates(self, most: int | None = None) -> npt.NDArray[np.float32]:
        """Return the templates (P,D) in order of enrolment; with `most`, those of the first `most` people by name."""
        if most is not None:
            people = self._store.people(limit=most)
            photos = [[photo.id for photo in self._store.photos(one.id)] for one in people]
            owners = np.repeat(np.arange(len(people)), [len(some) for some in photos])
            vectors = self._store.embeddings([photo for some in photos for photo in some])
            return templates(owners, vectors.reshape(len(owners), self._model().dimension), len(people))
        return self._all_people().templates

    def enroll(self, name: str, crop: npt.NDArray[np.uint8] | FaceWithEmbedding, *, source: str = "") -> bool:
        """Add a crop (S,S,3) made by `align`, or an analysed face, to a person; the photo is on disk when this returns.

        Return False if exactly this crop was already enrolled under the name. `source` says where the crop came from.
        """
        if not isinstance(crop, np.ndarray):
            if not hasattr(crop, "embedding"):
                raise TypeError(
                    f"crop must be a crop (S,S,3) or an analysed face, got {type(crop).__name__}; FaceAnalyzer.enroll takes "
                    "a whole photo"
                )
            return self.add(name, crop.embedding, crop.crop, source=source, quality=getattr(crop, "quality", None))
        return self.add(name, self._model().represent(crop[None])[0], crop, source=source)

    def add(
        self,
        name: str,
        embedding: npt.NDArray[np.float32],
        crop: npt.NDArray[np.uint8],
        *,
        source: str = "",
        quality: float | None = None,
        metadata: dict[str, Any] | None = None,
        keep_crop: bool = False,
        person: int | None = None,
    ) -> bool:
        """Enroll a crop with its embedding from `represent`; see `enroll`.

        `quality` is the quality of the face from 0 to 1; by default the quality stored with the embedding. `metadata` is
        a small JSON object to keep with the photo. `keep_crop` stores the crop too, so that another model can embed it.
        `person` is the id of the person the caller expects to have the name, or 0 for a new one; raise `Conflict` if that
        has changed.
        """
        embedder = self._model()
        if quality is None and (known := qualities_of([embedding])) is not None:
            quality = float(known[0])
        if quality is not None and not 0 <= quality <= 1:
            raise ValueError(f"quality must be between 0 and 1, got {quality}")
        embedding = represented(embedding, model_of(embedder))
        length = float(np.linalg.norm(embedding))
        if embedding.shape != (embedder.dimension,) or not abs(length - 1) < 1e-3:
            expected = f"{embedder.dimension} numbers of length 1"
            raise ValueError(f"an embedding must be {expected}, got an array {embedding.shape} of length {length:.3g}")
        name = clean_name(name)
        if not self._claimed:
            self._check_model(embedder, create=True)
        digest = crop_digest(crop)
        made_by = f"{embedder.runtime} {embedder.precision}"
        picture = encode_png(crop) if keep_crop else None
        what = checked_metadata(metadata or {})
        return self._store.add(
            name, Entry(embedding, digest, plain_text(source)[:_MAX_SOURCE], made_by, quality, what, picture), person
        )

    # Changes; each can be undone. People are given by name, or by id as `edits.Seen`.

    def rename(self, old: PersonRef, new: str) -> None:
        """Give a person another name; raise `UnknownPerson` if there is no such person, `GalleryError` if `new` is taken."""
        edits.rename(self._store, old, new)

    def remove(self, name: PersonRef) -> int:
        """Remove a person, which can be undone until they are erased; return how many photos they had."""
        return edits.remove(self._store, name).n_photos

    def remove_photos(self, name: PersonRef, numbers: Sequence[int]) -> None:
        """Remove the photos with these ids (`StoredPhoto.id`); a person without photos is removed too."""
        edits.remove_photos(self._store, name, numbers)

    def reject(self, name: PersonRef, numbers: Sequence[int], to: str | None = None) -> None:
        """Reject photos that do not show the person: remove them, or move them to the person `to`.

        The same crops are never enrolled for the first person again, unless the change is undone.
        """
        if to is None:
            edits.remove_photos(self._store, name, numbers, reject=True)
        else:
            edits.move(self._store, name, numbers, to, reject=True)

    def merge(self, names: Sequence[PersonRef], into: PersonRef) -> int:
        """Move all photos of some people to the person `into`; return how many were moved."""
        return edits.merge(self._store, names, into).n_photos

    def split(self, name: PersonRef, numbers: Sequence[int], to: str) -> None:
        """Move the photos with these ids to another person, who may be new."""
        edits.move(self._store, name, numbers, to)

    def edit(
        self,
        name: PersonRef,
        *,
        external_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        templates: str | None = None,
    ) -> None:
        """Change a person's fields; a field that is None stays. `templates` is as in `set_templates`, "" for the default."""
        edits.edit(self._store, name, external_id=external_id, metadata=metadata, templates=templates)

    def set_templates(self, templates: str) -> None:
        """Compare with the `mean` of a person's photos, or with the `best` of them; `edit` can override it per person."""
        self._store.set("templates", edits.checked_templates(templates) or "mean")

    def log(self, limit: int = 20) -> list[LogEntry]:
        """Return the last changes, latest first."""
        return self._store.log(limit)

    def undo(self, number: int | None = None) -> LogEntry:
        """Undo the last change, or the one with that number in the log; raise `GalleryError` if it cannot be undone."""
        return edits.undo(self._store, number)

    def erase(self, *, before: float | None = None) -> int:
        """Erase removed people and photos permanently, also from the disk; return how many photos were erased.

        With `before`, in seconds since 1970 (UTC), erase only what was removed earlier. `set_retention` automates this.
        """
        return self._store.erase(before=before)

    def set_retention(self, days: float | None) -> None:
        """Set after how many days removed people and photos are erased; with None they are not erased automatically.

        They are erased whenever the gallery is opened for changes. A program that keeps a gallery open for long must
        call `erase_what_is_due` regularly, as `facespace serve` does.
        """
        if days is not None and not 0 <= days < 36_500:
            raise ValueError(f"a retention must be from 0 to 36,500 days, got {days}")
        self._store.set("retention_days", days)

    def erase_what_is_due(self, now: float | None = None) -> int:
        """Erase what was removed longer ago than `set_retention` allows; return how many photos were erased."""
        days = self._store.setting("retention_days")
        if not isinstance(days, (int, float)) or not 0 <= days < 36_500:
            return 0
        return self._store.erase(before=(time.time() if now is None else now) - days * 86_400)

    @overload
    def identify(
        self,
        embeddings: Vectors,
        *,
        rate: float | None = None,
        threshold: float | None = None,
        top: None = None,
        one_photo: bool = False,
    ) -> list[Match]: ...

    @overload
    def identify(
        self, embeddings: Vectors, *, rate: float | None = None, threshold: float | None = None, top: int
    ) -> list[list[Match]]: ...

    def identify(
        self,
        embeddings: Vectors,
        *,
        rate: float | None = None,
        threshold: float | None = None,
        top: int | None = None,
        one_photo: bool = False,
    ) -> list[Match] | list[list[Match]]:
        """Return the best match of each probe (N,D), or unknown; `Embedder.represent` makes the embeddings.

        With `top`, return the matches with the `top` most similar people of each probe, best first; a match has a name
        only if it reaches that person's threshold. Embeddings may be an array or a list of (D,).

        `rate` is the share of strangers' faces that may be given a name, regardless of how many people are enrolled; the
        default is the rate that `calibrate` stored, or 0.01. `threshold` sets the required similarity instead. Poor faces
        need a higher similarity; the embeddings carry the quality. Raise `ModelError` if the model has no
        calibration, `calibrate` has stored none, and no threshold is given.

        With `one_photo` the probes are the faces of one photo, and each person is named at most once: the names are
        assigned so that the sum of their similarities is largest.
        """
        if top is not None and operator.index(top) < 1:
            raise ValueError(f"top must be at least 1, got {top}")
        if top is not None and one_photo:
            raise ValueError("top and one_photo exclude each other")
        probes, qualities = self._probes(embeddings), qualities_of(embeddings)
        # A face may lose its best person to another face and get one of the next: N faces of a photo need N people each.
        n_best = max(1, len(probes)) if one_photo else top or 1
        found = self._store.nearest(probes, n_best)
        if threshold is None:
            of_probes = None if qualities is None else np.asarray(qualities, np.float64)[:, None]
            # A stranger who is compared with every photo can be confused with each of them.
            n_compared = self._store.count(photos=self._store.setting("templates") == "best")
            thresholds = self._thresholds(n_compared, rate, found.n_photos, found.qualities, of_probes)
        else:
            thresholds = np.full(found.people.shape, float(threshold))
        kept = sorted({int(one) for one in found.people.ravel() if one >= 0})
        names = {one.id: one.state.name for one in self._store.get(kept)}
        no_match = Match(None, None, 1.0 if threshold is None else threshold)
        if one_photo:
            return matches_of_photo(found, thresholds, names, no_match)
        several = matches(found, thresholds, names, no_match)
        return several if top is not None else [best[0] for best in several]

    def _probes(self, embeddings: Vectors) -> npt.NDArray[np.float32]:
        """Return the probes as (N,D); raise `ValueError` if they cannot be compared with the gallery's vectors."""
        embedder = self._model()
        return probes_of(embeddings, embedder.dimension, model_of(embedder))

    def thresholds(self, rate: float | None = None) -> npt.NDArray[np.float64]:
        """Return the threshold of each person for a face of unknown quality, in the order the people were added."""
        people = self._all_people()
        return self._thresholds(len(people.names), rate, people.n_photos, people.qualities)

    def thresholds_for(
        self,
        n_photos: npt.ArrayLike,
        qualities: npt.ArrayLike = calibration.UNKNOWN_QUALITY,
        probe_qualities: npt.ArrayLike = calibration.UNKNOWN_QUALITY,
        *,
        among: int | None = None,
        rate: float | None = None,
    ) -> npt.NDArray[np.float64]:
        """Return the thresholds for people with `n_photos` enrolled photos of mean quality `qualities`.

        `among` is the number of people a face is compared with, by default all enrolled people; 1 is for verifying that
        a face is one particular person's.
        """
        n_people = len(self) if among is None else among
        shape = np.broadcast_shapes(*(np.shape(given) for given in (n_photos, qualities, probe_qualities)))
        counts = np.broadcast_to(np.asarray(n_photos), shape)
        return self._thresholds(n_people, rate, counts, np.asarray(qualities), np.asarray(probe_qualities))

    def check_thresholds(self, rate: float | None = None) -> None:
        """Raise the error that `identify` would raise about its thresholds: `ModelError`, `ValueError` or `GalleryError`."""
        self._thresholds(1, rate, np.ones(1), np.ones(1))

    def _thresholds(
        self,
        n_people: int,
        rate: float | None,
        n_photos: npt.NDArray[Any],
        qualities: npt.NDArray[Any],
        probe_qualities: npt.NDArray[Any] | None = None,
    ) -> npt.NDArray[np.float64]:
        """Return thresholds for people with `n_photos` photos of mean `qualities`, in a gallery of `n_people`."""
        embedder = self._model()
        offset = 0.0
        if rate is None:
            stored = self.calibration()
            rate, offset = (stored.rate, stored.offset) if stored else (DEFAULT_RATE, 0.0)
            if stored and embedder.calibration is None:
                return self._checked(np.full(np.shape(n_photos), min(offset, 1.0)))
        if embedder.calibration is None:
            raise calibration.missing(embedder.name)
        probes = calibration.UNKNOWN_QUALITY if probe_qualities is None else probe_qualities
        measured = embedder.calibration.thresholds_among(rate, n_people, n_photos, qualities, probes)
        thresholds = np.minimum(measured + offset, 1.0)
        return self._checked(thresholds) if offset else thresholds

    def _checked(self, thresholds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return a stored calibration's thresholds unchanged; raise `GalleryError` if every stranger would reach them."""
        if thresholds.size and thresholds.max() < _LOWEST_THRESHOLD:
            raise GalleryError(
                f"{self._store.name}: its calibration was altered (every stranger reaches the threshold"
                f" {thresholds.max():.3g}); run calibrate again"
            )
        return thresholds

    def calibrate(self, probes: Vectors, names: Sequence[str], *, rate: float) -> TunedThresholds:
        """Choose and store the thresholds on labelled photos: see `threshold_tuning.calibrate`."""
        probes = self._probes(probes)
        if self._store.setting("templates") == "best":
            raise GalleryError(
                f"{self._store.name}: templates must be 'mean' to calibrate, got 'best'; set them to 'mean' first"
            )
        people, table = self._all_people(), self._model().calibration
        result = threshold_tuning.calibrate(
            probes, names, people.templates, people.names,
            thresholds_of_table(table, rate, people.n_photos.tolist(), qualities=people.qualities),
            enrolled=people.vectors, rate=rate, table=table is not None,
        )  # fmt: skip
        self._store.set("calibration", dataclasses.asdict(result))
        return result

    def calibration(self) -> TunedThresholds | None:
        """Return what `calibrate` stored, or None; raise `GalleryError` for values that it cannot have stored.

        The offset is a difference of similarities. For a model without a table of thresholds it is the similarity of a
        stranger, from -1 to 1. With a table it is a stranger's similarity to the nearest person minus a threshold from 0
        to 1, so it is at most 1, and at least -1 unless that person is less similar than by chance. An offset within
        these bounds may still lower the thresholds so far that every face is named; `identify` refuses such an offset.
        """
        stored = self._store.setting("calibration")
        if stored is None:
            return None
        try:
            result = TunedThresholds(float(stored["rate"]), float(stored["offset"]), dict(stored["evidence"]))
        except (KeyError, TypeError, ValueError, OverflowError):
            result = TunedThresholds(0.0, math.nan, {})
        if not (0 < result.rate < 1 and math.isfinite(result.offset)):
            raise GalleryError(f"{self._store.name}: damaged (its calibration is not valid); run calibrate again")
        if abs(result.offset) > _LARGEST_OFFSET:
            raise GalleryError(
                f"{self._store.name}: its calibration was altered (the offset must be from -1 to 1, got {result.offset:.4g});"
                " run calibrate again"
            )
        return result

    def _model(self) -> Embedder:
        if self._embedder is None:
            raise GalleryError(f"{self._store.name}: opened without a model; it can only be listed and edited")
        return self._embedder

    def _all_people(self) -> _People:
        names, owners, vectors, qualities = self._store.vectors(self._model().dimension)
        n_photos = np.bincount(owners, minlength=len(names))
        known = np.where(np.isnan(qualities), calibration.UNKNOWN_QUALITY, qualities)
        mean = np.bincount(owners, weights=known, minlength=len(names)) / np.maximum(n_photos, 1)
        return _People(names, n_photos, templates(owners, vectors, len(names)), mean, vectors)


class _People(NamedTuple):
    """All people (P) and all photos (N)."""

    names: list[str]
    n_photos: npt.NDArray[np.int64]
    templates: npt.NDArray[np.float32]
    qualities: npt.NDArray[np.float64]
    vectors: npt.NDArray[np.float32]


def crop_digest(crop: npt.NDArray[np.uint8]) -> str:
    """Return the digest that identifies a crop (S,S,3) in a store: the SHA-256 of its pixels, in hex."""
    return hashlib.sha256(np.ascontiguousarray(crop).tobytes()).hexdigest()


def _person(stored: StoredPerson) -> Person:
    state = stored.state
    return Person(state.name, stored.n_photos, stored.added, state.external_id, state.metadata)
