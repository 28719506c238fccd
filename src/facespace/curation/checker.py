"""Finds problems of a dataset of faces: damaged files, copies, wrong labels, people who are also in an evaluation set.

`check` reads one or two datasets and calls the other functions, which work on arrays only. Images are compared with centres
in blocks and only the best match is kept, so memory grows linearly with the number of images.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.curation.duplicates import Copy, copies_between, duplicates, group
from facespace.curation.images import Images, Progress, read_crops, read_photos
from facespace.detection.protocol import Detector
from facespace.embedding import calibration
from facespace.embedding.embedder import Embedder
from facespace.errors import DatasetError
from facespace.faces.crops import read_record
from facespace.io.text import plain_text
from facespace.metrics.unit_vectors import to_unit_length

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]
_ROWS = 1024  # images in one block of similarities to all centres
_CONCENTRATION_STEPS = 10

_FAR_SIGMAS = 3.0
_STRANGER_SIGMAS = 2.326  # deviations above the mean: one stranger in a hundred is more similar
_CLEARLY_SIGMAS = 2.0
SHARED_RATE = 0.01  # the share of identities that may wrongly be called shared


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """How well N images fit their labels, with P identities.

    `own` (N,) is an image's similarity to the centre of the other images of its identity; NaN if there are none.
    `other` (N,) and `nearest` (N,) are the similarity and the label of the nearest centre of another person; both are
    −1 if no other person has one. `far` and `closer` (N,) tell for which of two reasons a label is suspicious. `centres` (P,D)
    are unit vectors, or zero for an identity without images; `counts` (P,) is the number of pictures that each centre
    averages. `same_people` lists (identity, identity, similarity) for identities with similar centres. `wrong_labels`
    defines the reasons, and `median` m, `spread` σ, `stranger_mean` μ and `stranger_spread` τ.
    """

    own: Floats
    other: Floats
    nearest: Ints
    far: npt.NDArray[np.bool_]
    closer: npt.NDArray[np.bool_]
    centres: Floats
    counts: Ints
    same_people: list[tuple[int, int, float]]
    median: float
    spread: float
    stranger_mean: float
    stranger_spread: float

    @property
    def wrong(self) -> npt.NDArray[np.bool_]:
        """Which labels are likely wrong, (N,)."""
        return self.far | self.closer

    @property
    def far_below(self) -> float:
        """The own similarity below which a label is likely wrong."""
        return _far_below(self.median, self.spread, self.stranger_mean, self.stranger_spread)


@dataclass(frozen=True, slots=True)
class Shared:
    """An identity (`first`) and an identity of another dataset (`second`) that may be one person.

    They match if the `similarity` of their centres is at least `threshold`, or half of `threshold` if their names are
    equal.
    """

    first: int
    second: int
    similarity: float
    threshold: float
    same_name: bool

    @property
    def is_match(self) -> bool:
        """Whether the two identities are considered one person."""
        return self.similarity >= self.threshold * (0.5 if self.same_name else 1)


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """The result of `check`.

    All indices refer to `images`, except `second` in `shared` and `first` in `shared_copies`, which refer to `evaluation`.
    `groups` (N,) gives each image a number; images of one identity with equal numbers are copies of one picture.
    """

    root: str
    model: str
    images: Images
    copies: list[Copy]
    groups: Ints
    labels: Labels
    min_images: int
    against: str | None
    evaluation: Images | None
    shared: list[Shared]
    shared_copies: list[Copy]


def check(
    root: str | os.PathLike[str],
    embedder: Embedder,
    *,
    detector: Detector | None = None,
    against: str | os.PathLike[str] | None = None,
    against_crops: bool = False,
    threshold: float | None = None,
    min_images: int = 2,
    progress: Progress = lambda items, _total, _what: iter(items),
) -> Findings:
    """Check the class folders of `root`, and compare them with those of `against`, an evaluation set.

    The images of `root` are crops. Those of `against` are crops if the folder contains a record of crops or if
    `against_crops` is set; else they are photos, whose central face is found by `detector` or the default detector.
    Identities of both folders are taken for one person by `threshold`, by default by the model's calibration.
    `progress(items, total, what)` iterates over `items`. Raises `DatasetError` if a folder cannot be checked, and
    `ModelError` if `against` is given but neither `threshold` nor a calibration.
    """
    if against is not None and threshold is None and embedder.calibration is None:
        raise calibration.missing(embedder.name)
    images = read_crops(root, embedder, progress=progress)
    if not images.paths:
        raise DatasetError(f"{plain_text(os.fspath(root))}: none of its images could be read")
    copies = duplicates(images.embeddings, images.thumbnails, images.labels, images.digests)
    groups = group(
        len(images.paths), [copy for copy in copies if images.labels[copy.first] == images.labels[copy.second]]
    )
    labels = wrong_labels(images.embeddings, images.labels, len(images.names), groups=groups)
    evaluation, shared, shared_copies = None, [], []
    if against is not None:
        is_crops = against_crops or read_record(Path(against)) is not None
        if is_crops:
            evaluation = read_crops(against, embedder, progress=progress)
        else:
            evaluation = read_photos(against, embedder, detector=detector, progress=progress)
        theirs = wrong_labels(evaluation.embeddings, evaluation.labels, len(evaluation.names))
        thresholds = _thresholds(embedder.calibration, threshold, labels.counts, theirs.counts)
        shared = shared_people(labels.centres, theirs.centres, thresholds, names=(images.names, evaluation.names))
        shared_copies = copies_between(_pictures(images), _pictures(evaluation))
    return Findings(
        root=os.fspath(root), model=embedder.name, images=images, copies=copies, groups=groups, labels=labels,
        min_images=min_images, against=None if against is None else os.fspath(against), evaluation=evaluation,
        shared=shared, shared_copies=shared_copies,
    )  # fmt: skip


def wrong_labels(embeddings: Floats, labels: Ints, n_identities: int, *, groups: Ints | None = None) -> Labels:
    """Find which of N images have a wrong label, from unit vectors (N,D) and labels (N,) in 0..P−1.

    The centre c of an identity is the direction of a mean of its images. The mean is robust: at first it averages the
    half of the images that is closest together (concentration steps, Rousseeuw & Van Driessen 1999), then also all
    images whose own similarity is at least m − 3σ (see below). Images of one identity with equal `groups` (N,) are
    copies; only the first of them counts. An image's own similarity is that to the centre of its identity, computed
    without the image and its copies. A mean of few images is a noisy direction. With k images in the mean, the
    similarity is therefore corrected to

        s(x, c) = x·c √((1 + (k−1)ρ) / (kρ)),

    the value for a centre of very many images. Here ρ is the typical similarity of two images of a person: the median,
    over the images in the means, of an image's mean similarity to the others in its mean. Let m be the median of the
    own similarities and σ = 1.4826 · median(s − m | s ≥ m) their spread, from the upper half only, because wrong labels
    are in the lower half. Let μ and τ be the mean and standard deviation of the images' similarities to other people's
    centres. The label of x, with own similarity s and largest similarity t to another person's centre, is likely wrong
    if x is

        far:     s < min(m − 3σ, μ + 2.326τ)    less similar than the person's images, and no more than strangers
        closer:  t ≥ m − 3σ and t − s > 2σ       as similar as images of the other person, and clearly more than to its own

    Two identities are the same person if the cosine of their centres is at least m. The only image of an identity has
    no own similarity and is never suspicious. Raises `ValueError` if the shapes do not fit together.

    >>> directions = np.eye(3, dtype=np.float32)[[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]]
    >>> wrong_labels(directions, np.array([0, 0, 0, 0, 1, 1, 1, 0, 2, 2, 2, 2]), 3).wrong.nonzero()[0].tolist()
    [7]
    """
    n = len(embeddings)
    groups = np.arange(n) if groups is None else groups
    if embeddings.ndim != 2 or labels.shape != (n,) or groups.shape != (n,):
        raise ValueError(
            f"embeddings, labels and groups must be (N,D), (N,) and (N,), got {embeddings.shape}, {labels.shape} and "
            f"{groups.shape}"
        )
    if n and not (labels.min() >= 0 and labels.max() < n_identities):
        raise ValueError(f"labels must be in 0..{n_identities - 1}, got {labels.min()}..{labels.max()}")
    people = _people(labels, groups, n_identities)
    core = np.zeros(n, np.bool_)
    for members in people:
        core[members[_majority(embeddings[members])]] = True
    own, rho = _own(embeddings, people, groups, core)
    median, spread = _robust(own[_first(groups)])
    if np.isfinite(median):
        usual = core | (own >= median - _FAR_SIGMAS * spread)
        for members in people:  # the images of the core always stay, even if they are not a real majority
            core[members] = usual[members]
        own, rho = _own(embeddings, people, groups, core)
        median, spread = _robust(own[_first(groups)])
    centres, counts = _centres(embeddings, people, core)
    corrections = np.where(counts > 0, _correction(np.maximum(counts, 1), rho), 0)
    same_people = list(_same_people(centres, median))
    other, nearest, mean, deviation = _others(embeddings, labels, centres, counts, corrections, same_people)
    own, other = np.minimum(own, 1), np.minimum(other, 1)
    far = own < _far_below(median, spread, mean, deviation)
    closer = (other >= median - _FAR_SIGMAS * spread) & (other - own > _CLEARLY_SIGMAS * spread)
    return Labels(
        own, other, nearest, far, closer, centres, counts, same_people, float(median), float(spread), mean, deviation
    )


def _far_below(median: float, spread: float, stranger_mean: float, stranger_spread: float) -> float:
    return min(median - _FAR_SIGMAS * spread, stranger_mean + _STRANGER_SIGMAS * stranger_spread)


def _people(labels: Ints, groups: Ints, n_identities: int) -> list[Ints]:
    """Return the indices of each identity's images; of several copies of one picture, only the first is included."""
    first = np.flatnonzero(_first(groups))
    order = first[np.argsort(labels[first], kind="stable")]
    return np.split(order, np.searchsorted(labels[order], np.arange(1, n_identities)))


