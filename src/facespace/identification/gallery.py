"""People: enrolled from photos, then recognised in others or called unknown."""

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
from facespace.identification.edits import Who
from facespace.identification.matching import Match, matches, matches_of_photo
from facespace.identification.open_set import templates, thresholds_of_table
from facespace.identification.stores.changes import checked_metadata
from facespace.identification.stores.opening import open_store
from facespace.identification.stores.protocol import Entry, LogEntry, Store, StoredPerson, StoredPhoto
from facespace.identification.threshold_tuning import TunedThresholds
from facespace.io.png import encode_png
from facespace.io.text import clean_name, plain_text

_LARGEST_OFFSET = 1.001  # of thresholds by calibration; 1 up to rounding, see `Gallery.calibration`
# Similarities of strangers scatter about 0 by 0.09 with 128 numbers and less with 512, and that to the most similar person
# lies higher: none of thousands lies below, so calibrating cannot give it at any rate.
_NAMES_EVERYBODY = -0.3
_MAX_SOURCE = 1000  # characters kept of where a photo came from


@dataclass(frozen=True, slots=True)
class Person:
    """One enrolled person: `n_photos` different photos, `added` a UTC time.

    `external_id` is what another system calls the person, `metadata` a small JSON object.
    """

    name: str
    n_photos: int
    added: str
    external_id: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


class FaceWithEmbedding(Protocol):
    """A face with its crop and its embedding, as `pipeline.analyzer.FaceAnalyzer` gives it."""

    @property
    def crop(self) -> npt.NDArray[np.uint8]:
        """The crop (S,S,3) that the model takes."""

    @property
    def embedding(self) -> npt.NDArray[np.float32]:
        """The embedding (D,) that `represent` made of it."""


