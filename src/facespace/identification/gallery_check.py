"""Finds likely mistakes in a gallery: damage, a photo under two names, two names for a person, photos of other people.

People are read some hundreds at a time, and each is searched for in the gallery. Memory use is therefore constant, and the
time is the number of people times the time of one search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from facespace.embedding.calibration import UNKNOWN_QUALITY
from facespace.embedding.compatibility import model_of
from facespace.embedding.embedder import Embedder
from facespace.embedding.vectors import Embeddings
from facespace.errors import GalleryError
from facespace.identification.gallery import Gallery
from facespace.identification.open_set import templates
from facespace.identification.stores.protocol import StoredPerson, StoredPhoto
from facespace.metrics.unit_vectors import to_unit_length

_READ = 10_000  # people whose names are read at once
_PAGE = 256  # people who are searched for at once
_N_VECTORS = 4096  # vectors that are read at once
_TOP = 4  # the matches of a person that are read: the person and three others

Kind = Literal["damage", "same photo", "alike", "unlike"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One likely mistake: `text` is a line for the user about these `people` (names) and `photos` (ids).

    For `alike` and `unlike`, `similarity` is the measured similarity and `threshold` the one it was compared with.
    """

    kind: Kind
    text: str
    people: tuple[str, ...] = ()
    photos: tuple[int, ...] = ()
    similarity: float | None = None
    threshold: float | None = None