def _first(groups: Ints) -> npt.NDArray[np.bool_]:
    return np.asarray(groups == np.arange(len(groups)), np.bool_)


def _majority(vectors: Floats) -> npt.NDArray[np.bool_]:
    """Return which of n vectors are the n // 2 + 1 that are closest together."""
    n, half = len(vectors), len(vectors) // 2 + 1
    chosen = np.ones(n, np.bool_)
    for _ in range(_CONCENTRATION_STEPS if n > 2 else 0):
        similarity = vectors @ vectors[chosen].sum(axis=0)
        again = np.zeros(n, np.bool_)
        again[np.argsort(-similarity, kind="stable")[:half]] = True
        if (again == chosen).all():
            break
        chosen = again
    return chosen


def _own(
    embeddings: Floats, people: list[Ints], groups: Ints, core: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], float]:
    """Return each image's own similarity (N,), corrected as in `wrong_labels`, and ρ.

    It is the similarity to the centre of the identity's other `core` images; NaN if there are none.
    """
    own = np.full(len(embeddings), np.nan)
    behind = np.zeros(len(embeddings), np.int64)
    pairwise = np.full(len(embeddings), np.nan)
    for members in people:
        vectors, inside = embeddings[members].astype(np.float64), core[members]
        rest = vectors[inside].sum(axis=0) - vectors * inside[:, None]
        k = inside.sum() - inside
        dot, length = (vectors * rest).sum(axis=1), np.linalg.norm(rest, axis=1)
        alone = (k == 0) | (length < 1e-9)
        own[members] = np.where(alone, np.nan, dot / np.where(alone, 1, length))
        pairwise[members] = np.where(alone | ~inside, np.nan, dot / np.maximum(k, 1))
        behind[members] = k
    rho = float(np.nanmedian(pairwise)) if np.isfinite(pairwise).any() else 1.0
    rho = min(max(rho, 0.05), 1.0)
    own *= _correction(np.maximum(behind, 1), rho)
    return own[groups], rho  # a copy gets the value of the first image of its picture


