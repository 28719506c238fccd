"""Thresholds for similarities, measured on pairs of different people, for one set of weights.

A calibration is a small table shipped with facespace, made by `benchmarks/calibrate.py` from all pairs of photos of
different people in View 1 of Labeled Faces in the Wild. It gives the false match rate (FMR) of every similarity between
vectors of `Embedder.represent`: embeddings of photo and mirror image added, minus `center`, their mean over many
people. People within one photo resemble each other more than random people do, and poor faces resemble each other more
than good ones. If these effects were also measured, on group photos, the thresholds take them into account.
"""

from __future__ import annotations

import functools
import math
import numbers
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.defaults import DEFAULT_FMR, DEFAULT_RANDOM_FMR
from facespace.errors import ModelError
from facespace.faces.input_spec import InputSpec
from facespace.io.package_files import json_tables
from facespace.models.zoo import MODELS

_NORMAL = statistics.NormalDist()
UNKNOWN_QUALITY = 0.75  # assumed for faces of unknown quality: that of a sharp face of 45 px


@dataclass(frozen=True, slots=True)
class LookAlikes:
    """Similarities of different people within one photo, who may share age, sex, ethnicity, family, light and camera.

    `pairs` lists (false match rate, similarity) for comparing two faces. `people` lists (false match rate, similarity)
    for comparing a stranger with the one enrolled person who resembles the stranger. The similarities are those of
    faces of quality 1; `shift` returns how much higher they are for faces of lower quality. The rates are upper bounds
    from a bootstrap over the `n_photos` photos, which have equal weight; for `pairs`, a higher quantile is the bound.
    """

    pairs: tuple[tuple[float, float], ...]
    people: tuple[tuple[float, float], ...]
    slope: float
    n_photos: int
    n_faces: int

    def shift(self, quality: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return how much higher similarities are at a mean quality q of both faces than at 1: slope · (1 − q)."""
        shift: npt.NDArray[np.float64] = self.slope * (1 - np.asarray(quality, np.float64))
        return shift


@dataclass(frozen=True, slots=True)
class Calibration:
    """The false match rates at different similarities, for one set of weights on one runtime and precision.

    For pairs of photos of two random people, `fmr[i]` is the share of pairs with a similarity of at least
    `similarity[i]`. `template_shift` lists (number of averaged photos, how much higher the similarity is than for one
    photo at the same rate). `center` (D,) is the mean that `Embedder.represent` subtracts. With `look_alikes`, rates
    also apply to people who resemble each other and to faces of any quality; `similarity` is then that of faces of
    quality 1.
    """

    model: str
    fingerprint: str
    runtime: str
    precision: str
    fmr: tuple[float, ...]
    similarity: tuple[float, ...]
    template_shift: tuple[tuple[int, float], ...]
    center: npt.NDArray[np.float32]
    n_photos: int
    n_people: int
    look_alikes: LookAlikes | None = None

    @property
    def default_rate(self) -> float:
        """The default false match rate for comparing two photos."""
        return DEFAULT_RANDOM_FMR if self.look_alikes is None else DEFAULT_FMR

    @property
    def conditions(self) -> str:
        """A description of what the rates were measured on."""
        random = f"{self.n_photos} portraits of {self.n_people} people (LFW view 1)"
        if self.look_alikes is None:
            return f"random pairs of different people among {random}; not measured on small faces or group photos"
        return (
            f"pairs of different people within {self.look_alikes.n_photos} group photos ({self.look_alikes.n_faces} faces, "
            f"most of 12 to 120 px), and {random}"
        )

    def match_threshold(self, fmr: float, quality: float | None = None) -> float:
        """Return the similarity that a share `fmr` of pairs of different people reaches.

        With `look_alikes`, both people of a pair are in the same photo, and `quality` is the mean quality of both faces
        (`UNKNOWN_QUALITY` if None). Without, the pairs are random pairs of portraits, and `quality` is ignored. The
        similarity is interpolated linearly in log(fmr) between the measured points; below the lowest measured rate it
        is extrapolated linearly in the normal quantile of fmr. Raises `ValueError` for an `fmr` outside (0, 0.5].
        """
        if not isinstance(fmr, numbers.Real):
            raise TypeError(f"a false match rate must be a number, got {type(fmr).__name__}")
        if not 0 < fmr <= 0.5:
            raise ValueError(f"a false match rate must be above 0 and at most 0.5, got {fmr}")
        if self.look_alikes is None:
            return min(1.0, _at(float(fmr), self.fmr, self.similarity))
        base = _at(float(fmr), *zip(*self.look_alikes.pairs, strict=True))
        shift = self.look_alikes.shift(UNKNOWN_QUALITY if quality is None else quality)
        return min(1.0, base + float(shift))

    def random_threshold(self, fmr: float, quality: float | None = None) -> float:
        """Return the threshold that a share `fmr` of random pairs of different people reaches.

        The two people of a pair are not in the same photo. `quality` is that of `match_threshold`.
        """
        base = _at(float(fmr), self.fmr, self.similarity)
        if self.look_alikes is not None:
            base += float(self.look_alikes.shift(UNKNOWN_QUALITY if quality is None else quality))
        return min(1.0, base)

    def identification_thresholds(
        self,
        rate: float,
        n_photos: Sequence[int],
        *,
        qualities: npt.ArrayLike | None = None,
        probe_qualities: npt.ArrayLike | None = None,
    ) -> npt.NDArray[np.float64]:
        """Return a threshold for each of the P people of a gallery: the similarity that a probe must reach.

        `rate` is the share of strangers who reach the threshold of at least one person. A stranger is compared with all
        P people, so each person may falsely match with probability f, where 1 − (1 − f)^P = `rate`. `n_photos` (P,) is
        each person's number of photos. The average of several photos reaches a given similarity more easily than one
        photo, so its threshold is higher. With `look_alikes`, one of the P people is assumed to resemble the stranger
        as people within one photo do, and the thresholds depend on the `qualities` (P,) of the enrolled photos. The
        result is (P,), or (N,P) for `probe_qualities` (N,).
        """
        people: npt.ArrayLike = UNKNOWN_QUALITY if qualities is None else qualities
        if probe_qualities is None:
            return self.thresholds_among(rate, len(n_photos), n_photos, people)
        return self.thresholds_among(rate, len(n_photos), n_photos, people, np.asarray(probe_qualities)[:, None])

    def thresholds_among(
        self,
        rate: float,
        n_people: int,
        n_photos: npt.ArrayLike,
        qualities: npt.ArrayLike = UNKNOWN_QUALITY,
        probe_qualities: npt.ArrayLike = UNKNOWN_QUALITY,
    ) -> npt.NDArray[np.float64]:
        """Return the `identification_thresholds` of some people in a gallery of `n_people`.

        `n_photos`, `qualities` and `probe_qualities` are broadcast to the shape of the result. A large gallery needs
        false match rates below the lowest measured one: at the default `rate` of 0.01, from 1,000 people on. Below it,
        thresholds are extrapolated linearly in the normal quantile of the rate.
        """
        if not isinstance(rate, numbers.Real):
            raise TypeError(f"a rate of strangers named must be a number, got {type(rate).__name__}")
        if not 0 < rate < 1:
            raise ValueError(f"a rate of strangers named must be between 0 and 1, got {rate}")
        n_photos, people, probes = (np.asarray(given) for given in (n_photos, qualities, probe_qualities))
        shape = np.broadcast_shapes(n_photos.shape, people.shape, probes.shape)
        if not n_people or 0 in shape:
            return np.empty(shape)
        counts, shifts = zip(*self.template_shift, strict=True)
        shift = np.interp(np.log(np.maximum(n_photos, 1)), np.log(counts), shifts)
        if self.look_alikes is None:
            per_person = -math.expm1(math.log1p(-float(rate)) / n_people)
            thresholds: npt.NDArray[np.float64] = _at(min(per_person, 0.5), self.fmr, self.similarity) + shift
            return np.broadcast_to(np.minimum(thresholds, 1.0), shape)
        each, rows = np.unique(shift, return_inverse=True)
        table = (self.fmr, self.similarity, self.look_alikes.people)
        thresholds = np.array([_among_look_alikes(float(rate), n_people, float(one), *table) for one in each])
        thresholds = thresholds[rows].reshape(shift.shape)
        return np.broadcast_to(np.minimum(thresholds + self.look_alikes.shift((people + probes) / 2), 1.0), shape)


@functools.lru_cache(maxsize=256)  # a gallery repeats the call for each photo
def _among_look_alikes(
    rate: float,
    n_people: int,
    shift: float,
    rates: tuple[float, ...],
    similarities: tuple[float, ...],
    people: tuple[tuple[float, float], ...],
) -> float:
    """Return the similarity of faces of quality 1 that a share `rate` of strangers reach to at least one of `n_people`.

    One of these people resembles the stranger; `people` (see `LookAlikes`) gives this person's false match rates. The
    others are random people, and `rates` and `similarities` give theirs. Averaging several photos of a person raises
    the similarities by `shift`, which was measured for random people and is applied only to them.
    """
    alike = tuple(zip(*people, strict=True))
    low, high = -1.0, 2.0
    for _ in range(40):  # bisection: the share falls with the similarity
        middle = (low + high) / 2
        random = min(_rate_at(middle - shift, rates, similarities), 0.999)
        share = _rate_at(middle, *alike) - math.expm1((n_people - 1) * math.log1p(-random))
        low, high = (middle, high) if share > rate else (low, middle)
    return high


def _at(fmr: float, rates: Sequence[float], similarities: Sequence[float]) -> float:
    """Return the similarity at a false match rate, interpolated linearly in the logarithm of the rate.

    Below the lowest of the `rates`, it is extrapolated (see `_beyond`).
    """
    if fmr < rates[-1]:
        slope, last = _beyond(tuple(rates), tuple(similarities))
        return similarities[-1] + slope * (-_NORMAL.inv_cdf(fmr) - last)
    # np.interp needs ascending rates.
    return float(np.interp(math.log(fmr), [math.log(value) for value in rates[::-1]], similarities[::-1]))


def _rate_at(similarity: float, rates: Sequence[float], similarities: Sequence[float]) -> float:
    """Return the false match rate at a similarity; the inverse of `_at`."""
    if similarity > similarities[-1]:
        slope, last = _beyond(tuple(rates), tuple(similarities))
        return math.erfc((last + (similarity - similarities[-1]) / slope) / math.sqrt(2)) / 2
    return math.exp(float(np.interp(similarity, similarities, [math.log(value) for value in rates])))


@functools.lru_cache(maxsize=64)
def _beyond(rates: tuple[float, ...], similarities: tuple[float, ...]) -> tuple[float, float]:
    """Return the slope and the start of the line that extrapolates below the lowest measured rate.

    The slope is the increase of the similarity per standard deviation; the start is the lowest rate as a normal
    quantile. The similarities of different people have a roughly normal upper tail: plotted against the normal quantile
    of the rate they are nearly a straight line, against its logarithm they bend. The line goes through the point of the
    lowest rate and the nearest point of about a hundred times that rate or more, because the slope between two
    neighbouring points rests on few pairs (see `benchmarks/gallery_strangers.py`).
    """
    first = max((k for k, rate in enumerate(rates) if rate >= 99 * rates[-1]), default=0)
    last, before = -_NORMAL.inv_cdf(rates[-1]), -_NORMAL.inv_cdf(rates[first])
    return (similarities[-1] - similarities[first]) / (last - before), last


def find(fingerprint: str, *, runtime: str, precision: str, spec: InputSpec | None = None) -> Calibration | None:
    """Return the calibration of the weights whose SHA-256 is `fingerprint`, or None if it was not measured.

    A calibration applies only to crops of the published model's spec, so the result is None for another `spec`. If the
    weights were measured several times, a measurement with the same `precision` is preferred, then the same `runtime`.
    """
    for table in json_tables("facespace.embedding", "calibrations"):
        if table["fingerprint"] == fingerprint and (spec is None or spec == MODELS[table["model"]].spec):
            measured = max(
                table["measured"],
                key=lambda entry: (entry["precision"] == precision, entry["runtime"] == runtime),
            )
            return Calibration(
                model=table["model"],
                fingerprint=fingerprint,
                runtime=measured["runtime"],
                precision=measured["precision"],
                fmr=tuple(measured["fmr"]),
                similarity=tuple(measured["similarity"]),
                template_shift=tuple((int(n), float(shift)) for n, shift in measured["template_shift"]),
                center=np.array(table["center"], np.float32),
                n_photos=table["n_photos"],
                n_people=table["n_people"],
                look_alikes=_look_alikes(table.get("look_alikes")),
            )
    return None


def _look_alikes(table: dict[str, Any] | None) -> LookAlikes | None:
    if table is None:
        return None
    lists = {key: tuple((float(rate), float(at)) for rate, at in table[key]) for key in ("pairs", "people")}
    return LookAlikes(**{**table, **lists})


def missing(model: str) -> ModelError:
    """Return the error for a threshold of weights without measured thresholds."""
    return ModelError(f"model {model}: no thresholds have been measured for these weights; give one with --threshold")