def check_gallery(
    gallery: Gallery,
    embedder: Embedder | None,
    *,
    rate: float | None = None,
    threshold: float | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> Iterator[Finding]:
    """Yield likely mistakes as they are found; `progress` is called with the number of people done and the total.

    - `damage`: problems that the store reports, and data that cannot be read.
    - `same photo`: a crop that two people have.
    - `alike`: two people, one of whom would be identified as the other at `rate`, or at the similarity `threshold`.
    - `unlike`: a photo that would not be accepted as the person's when compared with the person's other photos. If a
      person has only two photos, either photo may be the wrong one.

    Without the `embedder` that the gallery is opened with, only `damage` and `same photo` are checked. Raise `ModelError`
    if the model has no thresholds and no threshold is given.
    """
    if embedder is not None and threshold is None:
        gallery.check_thresholds(rate)
    store = gallery.store
    for problem in getattr(store, "problems", list)():
        yield Finding("damage", f"{store.name}: {problem}")
    check = _Check(gallery, embedder, rate, threshold)
    after, done, total = "", 0, len(gallery)
    while people := store.people(after=after, limit=_READ):
        for start in range(0, len(people), _PAGE):
            page = people[start : start + _PAGE]
            yield from check.people(page)
            done += len(page)
            progress(done, max(done, total))
        after = people[-1].state.name


class _Check:
    """Compares people and photos, and remembers which pairs of people were already reported."""

    def __init__(
        self, gallery: Gallery, embedder: Embedder | None, rate: float | None, threshold: float | None
    ) -> None:
        self._gallery = gallery
        self._store = gallery.store
        self._embedder = embedder
        self._rate = rate
        self._threshold = threshold
        self._reported: set[tuple[str, ...]] = set()

    def people(self, page: Sequence[StoredPerson]) -> Iterator[Finding]:
        """Yield the findings about some people."""
        found: list[tuple[StoredPerson, npt.NDArray[np.float32], float]] = []
        for person in page:
            try:
                photos = self._store.photos(person.id)
                yield from self._same_photos(person, photos)
                if self._embedder is None or not photos:
                    continue
                vectors = self._vectors(photos)
                qualities = np.array([UNKNOWN_QUALITY if one.quality is None else one.quality for one in photos])
                yield from self._unlike(person, photos, vectors, qualities)
            except GalleryError as error:
                yield Finding("damage", str(error), (person.state.name,))
                continue
            (mean,) = templates(np.zeros(len(vectors), np.int64), vectors, 1)
            found.append((person, mean, float(qualities.mean())))
        try:
            yield from self._alike(found)
        except GalleryError as error:  # the gallery cannot be searched
            self._embedder = None
            yield Finding("damage", str(error))

    def _vectors(self, photos: Sequence[StoredPhoto]) -> npt.NDArray[np.float32]:
        ids = [photo.id for photo in photos]
        return np.concatenate([self._store.embeddings(ids[k : k + _N_VECTORS]) for k in range(0, len(ids), _N_VECTORS)])

    def _same_photos(self, person: StoredPerson, photos: Sequence[StoredPhoto]) -> Iterator[Finding]:
        for photo in photos:
            owners = self._store.find_digest(photo.digest)
            if len(owners) > 1 and person.id == min(owners):  # report it once
                others = [one.state.name for one in self._store.get(owners) if one.id != person.id]
                text = f"photo {photo.id} of {person.state.name} is also a photo of {' and of '.join(others)}"
                yield Finding("same photo", text, (person.state.name, *others), (photo.id,))

    def _unlike(
        self,
        person: StoredPerson,
        photos: Sequence[StoredPhoto],
        vectors: npt.NDArray[np.float32],
        qualities: npt.NDArray[np.float64],
    ) -> Iterator[Finding]:
        n = len(photos)
        if n < 2:
            return
        rest = to_unit_length(vectors.sum(axis=0, dtype=np.float64) - vectors)
        reached = np.einsum("nd,nd->n", rest, vectors)
        if self._threshold is None:
            of_rest = (qualities.sum() - qualities) / (n - 1)
            required = self._gallery.thresholds_for(n - 1, of_rest, qualities, among=1, rate=self._rate)
        else:
            required = np.full(n, self._threshold)
        name = person.state.name
        for k in np.flatnonzero(reached < required)[: 1 if n == 2 else None].tolist():
            figures = f"similarity {reached[k]:.3f}, threshold {required[k]:.3f}"
            values = (float(reached[k]), float(required[k]))
            if n == 2:
                both = (photos[0].id, photos[1].id)
                text = f"photos {both[0]} and {both[1]} of {name} are unlike each other ({figures})"
                yield Finding("unlike", text, (name,), both, *values)
                continue
            other = self._called(vectors[k], float(qualities[k]), name)
            text = f"photo {photos[k].id} of {name} is unlike the others ({figures})"
            names = (name, other) if other else (name,)
            yield Finding(
                "unlike", f"{text}; it looks like {other}" if other else text, names, (photos[k].id,), *values
            )

    def _called(self, vector: npt.NDArray[np.float32], quality: float, name: str) -> str:
        """Return the name, other than `name`, by which the gallery identifies a photo, or an empty string."""
        (matches,) = self._gallery.identify(
            self._probes([vector], [quality]), rate=self._rate, threshold=self._threshold, top=2
        )
        return next((one.name for one in matches if one.name not in (None, name)), None) or ""

    def _alike(self, people: Sequence[tuple[StoredPerson, npt.NDArray[np.float32], float]]) -> Iterator[Finding]:
        if not people:
            return
        probes = self._probes([mean for _, mean, _ in people], [quality for *_, quality in people])
        found = self._gallery.identify(probes, rate=self._rate, threshold=self._threshold, top=_TOP)
        for (person, *_), matches in zip(people, found, strict=True):
            name = person.state.name
            for match in matches:
                if match.name in (None, name) or match.similarity is None:
                    continue
                pair = tuple(sorted((name, str(match.name))))
                if pair not in self._reported:
                    self._reported.add(pair)
                    figures = f"similarity {match.similarity:.3f}, threshold {match.threshold:.3f}"
                    text = f"{pair[0]} and {pair[1]} are alike ({figures})"
                    yield Finding("alike", text, pair, (), match.similarity, match.threshold)

    def _probes(self, vectors: Sequence[npt.NDArray[np.float32]], qualities: Sequence[float]) -> Embeddings:
        assert self._embedder is not None
        return Embeddings(np.stack(vectors), made_by="represent", model=model_of(self._embedder), quality=qualities)
