"""People: enrolled from photos, then recognised in others or called unknown."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from types import TracebackType
from typing import Protocol, overload

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
from facespace.identification import threshold_tuning
from facespace.identification.assignment import one_face_each
from facespace.identification.open_set import templates, thresholds_of_table
from facespace.identification.stores.protocol import Entry, Store
from facespace.identification.stores.sqlite import SQLiteStore
from facespace.identification.threshold_tuning import TunedThresholds
from facespace.io.text import clean_name, plain_text


@dataclass(frozen=True, slots=True)
class Match:
    """What `identify` says of one probe and one person: `name` is None for unknown.

    `similarity` (cosine) is that to the person `nearest`, whether or not it reaches `threshold`; both are None only when
    nobody is enrolled.
    """

    name: str | None
    similarity: float | None
    threshold: float
    nearest: str | None = None


@dataclass(frozen=True, slots=True)
class Person:
    """One enrolled person: `n_photos` different photos, `added` a UTC time."""

    name: str
    n_photos: int
    added: str


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What one version of the file holds, whole: threads that identify meanwhile keep the one they began with."""

    version: int
    names: list[str]
    n_photos: list[int]
    templates: npt.NDArray[np.float32]
    qualities: npt.NDArray[np.float64]


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
    with every template. The file remembers which weights and which `InputSpec` made its vectors; opened with others
    it raises `GalleryError`. Without an `embedder` people can be listed, renamed and removed only.

    `store` is the path of an SQLite file, which `create` makes where it is missing, or a store that is open; `close`
    closes either.
    """

    def __init__(
        self, store: str | PathLike[str] | Store, embedder: Embedder | None = None, *, create: bool = False
    ) -> None:
        if isinstance(store, (str, PathLike)):
            store = SQLiteStore(os.fspath(store), create=create)
        elif not hasattr(store, "vectors"):
            raise TypeError(f"a gallery takes the path of its file, or a store; got {type(store).__name__}")
        self._store: Store = store
        self._embedder = embedder
        self._claimed = False
        self._snapshot: _Snapshot | None = None
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
        return len(self._store.people())

    @property
    def model_name(self) -> str:
        """The name of the model that made the vectors; empty in a gallery that has none yet."""
        held = self._store.setting("embedder")
        name = held.get("model") if isinstance(held, dict) else None
        return name if isinstance(name, str) else ""

    def people(self) -> list[Person]:
        """Everyone enrolled, by name."""
        return [Person(*row) for row in self._store.people()]

    def templates(self) -> npt.NDArray[np.float32]:
        """The mean embedding (P,D) of each person, of length 1, in the order they were added."""
        return self._current().templates

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
    ) -> bool:
        """`enroll` for a crop that `represent` has made an embedding of already.

        `quality` is that of the face, from 0 to 1; without it, what the embedding knows of its face.
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
        digest = hashlib.sha256(np.ascontiguousarray(crop).tobytes()).hexdigest()
        made_by = f"{embedder.runtime} {embedder.precision}"
        return self._store.add(name, Entry(embedding, digest, plain_text(source), made_by, quality))

    def rename(self, old: str, new: str) -> None:
        """Give a person another name; `UnknownPerson` if there is nobody, `GalleryError` if the name is taken."""
        self._store.rename(clean_name(old), clean_name(new))

    def remove(self, name: str) -> int:
        """Erase a person from the file, vectors included; returns how many photos were enrolled."""
        return self._store.remove(clean_name(name))

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
        probes = self._probes(embeddings)
        people = self._current()
        if threshold is None:
            thresholds = self._thresholds(people, rate, qualities_of(embeddings))
        else:
            thresholds = np.full(len(people.names), threshold)
        thresholds = np.broadcast_to(thresholds, (len(probes), len(people.names)))
        if not people.names:
            nobody = Match(None, None, 1.0 if threshold is None else threshold)
            return [nobody if top is None else [nobody] for _ in probes]  # type: ignore[return-value]

        similarity = probes @ people.templates.T

        def match(n: int, k: int, named: bool = True) -> Match:
            value, wanted, person = float(similarity[n, k]), float(thresholds[n, k]), people.names[k]
            return Match(person if named and value >= wanted else None, value, wanted, person)

        nearest = similarity.argmax(axis=1)
        if one_photo:
            given = one_face_each(similarity, thresholds)
            return [match(n, k if k >= 0 else nearest[n], k >= 0) for n, k in enumerate(given)]
        if top is None:
            return [match(n, k) for n, k in enumerate(nearest)]
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :top]
        return [[match(n, k) for k in best] for n, best in enumerate(order)]

    def _probes(self, embeddings: Vectors) -> npt.NDArray[np.float32]:
        """The probes as (N,D); `ValueError` for vectors that cannot be compared with the gallery's."""
        embedder = self._model()
        return probes_of(embeddings, embedder.dimension, model_of(embedder))

    def thresholds(self, rate: float | None = None) -> npt.NDArray[np.float64]:
        """The similarity a face of unknown quality must reach for each person, in the order they were added."""
        return self._thresholds(self._current(), rate)

    def _thresholds(
        self, people: _Snapshot, rate: float | None, probe_qualities: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float64]:
        """(P,), or (N,P) where the qualities of N probes are known."""
        embedder = self._model()
        offset = 0.0
        if rate is None:
            stored = self.calibration()
            rate, offset = (stored.rate, stored.offset) if stored else (DEFAULT_RATE, 0.0)
            if stored and embedder.calibration is None:
                return np.full(len(people.names), min(offset, 1.0))
        if embedder.calibration is None:
            raise calibration.missing(embedder.name)
        wanted = embedder.calibration.identification_thresholds(
            rate, people.n_photos, qualities=people.qualities, probe_qualities=probe_qualities
        )
        return np.minimum(wanted + offset, 1.0)

    def calibrate(self, probes: Vectors, names: Sequence[str], *, rate: float) -> TunedThresholds:
        """Choose and store the thresholds on labelled photos: see `threshold_tuning.calibrate`."""
        probes = self._probes(probes)
        people, table = self._current(), self._model().calibration
        enrolled = self._store.vectors(self._model().dimension).embeddings
        result = threshold_tuning.calibrate(
            probes, names, people.templates, people.names,
            thresholds_of_table(table, rate, people.n_photos, qualities=people.qualities),
            enrolled=enrolled, rate=rate, table=table is not None,
        )  # fmt: skip
        self._store.set("calibration", dataclasses.asdict(result))
        return result

    def calibration(self) -> TunedThresholds | None:
        """What `calibrate` stored, or None."""
        stored = self._store.setting("calibration")
        if stored is None:
            return None
        try:
            result = TunedThresholds(float(stored["rate"]), float(stored["offset"]), dict(stored["evidence"]))
        except (KeyError, TypeError, ValueError):
            result = TunedThresholds(0.0, math.nan, {})
        if not (0 < result.rate < 1 and math.isfinite(result.offset)):
            raise GalleryError(f"{self._store.name}: damaged (its calibration is no such thing); run calibrate again")
        return result

    def _model(self) -> Embedder:
        if self._embedder is None:
            raise GalleryError(f"{self._store.name}: opened without a model, it can only be listed and edited")
        return self._embedder

    def _current(self) -> _Snapshot:
        """The people as the file holds them; made anew if any process has changed it since."""
        snapshot, version = self._snapshot, self._store.version()
        if snapshot is None or snapshot.version != version:
            names, owners, vectors, qualities = self._store.vectors(self._model().dimension)
            n_photos = np.bincount(owners, minlength=len(names))
            known = np.where(np.isnan(qualities), calibration.UNKNOWN_QUALITY, qualities)
            mean = np.bincount(owners, weights=known, minlength=len(names)) / np.maximum(n_photos, 1)
            snapshot = _Snapshot(version, names, n_photos.tolist(), templates(owners, vectors, len(names)), mean)
            self._snapshot = snapshot
        return snapshot
