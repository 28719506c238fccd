"""Strangers and known people compared with a gallery of a million: real faces, and a gallery filled with simulated people.

Strangers are the people of half of LFW view 1 with one photo each, and those of the album. Known are people of the same half
with several photos (one is enrolled, up to four others are probes), and the album's known people (six photos are
enrolled). All other people in the gallery are simulated. Everything else is facespace's: representation, index, thresholds at the
default rate by quality of both faces. The same is measured with 1,000 people. Intervals (95 %) are bootstraps over people.

The simulation determines the result. People are normal vectors with the mean and the covariance of real ones, independent
of each other. These have too few look-alikes: the similarities that rare pairs reach are lower than those of real people.
So a probe's similarity to a simulated person is raised: the similarities reached by shares of 1e-2, 1e-3, 1e-4 and 1e-5 of pairs with
simulated people are mapped to those reached by the same shares of pairs of all people of LFW, linearly between and beyond these points.
The fit is printed for each half and for the strangers of the album. The two halves of LFW differ by 0.01 at 1e-5, and a threshold at a
million by twice as much, so the shares at a million are no more certain than that. Rates below 1e-6 have not been measured anywhere,
and siblings are not simulated.

LFW contains a few people twice under two names, or a photo of another person: these pairs (found by eye, above a similarity
of 0.6 for sface) are left out, because they are not strangers to each other.

The threshold at a million is beyond the measured range. The last table gives the rate it needs, the lowest rate that
pairs of LFW can measure, and the predictions of two extrapolations where they can still be checked. "log" is a straight line in the
logarithm of the rate, "normal" one in its normal quantile, which facespace uses; both go through the same two points.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

import facespace
import lfw
from facespace.defaults import DEFAULT_MODEL, DEFAULT_RATE
from facespace.embedding.calibration import UNKNOWN_QUALITY
from facespace.identification.people_index import PeopleIndex, Rows
from speed import processor

SMALL, LARGE = 1_000, 1_000_000
ENROLLED = 6  # photos of each known person of the album
RATES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
FITTED = 4  # of these rates
N_BEST = 5  # people of whom one may be more similar once drawn ones are raised
ONE_PERSON = (
    ("Andrew_Caldecott", "Andrew_Gilligan"), ("Abdullah_Gul", "Recep_Tayyip_Erdogan"), ("Choi_Sung-hong", "Sung_Hong_Choi"),
    ("Hasan_Wirayuda", "Hassan_Wirajuda"), ("Joseph_Blatter", "Sepp_Blatter"), ("Jason_Kapono", "Ray_Young"),
    ("Nan_Wang", "Wang_Nan"),
)  # fmt: skip
NORMAL = statistics.NormalDist()


class Faces(NamedTuple):
    vectors: np.ndarray  # (N,D) as `represent` makes them
    people: np.ndarray  # (N,) names
    quality: np.ndarray  # (N,)
    photos: np.ndarray  # (N,) names

    def of(self, chosen: np.ndarray) -> Faces:
        return Faces(*(values[chosen] for values in self))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def real_faces(shared: Path, model: str, cache: Path | None) -> tuple[Faces, Faces, str]:
    """Those of LFW view 1 and of the album (names as "known/..." and "unknown/..."), and what computed them."""
    embedder = facespace.Embedder.load(model)
    told = f"{embedder.name}, {embedder.runtime} {embedder.precision}"
    kept = None if cache is None else cache / f"{model}.npz"
    if kept is not None and kept.exists():
        held = np.load(kept)
        return *(Faces(*(held[f"{name} {key}"] for key in Faces._fields)) for name in ("lfw", "album")), told  # type: ignore[return-value]
    detector = facespace.create_detector(embedder.detector)
    view = lfw.embed(shared, embedder, detector)
    assert embedder.calibration is not None
    portraits = Faces(unit(view.mirror - embedder.calibration.center), view.people, view.quality, view.names)
    root = shared / "data/album"
    paths = [path for path in sorted(root.rglob("*")) if path.is_file()]
    vectors, people, quality, photos = [], [], [], []
    for path, photo in zip(paths, facespace.process(map(str, paths), detector, embedder, largest=True), strict=True):
        if photo.faces:
            vectors.append(photo.embeddings[0])
            people.append(str(path.parent.relative_to(root)))
            quality.append(photo.faces[0].quality)
            photos.append(path.name)
    album = Faces(np.array(vectors), np.array(people), np.array(quality), np.array(photos))
    if kept is not None:
        both = (("lfw", portraits), ("album", album))
        np.savez(kept, **{f"{name} {key}": value for name, part in both for key, value in part._asdict().items()})
    return portraits, album, told


# People who are drawn


class Drawing:
    """Draws people with the mean and the covariance of some real ones (N,D)."""

    def __init__(self, real: np.ndarray) -> None:
        self._mean = real.mean(axis=0)
        values, axes = np.linalg.eigh(np.cov(real.T))
        self._root = (axes * np.sqrt(np.maximum(values, 1e-12))).T.astype(np.float32)

    def draw(self, n: int, seed: int) -> np.ndarray:
        x = np.random.default_rng(seed).standard_normal((n, len(self._mean)), np.float32) @ self._root
        return unit(x + self._mean).astype(np.float32)


class Raising:
    """Turns similarities to drawn people into those that as rare pairs of real people have."""

    def __init__(self, drawn: np.ndarray, real: np.ndarray) -> None:
        self._drawn, self._real = tail(drawn)[:FITTED], tail(real)[:FITTED]
        self.slope = float((self._real[-1] - self._real[-3]) / (self._drawn[-1] - self._drawn[-3]))

    def __call__(self, similarity: np.ndarray) -> np.ndarray:
        within = np.interp(similarity, [-1, 0, *self._drawn], [-1, 0, *self._real])
        return np.where(
            similarity > self._drawn[-1], self._real[-1] + self.slope * (similarity - self._drawn[-1]), within
        )


def tail(similarities: np.ndarray) -> np.ndarray:
    """The similarity that a share of each of RATES reaches."""
    flat = similarities.ravel()
    places = [len(flat) - 1 - int(rate * len(flat)) for rate in RATES]
    return np.partition(flat, places)[places]


def pairs_of(vectors: np.ndarray, people: np.ndarray) -> np.ndarray:
    """The similarities of all pairs of photos of different people."""
    code = np.unique(people, return_inverse=True)[1]
    return np.concatenate(
        [(vectors[n] @ vectors[n + 1 :].T)[code[n] != code[n + 1 :]] for n in range(len(vectors) - 1)]
    )


# Who is named


class Trial(NamedTuple):
    vectors: np.ndarray
    quality: np.ndarray
    person: np.ndarray  # (N,) names, over which intervals are made
    enrolled: np.ndarray  # (N,) id of the person in the gallery, or -1 for a stranger


def batches(enrolled: Rows, drawing: Drawing, qualities: np.ndarray, n_people: int) -> Iterator[Rows]:
    """The known people, and drawn ones with qualities of real faces until there are `n_people`."""
    yield enrolled
    at, rng = int(enrolled.ids[-1]) + 1, np.random.default_rng(5)
    while at < n_people:
        n = min(20_000, n_people - at)
        vectors = drawing.draw(n, 1000 + at).astype(np.float16)
        quality = rng.choice(qualities, n).astype(np.float32)
        yield Rows(np.arange(at, at + n), vectors, np.ones(n, np.int32), quality)
        at += n


def first_of_each(people: np.ndarray) -> np.ndarray:
    return np.unique(people, return_index=True)[1]


def trials_of(half: Faces, album: Faces) -> tuple[Rows, Trial]:
    """Who is enrolled, and the faces that are looked for."""
    names, counts = np.unique(half.people, return_counts=True)
    rows: list[tuple[np.ndarray, int, float]] = []
    parts: list[tuple[Faces, int]] = []
    for name in names[counts > 1]:
        photos = half.of(np.flatnonzero(half.people == name)[:5])
        rows.append((photos.vectors[0], 1, float(photos.quality[0])))
        parts.append((photos.of(np.arange(1, len(photos.people))), len(rows) - 1))
    parts.append((half.of(np.isin(half.people, names[counts == 1])), -1))
    for name in np.unique(album.people):
        photos = album.of(np.flatnonzero(album.people == name))
        if not name.startswith("known"):
            parts.append((photos, -1))
            continue
        mean = photos.vectors[:ENROLLED].mean(axis=0)
        rows.append((mean / np.linalg.norm(mean), ENROLLED, float(photos.quality[:ENROLLED].mean())))
        parts.append((photos.of(np.arange(ENROLLED, len(photos.people))), len(rows) - 1))
    vectors, n_photos, quality = zip(*rows, strict=True)
    enrolled = Rows(
        np.arange(len(rows)), np.array(vectors, np.float16), np.array(n_photos, np.int32), np.array(quality, np.float32)
    )
    trial = Trial(
        np.concatenate([part.vectors for part, _ in parts]), np.concatenate([part.quality for part, _ in parts]),
        np.concatenate([part.people for part, _ in parts]), np.concatenate([np.full(len(part.people), one) for part, one in parts]),
    )  # fmt: skip
    return enrolled, trial


def interval(hits: np.ndarray, person: np.ndarray) -> tuple[float, float, float]:
    """The share, and its interval over people."""
    _, codes = np.unique(person, return_inverse=True)
    right, all_of = np.bincount(codes, weights=hits), np.bincount(codes)
    draws = np.random.default_rng(0).integers(0, len(all_of), (2000, len(all_of)))
    shares = right[draws].sum(axis=1) / all_of[draws].sum(axis=1)
    return float(hits.mean()), *(float(value) for value in np.quantile(shares, (0.025, 0.975)))


def measure(model: str, shared: Path, cache: Path | None, n_large: int) -> None:
    portraits, album, told = real_faces(shared, model, cache)
    calibration = facespace.Embedder.load(model).calibration
    assert calibration is not None
    print(f"\n{told}")
    doubled = {name for pair in ONE_PERSON for name in pair[1:]}
    portraits = portraits.of(~np.isin(portraits.people, list(doubled)))
    names = np.unique(portraits.people)
    chosen = np.random.default_rng(0).permutation(len(names)) < len(names) // 2
    one_half = np.isin(portraits.people, names[chosen])
    fit, half = portraits.of(one_half), portraits.of(~one_half)
    alone = fit.vectors[first_of_each(fit.people)]
    drawing = Drawing(alone)
    sample = drawing.draw(20_000, 2)
    every_pair = pairs_of(portraits.vectors, portraits.people)
    raised = Raising(portraits.vectors @ sample.T, every_pair)
    enrolled, trial = trials_of(half, album)

    print(f"beyond the rarest rate fitted, what is drawn is stretched by {raised.slope:.3f}")
    strangers = trial.vectors[(trial.enrolled < 0) & np.char.startswith(trial.person.astype(str), "unknown")]
    print(f"{'similarity reached by a share of':<52}" + "".join(f"{rate:>9g}" for rate in RATES))
    lines = {
        "real strangers: LFW": every_pair,
        "the half of LFW that people are drawn like": pairs_of(fit.vectors, fit.people),
        "the half of LFW that is looked for": pairs_of(half.vectors, half.people),
        "that half with drawn people": raised(half.vectors @ sample.T),
        "the same, as drawn": half.vectors @ sample.T,
        "strangers of the album with LFW": strangers @ portraits.vectors[first_of_each(portraits.people)].T,
        "strangers of the album with drawn people": raised(strangers @ sample.T),
    }
    for what, values in lines.items():
        print(f"{what:<52}" + "".join(f"{value:>9.3f}" for value in tail(values)))

    of_album = np.char.find(trial.person.astype(str), "known/") >= 0
    stranger = trial.enrolled < 0
    shares: dict[tuple[str, int], float] = {}
    print(
        f"\n{'at the default rate of ' + format(DEFAULT_RATE, 'g'):<52}{'people':>10}{'share':>8}   95 %            threshold"
    )
    for n_people in (SMALL, n_large):
        index = PeopleIndex.build(trial.vectors.shape[1], batches(enrolled, drawing, half.quality, n_people))
        found = index.nearest(trial.vectors, N_BEST)
        similarities = np.where(found.people > enrolled.ids[-1], raised(found.similarities), found.similarities)
        best = (np.arange(len(similarities)), similarities.argmax(axis=1))
        thresholds = calibration.thresholds_among(
            DEFAULT_RATE, n_people, found.n_photos, found.qualities, trial.quality[:, None]
        )
        least = thresholds[best]
        named = similarities[best] >= least
        right = named & (found.people[best] == trial.enrolled)
        for what, hits, rows in (
            ("strangers named, LFW", named, stranger & ~of_album), ("strangers named, album", named, stranger & of_album),
            ("strangers named, all", named, stranger), ("known named right, LFW, one photo", right, ~stranger & ~of_album),
            ("known named right, album, six photos", right, ~stranger & of_album), ("known named right, all", right, ~stranger),
            ("known named wrong, all", named & ~right, ~stranger),
        ):  # fmt: skip
            share, low, high = interval(hits[rows], trial.person[rows])
            shares[what, n_people] = share
            print(
                f"{f'{what} ({len(np.unique(trial.person[rows])):,} people)':<52}{n_people:>10,}{share:>8.4f}   "
                f"[{low:.4f}, {high:.4f}]  {np.median(least[rows]):.3f}"
            )
        above = similarities[best] - least
        for share in (DEFAULT_RATE, 2 * DEFAULT_RATE):
            moved = np.quantile(above[stranger], 1 - share)
            would = ((above > moved) & (found.people[best] == trial.enrolled))[~stranger].mean()
            what = f"known named right, all, if {share:.0%} of these strangers were"
            print(f"{what:<52}{n_people:>10,}{would:>8.4f}   threshold moved by {moved:+.3f}")
    named = shares["strangers named, all", n_large]
    print(
        f"{'strangers named, all':<52}{named:>10.4f}   must be <= {2 * DEFAULT_RATE:g}{_missed(named <= 2 * DEFAULT_RATE)}"
    )
    for what in ("known named right, LFW, one photo", "known named right, album, six photos", "known named right, all"):
        left = shares[what, n_large] / shares[what, SMALL]
        print(f"{what + ', of their share at 1,000':<52}{left:>10.4f}   must be >= 0.9{_missed(left >= 0.9)}")

    print(
        f"\n{'how far the threshold is extrapolated':<44}{'rate':>10}{'similarity':>12}  (both faces of quality {UNKNOWN_QUALITY})"
    )
    rarest = calibration.fmr[-1]
    each = -math.expm1(math.log1p(-DEFAULT_RATE) / n_large)
    for what, rate in (("rarest rate of the table", rarest), (f"each of {n_large:,} people, of the promise", each)):
        print(f"{what:<44}{rate:>10.1e}{calibration.random_threshold(rate, UNKNOWN_QUALITY):>12.3f}")
    check_lines(every_pair)


def check_lines(pairs: np.ndarray) -> None:
    """What both ways of going on from a rate and a hundred times of it foretell of rarer rates that are measured too."""
    print(f"\n{'foretold from':<20}{'at':>8}{'measured':>10}{'normal':>10}{'log':>10}   ({len(pairs):,} pairs)")
    at = dict(zip(RATES, tail(pairs), strict=True))
    for last, rare in ((1e-4, 1e-5), (1e-4, 1e-6), (1e-5, 1e-6)):
        before = last * 100 if last * 100 in at else min(at, key=lambda rate: abs(math.log(rate / last / 100)))
        step = at[last] - at[before]
        z = {rate: -NORMAL.inv_cdf(rate) for rate in (before, last, rare)}
        normal = at[last] + step * (z[rare] - z[last]) / (z[last] - z[before])
        log = at[last] + step * math.log(rare / last) / math.log(last / before)
        print(f"{f'{before:g} and {last:g}':<20}{rare:>8g}{at[rare]:>10.3f}{normal:>10.3f}{log:>10.3f}")


def _missed(good: bool) -> str:
    return "" if good else "   MISSED"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--model", nargs="+", default=[DEFAULT_MODEL])
    parser.add_argument("--people", type=int, default=LARGE)
    parser.add_argument("--cache", type=Path, help="folder in which embeddings of the photos are stored between runs")
    args = parser.parse_args()
    print(f"{processor()}; load {os.getloadavg()[0]:.1f} at the beginning")
    for model in args.model:
        measure(model, args.shared, args.cache, args.people)


if __name__ == "__main__":
    main()
