"""Groups unnamed faces by person, and suggests known people for them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from facespace.clustering.algorithms import cluster, handicaps_of, pair_threshold_for, threshold_for
from facespace.defaults import DEFAULT_RATE
from facespace.embedding.vectors import Embeddings
from facespace.errors import ModelError
from facespace.identification.gallery import Gallery
from facespace.identification.open_set import templates
from facespace.server.unknowns import Unknowns, photo_of

MAX_CLUSTERED = 5_000  # the number of newest faces that are clustered
_SUGGESTED = 3  # suggested people for one cluster
_ALONE = 1_000  # the number of newest faces outside clusters that are compared with known people


class Suggestion(NamedTuple):
    """A known person that a cluster may show: the similarity reaches the threshold for two photos of one person.

    `likeness` is "very likely" if the similarity would suffice for a name at a tenth of the gallery's rate of named
    strangers, "likely" if it would suffice at that rate, otherwise "possible".
    """

    person: dict[str, Any]
    similarity: float
    threshold: float
    likeness: str


class Cluster(NamedTuple):
    """Faces that seem to show one person, the newest first. `cover` is the best face, `id` is the id of the oldest face.

    A single face is a cluster of its own if it may show a known person.
    """

    id: str
    faces: list[str]
    cover: str
    suggestions: list[Suggestion]


class Clusters(NamedTuple):
    """All clusters, the largest first, and the faces that are in no cluster."""

    clusters: list[Cluster]
    loose: list[str]


class Grouping:
    """Computes the clusters of each collection, and keeps them until the collection changes."""

    def __init__(self, unknowns: Unknowns) -> None:
        self._unknowns = unknowns
        self._kept: dict[str, tuple[int, Clusters]] = {}
        self._lock = threading.Lock()

    def of(self, collection: str, gallery: Gallery) -> Clusters:
        """Return the clusters of a collection's unnamed faces. May take seconds."""
        with self._lock:
            self._unknowns.flush()
            version = gallery.store.version()
            held = self._unknowns.gallery(collection)
            if held is not None:  # in some stores each collection has its own version
                version = version * 1_000_003 + held.store.version()
            kept = self._kept.get(collection)
            if kept is None or kept[0] != version:
                kept = self._kept[collection] = version, grouped(self._unknowns, collection, gallery)
            return kept[1]


def grouped(unknowns: Unknowns, collection: str, gallery: Gallery) -> Clusters:
    """Return clusters of the newest unnamed faces of a collection, with suggestions."""
    everything = unknowns.everything(collection, MAX_CLUSTERED)
    if everything is None:
        return Clusters([], [])
    ids, vectors = everything
    calibration = gallery.embedder.calibration
    if calibration is None:  # without thresholds, similar faces cannot be recognised
        return Clusters([], ids)
    assert vectors.quality is not None
    _, photos = np.unique([photo_of(one) for one in ids], return_inverse=True)
    labels = cluster(
        vectors.view(np.ndarray), threshold=threshold_for(calibration, len(ids)),
        pair_threshold=pair_threshold_for(calibration, len(ids)), photos=photos.reshape(-1),
        handicaps=handicaps_of(calibration, vectors.quality),
    )  # fmt: skip
    counts = np.bincount(labels)
    n_clusters = int(np.count_nonzero(counts > 1))  # the largest clusters have the smallest numbers
    inside = labels < n_clusters
    means = templates(labels[inside], np.asarray(vectors[inside]), n_clusters)
    qualities = np.bincount(labels[inside], weights=vectors.quality[inside], minlength=n_clusters) / counts[:n_clusters]
    probes = Embeddings(
        means, made_by="represent", model=vectors.model, quality=np.clip(qualities, 0, 1).astype(np.float32)
    )
    suggested = suggestions(gallery, probes) if n_clusters else []
    clusters = []
    for n in range(n_clusters):
        rows = np.flatnonzero(labels == n)
        faces = [ids[row] for row in rows]
        best = int(rows[vectors.quality[rows].argmax()])
        clusters.append(Cluster(faces[-1], faces, ids[best], suggested[n]))
    alone = np.flatnonzero(~inside)
    for row, found in zip(alone.tolist(), suggestions(gallery, vectors[alone[:_ALONE]]), strict=False):
        if found:
            clusters.append(Cluster(ids[row], [ids[row]], ids[row], found))
    known = {one.cover for one in clusters}
    return Clusters(clusters, [ids[row] for row in alone.tolist() if ids[row] not in known])


def suggestions(gallery: Gallery, probes: Embeddings) -> list[list[Suggestion]]:
    """Return, for each probe (N,D), the known people that reach the threshold of a 1:1 comparison, best first."""
    if not len(gallery) or not len(probes):
        return [[] for _ in range(len(probes))]
    found = gallery.store.nearest(np.asarray(probes, np.float32).view(np.ndarray), _SUGGESTED)
    assert probes.quality is not None
    of = (found.n_photos, found.qualities, np.asarray(probes.quality, np.float64)[:, None])
    stored = gallery.calibration()
    rate = (DEFAULT_RATE if stored is None else stored.rate) / 10
    try:
        least, named = gallery.thresholds_for(*of, among=1), gallery.thresholds_for(*of)
        sure = gallery.thresholds_for(*of, rate=rate)
    except ModelError:
        return [[] for _ in range(len(probes))]
    people = {one.id: one for one in gallery.store.get(sorted({int(one) for one in found.people.ravel() if one >= 0}))}
    suggested = []
    for n in range(len(probes)):
        of_probe = []
        for k, number in enumerate(found.people[n].tolist()):
            similarity = float(found.similarities[n, k])
            if number in people and similarity >= least[n, k]:
                state = people[number].state
                person = {"id": str(number), "name": state.name, "external_id": state.external_id}
                likeness = _likeness(similarity, float(named[n, k]), float(sure[n, k]))
                of_probe.append(Suggestion(person, similarity, float(least[n, k]), likeness))
        suggested.append(of_probe)
    return suggested


def _likeness(similarity: float, named: float, sure: float) -> str:
    """Return a similarity in words.

    >>> [_likeness(similarity, 0.3, 0.5) for similarity in (0.25, 0.45, 0.6)]
    ['possible', 'likely', 'very likely']
    """
    if similarity >= sure:
        return "very likely"
    return "likely" if similarity >= named else "possible"


def like_each(gallery: Gallery, probes: Embeddings, most: int) -> Sequence[list[tuple[str, float, float]]]:
    """Return, for each probe (N,D), similar unnamed faces as (id, similarity, threshold), best first."""
    if not len(gallery) or not len(probes):
        return [[] for _ in range(len(probes))]
    found = gallery.store.nearest(np.asarray(probes, np.float32).view(np.ndarray), most)
    qualities = np.full(len(probes), 0.5) if probes.quality is None else np.asarray(probes.quality, np.float64)
    least = gallery.thresholds_for(found.n_photos, found.qualities, qualities[:, None], among=1)
    names = {
        one.id: one.state.name for one in gallery.store.get(sorted({int(k) for k in found.people.ravel() if k >= 0}))
    }
    return [
        [
            (names[number], float(found.similarities[n, k]), float(least[n, k]))
            for k, number in enumerate(found.people[n].tolist())
            if number in names and found.similarities[n, k] >= least[n, k]
        ]
        for n in range(len(probes))
    ]