class Gallery:
    """Enrolled people in one file, or in another store.

    A person's photos become one template, the mean of their embeddings scaled to length 1, and a probe is compared
    with every template; with `templates="best"` (see `set_templates`) with every photo, and the best counts. The store
    remembers which weights and which `InputSpec` made its vectors; opened with others it raises `GalleryError`. Without an
    `embedder` people can be listed and edited only.

    `store` is the path of an SQLite file, which `create` makes where it is missing, the address of a server (see
    `stores.opening`), or a store that is open; `close` closes any of them. A store holds several collections of people, each
    with its own model and thresholds; `collection` is the one that is opened.
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
            raise TypeError(f"a gallery takes the path of its file, an address, or a store; got {type(store).__name__}")
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
        wanted = model_of(embedder)
        held = self._store.set_once("embedder", wanted) if create else self._store.setting("embedder")
        if held is None:  # an empty gallery belongs to no model yet
            return
        if reason := other_model(held, embedder):
            raise GalleryError(f"{self._store.name}: {reason}, or enrol into a new gallery")
        self._claimed = True

    def __enter__(self) -> Gallery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was enrolled is in it already."""
        self._store.close()

    def __len__(self) -> int:
        return self._store.count()

    @property
    def model_name(self) -> str:
        """The name of the model that made the vectors; empty in a gallery that has none yet."""
        held = self._store.setting("embedder")
        name = held.get("model") if isinstance(held, dict) else None
        return name if isinstance(name, str) else ""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a user should know of the store, such as that its format was changed."""
        return tuple(getattr(self._store, "remarks", ()))

    @property
    def store(self) -> Store:
        """What keeps the people."""
        return self._store

    @property
    def embedder(self) -> Embedder:
        """The model it was opened with; `GalleryError` if it was opened without one."""
        return self._model()

    def people(self, *, after: str = "", limit: int | None = None) -> list[Person]:
        """Everyone enrolled, by name; with `after` and `limit` a page of them: those after that name, at most so many."""
        return [_person(one) for one in self._store.people(after=after, limit=limit)]

    def person(self, name: Who) -> Person:
        """One person; `UnknownPerson` if there is nobody of that name, or of the number in `edits.Seen`."""
        return _person(edits.person_called(self._store, name))

    def photos(self, name: Who) -> list[StoredPhoto]:
        """The photos of a person, in the order they were enrolled; `UnknownPerson` if there is nobody."""
        return self._store.photos(edits.person_called(self._store, name).id)

    def templates(self, most: int | None = None) -> npt.NDArray[np.float32]:
        """The mean embedding (P,D) of each person, of length 1, in the order they were added; of at most `most` people."""
        if most is not None:
            people = self._store.people(limit=most)
            photos = [[photo.id for photo in self._store.photos(one.id)] for one in people]
            owners = np.repeat(np.arange(len(people)), [len(some) for some in photos])
            vectors = self._store.embeddings([photo for some in photos for photo in some])
            return templates(owners, vectors.reshape(len(owners), self._model().dimension), len(people))
        return self._everybody().templates

    def enroll(self, name: str, crop: npt.NDArray[np.uint8] | FaceWithEmbedding, *, source: str = "") -> bool:
        """Add one crop (S,S,3) of a person, as `align` makes it, or an analysed face; on disk when this returns.

        Returns False when this very crop was enrolled under the name before. `source` says where it came from.
        """
        if not isinstance(crop, np.ndarray):
            if not hasattr(crop, "embedding"):
                raise TypeError(
                    f"enroll takes a crop (S,S,3) or an analysed face; got {type(crop).__name__} (FaceAnalyzer.enroll takes "
                    "a whole photo)"
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
        """`enroll` for a crop that `represent` has made an embedding of already.

        `quality` is that of the face, from 0 to 1; without it, what the embedding knows of its face. `metadata` is a small JSON
        object to keep of the photo. `keep_crop` keeps the crop too, so that another model can embed it. With `person`, the
        number of who has the name, or 0 for nobody, the photo goes to no other: `Conflict` where that is not so any more.
        """
        embedder = self._model()
        if quality is None and (known := qualities_of([embedding])) is not None:
            quality = float(known[0])
        if quality is not None and not 0 <= quality <= 1:
            raise ValueError(f"quality must be between 0 and 1, got {quality}")
        embedding = represented(embedding, model_of(embedder))
        length = float(np.linalg.norm(embedding))
        if embedding.shape != (embedder.dimension,) or not abs(length - 1) < 1e-3:
            wanted = f"{embedder.dimension} numbers of length 1"
            raise ValueError(f"an embedding wants {wanted}; got an array {embedding.shape} of length {length:.3g}")
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

    # Changes; each can be undone. People are given by name, or by number as `edits.Seen`.

    def rename(self, old: Who, new: str) -> None:
        """Give a person another name; `UnknownPerson` if there is nobody, `GalleryError` if the name is taken."""
        edits.rename(self._store, old, new)

    def remove(self, name: Who) -> int:
        """Remove a person, until it is undone or erased; returns how many photos were enrolled."""
        return edits.remove(self._store, name).n_photos

    def remove_photos(self, name: Who, numbers: Sequence[int]) -> None:
        """Remove the photos with these numbers (`StoredPhoto.id`), and the person with the last of them."""
        edits.remove_photos(self._store, name, numbers)

    def reject(self, name: Who, numbers: Sequence[int], to: str | None = None) -> None:
        """Say that these photos do not show the person: they go, or to another name, and never come back to this one."""
        if to is None:
            edits.remove_photos(self._store, name, numbers, reject=True)
        else:
            edits.move(self._store, name, numbers, to, reject=True)

    def merge(self, names: Sequence[Who], into: Who) -> int:
        """Give all photos of some people to the person `into`; returns how many moved."""
        return edits.merge(self._store, names, into).n_photos

    def split(self, name: Who, numbers: Sequence[int], to: str) -> None:
        """Give the photos with these numbers to another person, who may be new."""
        edits.move(self._store, name, numbers, to)

    def edit(
        self,
        name: Who,
        *,
        external_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        templates: str | None = None,
    ) -> None:
        """Change what is known of a person; what is None stays. `templates` are as in `set_templates`, or "" as there."""
        edits.edit(self._store, name, external_id=external_id, metadata=metadata, templates=templates)

    def set_templates(self, templates: str) -> None:
        """Compare with the `mean` of a person's photos, or with the `best` of them; a person may have their own."""
        self._store.set("templates", edits.checked_templates(templates) or "mean")

    def log(self, limit: int = 20) -> list[LogEntry]:
        """The last changes, the latest first."""
        return self._store.log(limit)

    def undo(self, number: int | None = None) -> LogEntry:
        """Take back the last change, or the one of that number in the log; `GalleryError` where it cannot be."""
        return edits.undo(self._store, number)

    def erase(self, *, before: float | None = None) -> int:
        """Erase what was removed for good, from the disk too; returns how many photos that were.

        With `before`, seconds since 1970 (UTC), what was removed before that time. `set_retention` does so by itself.
        """
        return self._store.erase(before=before)

    def set_retention(self, days: float | None) -> None:
        """Erase what was removed so many days ago whenever the gallery is opened to be changed; None: never by itself.

        Who keeps a gallery open for long calls `erase_what_is_due` now and then, as `facespace serve` does.
        """
        if days is not None and not 0 <= days < 36_500:
            raise ValueError(f"a retention must be from 0 to 36,500 days, got {days}")
        self._store.set("retention_days", days)

    def erase_what_is_due(self, now: float | None = None) -> int:
        """Erase what was removed longer ago than `set_retention` says; returns how many photos that were."""
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
        """The best match of each probe (N,D), or unknown; embeddings as `Embedder.represent` makes them.

        With `top`, the matches of each probe with the `top` most similar people, best first; each has a name only where
        it reaches that person's threshold. Embeddings may be an array, or a list of (D,).

        `rate` is the share of strangers that may be given a name, each face counted alone, however many people are
        enrolled; by default what `calibrate` stored, or 0.01. `threshold` sets the similarity to reach instead.
        `ModelError` where the model has no calibration, `calibrate` has stored none, and no threshold is given. Poor faces
        must reach more: the quality of each is what the embeddings know of it.

        With `one_photo` the probes are the faces of one photo, in which each person is named at most once: names are given
        so that their similarities are largest in all.
        """
        if top is not None and operator.index(top) < 1:
            raise ValueError(f"top must be at least 1, got {top}")
        if top is not None and one_photo:
            raise ValueError("top and one_photo exclude each other")
        probes, qualities = self._probes(embeddings), qualities_of(embeddings)
        # A face that cannot have its best person can have one of the next: of N faces of a photo each needs N.
        n_best = max(1, len(probes)) if one_photo else top or 1
        found = self._store.nearest(probes, n_best)
        if threshold is None:
            of_probes = None if qualities is None else np.asarray(qualities, np.float64)[:, None]
            # A stranger who is compared with every photo may be mistaken for each of them.
            n_compared = self._store.count(photos=self._store.setting("templates") == "best")
            thresholds = self._thresholds(n_compared, rate, found.n_photos, found.qualities, of_probes)
        else:
            thresholds = np.full(found.people.shape, float(threshold))
        kept = sorted({int(one) for one in found.people.ravel() if one >= 0})
        names = {one.id: one.state.name for one in self._store.get(kept)}
        nobody = Match(None, None, 1.0 if threshold is None else threshold)
        if one_photo:
            return matches_of_photo(found, thresholds, names, nobody)
        several = matches(found, thresholds, names, nobody)
        return several if top is not None else [best[0] for best in several]

    def _probes(self, embeddings: Vectors) -> npt.NDArray[np.float32]:
        """The probes as (N,D); `ValueError` for vectors that cannot be compared with the gallery's."""
        embedder = self._model()
        return probes_of(embeddings, embedder.dimension, model_of(embedder))

    def thresholds(self, rate: float | None = None) -> npt.NDArray[np.float64]:
        """The similarity a face of unknown quality must reach for each person, in the order they were added."""
        people = self._everybody()
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
        """The similarity to reach for people of whom so many photos of such mean quality are enrolled.

        `among` is how many people could be meant: everybody enrolled, unless it says 1 for the question whether a face is of
        one certain person.
        """
        n_people = len(self) if among is None else among
        shape = np.broadcast_shapes(*(np.shape(given) for given in (n_photos, qualities, probe_qualities)))
        counts = np.broadcast_to(np.asarray(n_photos), shape)
        return self._thresholds(n_people, rate, counts, np.asarray(qualities), np.asarray(probe_qualities))

    def check_thresholds(self, rate: float | None = None) -> None:
        """Raise now what `identify` would raise for want of thresholds: `ModelError`, `ValueError`, `GalleryError`."""
        self._thresholds(1, rate, np.ones(1), np.ones(1))

    def _thresholds(
        self,
        n_people: int,
        rate: float | None,
        n_photos: npt.NDArray[Any],
        qualities: npt.NDArray[Any],
        probe_qualities: npt.NDArray[Any] | None = None,
    ) -> npt.NDArray[np.float64]:
        """For people of whom so many photos of such quality are enrolled, among `n_people`."""
        embedder = self._model()
        offset = 0.0
        if rate is None:
            stored = self.calibration()
            rate, offset = (stored.rate, stored.offset) if stored else (DEFAULT_RATE, 0.0)
            if stored and embedder.calibration is None:
                return self._believed(np.full(np.shape(n_photos), min(offset, 1.0)))
        if embedder.calibration is None:
            raise calibration.missing(embedder.name)
        probes = calibration.UNKNOWN_QUALITY if probe_qualities is None else probe_qualities
        measured = embedder.calibration.thresholds_among(rate, n_people, n_photos, qualities, probes)
        thresholds = np.minimum(measured + offset, 1.0)
        return self._believed(thresholds) if offset else thresholds

    def _believed(self, thresholds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The thresholds by a stored calibration; `GalleryError` where they name everybody."""
        if thresholds.size and thresholds.max() < _NAMES_EVERYBODY:
            raise GalleryError(
                f"{self._store.name}: by its calibration a similarity of {thresholds.max():.3g} would be enough for a name, which"
                " every stranger reaches; somebody has changed it: run calibrate again"
            )
        return thresholds

    def calibrate(self, probes: Vectors, names: Sequence[str], *, rate: float) -> TunedThresholds:
        """Choose and store the thresholds on labelled photos: see `threshold_tuning.calibrate`."""
        probes = self._probes(probes)
        if self._store.setting("templates") == "best":
            raise GalleryError(
                f"{self._store.name}: thresholds can be chosen for templates 'mean' alone; it has 'best'"
            )
        people, table = self._everybody(), self._model().calibration
        result = threshold_tuning.calibrate(
            probes, names, people.templates, people.names,
            thresholds_of_table(table, rate, people.n_photos.tolist(), qualities=people.qualities),
            enrolled=people.vectors, rate=rate, table=table is not None,
        )  # fmt: skip
        self._store.set("calibration", dataclasses.asdict(result))
        return result

    def calibration(self) -> TunedThresholds | None:
        """What `calibrate` stored, or None; `GalleryError` for what it cannot have stored.

        An offset is a similarity less another one. Without a table of the model it is the similarity of a stranger itself,
        from -1 to 1. With one it is what a stranger's similarity to the nearest person exceeds a threshold of 0 to 1 by, so
        at most 1, and at least -1 unless that person is less alike than by chance. Offsets within these bounds may still
        lower thresholds so far that everybody is named: `identify` refuses them.
        """
        stored = self._store.setting("calibration")
        if stored is None:
            return None
        try:
            result = TunedThresholds(float(stored["rate"]), float(stored["offset"]), dict(stored["evidence"]))
        except (KeyError, TypeError, ValueError, OverflowError):
            result = TunedThresholds(0.0, math.nan, {})
        if not (0 < result.rate < 1 and math.isfinite(result.offset)):
            raise GalleryError(f"{self._store.name}: damaged (its calibration is no such thing); run calibrate again")
        if abs(result.offset) > _LARGEST_OFFSET:
            raise GalleryError(
                f"{self._store.name}: its calibration adds {result.offset:.4g} to every threshold, but calibrating gives -1 to 1;"
                " somebody has changed it: run calibrate again"
            )
        return result

    def _model(self) -> Embedder:
        if self._embedder is None:
            raise GalleryError(f"{self._store.name}: opened without a model, it can only be listed and edited")
        return self._embedder

    def _everybody(self) -> _People:
        names, owners, vectors, qualities = self._store.vectors(self._model().dimension)
        n_photos = np.bincount(owners, minlength=len(names))
        known = np.where(np.isnan(qualities), calibration.UNKNOWN_QUALITY, qualities)
        mean = np.bincount(owners, weights=known, minlength=len(names)) / np.maximum(n_photos, 1)
        return _People(names, n_photos, templates(owners, vectors, len(names)), mean, vectors)


class _People(NamedTuple):
    """Everybody (P) and all photos (N)."""

    names: list[str]
    n_photos: npt.NDArray[np.int64]
    templates: npt.NDArray[np.float32]
    qualities: npt.NDArray[np.float64]
    vectors: npt.NDArray[np.float32]


def crop_digest(crop: npt.NDArray[np.uint8]) -> str:
    """What a store knows a crop (S,S,3) by: the SHA-256 of its pixels, in hex."""
    return hashlib.sha256(np.ascontiguousarray(crop).tobytes()).hexdigest()


def _person(stored: StoredPerson) -> Person:
    state = stored.state
    return Person(state.name, stored.n_photos, stored.added, state.external_id, state.metadata)