def _correction(k: Ints, rho: float) -> npt.NDArray[np.float64]:
    result: npt.NDArray[np.float64] = np.sqrt((1 + (k - 1) * rho) / (k * rho))
    return result


def _robust(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return m and σ of `wrong_labels` for the finite values; σ is at least 1e-4. If no value is finite, return NaN."""
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    median = float(np.median(values))
    return median, max(
        1.4826 * float(np.median(values[values >= median] - median)), 1e-4
    )  # at least the size of rounding errors


def _centres(embeddings: Floats, people: list[Ints], core: npt.NDArray[np.bool_]) -> tuple[Floats, Ints]:
    centres = np.zeros((len(people), embeddings.shape[1]), np.float32)
    counts = np.zeros(len(people), np.int64)
    for label, members in enumerate(people):
        inside = members[core[members]]
        total = embeddings[inside].sum(axis=0)
        centres[label] = to_unit_length(total)
        counts[label] = len(inside)
    return centres, counts


def _same_people(centres: Floats, at_least: float) -> Iterator[tuple[int, int, float]]:
    for top in range(0, len(centres), _ROWS):
        block = centres[top : top + _ROWS] @ centres.T
        for i, j in zip(*np.nonzero(block >= at_least), strict=True):
            if top + i < j:
                yield int(top + i), int(j), float(block[i, j])


def _others(
    embeddings: Floats, labels: Ints, centres: Floats, counts: Ints, corrections: npt.NDArray[np.float64],
    same_people: list[tuple[int, int, float]],
) -> tuple[npt.NDArray[np.float64], Ints, float, float]:  # fmt: skip
    """Return each image's similarity (N,) to the nearest centre of another person, and the label (N,) of that centre.

    Also return the mean and the standard deviation of all images' similarities to all centres of other people.
    """
    same: dict[int, list[int]] = {}
    for one, two, _ in same_people:
        same.setdefault(one, []).append(two)
        same.setdefault(two, []).append(one)
    weighted = centres * corrections[:, None].astype(np.float32)
    other, nearest = np.full(len(embeddings), -1.0), np.full(len(embeddings), -1)
    n, total, squares = 0, 0.0, 0.0
    for top in range(0, len(embeddings), _ROWS):
        block = np.asarray(embeddings[top : top + _ROWS] @ weighted.T, np.float64)
        rows = np.arange(len(block))
        block[:, counts == 0] = np.nan
        for row, label in enumerate(labels[top : top + _ROWS]):
            block[row, [label, *same.get(int(label), [])]] = np.nan
        known = block[np.isfinite(block)]
        n, total, squares = n + len(known), total + known.sum(), squares + (known**2).sum()
        block[np.isnan(block)] = -2
        best = block.argmax(axis=1)
        found = block[rows, best] > -2
        other[top + rows[found]] = block[rows, best][found]
        nearest[top + rows[found]] = best[found]
    mean = total / n if n else 0.0
    return other, nearest, float(mean), float(np.sqrt(max(squares / n - mean**2, 0))) if n else 0.0


def shared_people(
    centres: Floats,
    others: Floats,
    thresholds: tuple[Floats, Floats],
    *,
    names: tuple[Sequence[str], Sequence[str]] | None = None,
) -> list[Shared]:
    """Find which of P people, with `centres` (P,D), are among Q other people, with centres `others` (Q,D).

    Two people match if their similarity reaches the sum of the person's threshold `thresholds[0]` (P,) and the other's
    `thresholds[1]` (Q,), or 1 if the sum is larger. For each person, the match furthest above its threshold is listed.
    An identity without images has a zero centre, which never reaches a threshold above 0. People with equal `names` are
    always listed. Names are compared without regard to case and outer blanks; an underscore equals a blank.

    >>> shared_people(np.eye(2), np.eye(2)[1:], (np.full(2, 0.6), np.zeros(1)))
    [Shared(first=1, second=0, similarity=1.0, threshold=0.6, same_name=False)]
    """
    known: dict[str, list[int]] = {}
    if names is not None:
        for index, name in enumerate(names[1]):
            known.setdefault(_plain_name(name), []).append(index)
    found: list[Shared] = []
    for top in range(0, len(centres), _ROWS):
        block = centres[top : top + _ROWS] @ others.T
        needed = np.minimum(thresholds[0][top : top + _ROWS, None] + thresholds[1], 1.0)
        over = block - needed
        for row in range(len(block)):
            name = _plain_name(names[0][top + row]) if names else ""
            best = [int(over[row].argmax())] if len(others) else []
            for index in dict.fromkeys([*known.get(name, []), *(j for j in best if over[row, j] >= 0)]):
                similarity, threshold = float(block[row, index]), float(needed[row, index])
                found.append(Shared(top + row, index, similarity, threshold, index in known.get(name, [])))
    return found


def _plain_name(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().replace("_", " ").strip()


def _thresholds(
    measured: calibration.Calibration | None, given: float | None, counts: Ints, others: Ints
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the two `thresholds` of `shared_people`: an increment for each own identity, a threshold for each other.

    The calibration is for the similarity of one photo to an average. Two averages are more similar. The increment
    accounts for this; it depends on the number of images in the average of the own identity.
    """
    if given is not None or measured is None:
        return np.zeros(len(counts)), np.full(len(others), 1.0 if given is None else given)
    one = float(measured.identification_thresholds(SHARED_RATE, [1])[0])
    ours = [float(measured.identification_thresholds(SHARED_RATE, [int(count)])[0]) - one for count in counts]
    return np.array(ours), measured.identification_thresholds(SHARED_RATE, others.tolist())


def _pictures(images: Images) -> tuple[Floats, npt.NDArray[np.uint8], Sequence[bytes]]:
    return images.embeddings, images.thumbnails, images.digests
