"""What a similarity means: thresholds measured on strangers, for one set of weights.

A calibration is a small table shipped with facespace, made by `benchmarks/calibrate.py` from all pairs of photos of
different people in View 1 of Labeled Faces in the Wild. It gives the false match rate (FMR) of every similarity for
exactly what is compared: embeddings of photo and mirror image added, with `center`, their mean over many people,
subtracted.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.defaults import DEFAULT_FMR
from facespace.errors import ModelError
from facespace.faces.input_spec import InputSpec
from facespace.models.zoo import MODELS


@dataclass(frozen=True, slots=True)
class Calibration:
    """The table for one set of weights on one runtime and precision.

    `similarity[i]` is what a share `fmr[i]` of pairs of different people, one photo each, reaches or exceeds.
    `template_shift` lists (number of photos averaged, how much higher the same rate then lies). `center` is (D,).
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

    def match_threshold(self, fmr: float = DEFAULT_FMR) -> float:
        """The similarity which a share `fmr` of pairs of different people reaches.

        Between the table's points, and beyond its rarest, straight in log(fmr). `ValueError` outside (0, 0.5].
        """
        if not isinstance(fmr, numbers.Real):
            raise TypeError(f"a false match rate must be a number, got {type(fmr).__name__}")
        if not 0 < fmr <= 0.5:
            raise ValueError(f"a false match rate wants a number above 0 and up to 0.5; got {fmr}")
        # From the rarest to the most frequent, as interpolation wants it.
        x, y = [math.log(value) for value in self.fmr[::-1]], self.similarity[::-1]
        at = math.log(fmr)
        if at < x[0]:
            slope = (y[1] - y[0]) / (x[1] - x[0])
            return min(1.0, y[0] + slope * (at - x[0]))
        return float(np.interp(at, x, y))

    def identification_thresholds(self, rate: float, n_photos: Sequence[int]) -> npt.NDArray[np.float64]:
        """For each person of a gallery, with that many photos enrolled, the similarity a probe must reach.

        A stranger meets all P people. Each may falsely match with probability f so that 1 − (1 − f)^P = `rate`; an
        average of several photos reaches a similarity more easily than one photo, so its threshold lies higher.
        """
        if not isinstance(rate, numbers.Real):
            raise TypeError(f"a rate of strangers named must be a number, got {type(rate).__name__}")
        if not 0 < rate < 1:
            raise ValueError(f"a rate of strangers named wants a number between 0 and 1; got {rate}")
        if not len(n_photos):
            return np.empty(0)
        per_person = -math.expm1(math.log1p(-rate) / len(n_photos))
        base = self.match_threshold(min(per_person, 0.5))
        counts, shifts = zip(*self.template_shift, strict=True)
        shift = np.interp(np.log(np.maximum(n_photos, 1)), np.log(counts), shifts)
        thresholds: npt.NDArray[np.float64] = np.minimum(base + shift, 1.0)
        return thresholds


@functools.cache
def _tables() -> list[dict[str, Any]]:
    folder = importlib.resources.files("facespace.embedding") / "calibrations"
    return [json.loads(file.read_text()) for file in folder.iterdir() if file.name.endswith(".json")]


def find(fingerprint: str, *, runtime: str, precision: str, spec: InputSpec | None = None) -> Calibration | None:
    """The calibration of the weights with this SHA-256; None where nobody has measured one.

    A calibration holds for the crops of the published model only; another `spec` gives None.
    Of several measurements the one of the same precision counts, and of the same runtime where there is one.
    """
    for table in _tables():
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
            )
    return None


def missing(model: str) -> ModelError:
    """The error where a threshold is asked for that nobody has measured."""
    return ModelError(f"model {model}: no thresholds have been measured for these weights; give one with --threshold")
