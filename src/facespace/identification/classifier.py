"""Naming faces: a classifier over embeddings that says "unknown" of whom it has never seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from facespace.defaults import CLASSIFY_RATE
from facespace.embedding.calibration import Calibration
from facespace.embedding.compatibility import (
    Vectors,
    making_of,
    model_of,
    other_model,
    probes_of,
    represented,
    unit_vectors,
)
from facespace.embedding.embedder import Embedder
from facespace.identification import classifier_methods, held_out, threshold_tuning
from facespace.identification.assignment import keep_each_name_once
from facespace.identification.classifier_file import (
    DAMAGE,
    ClassifierRecord,
    damaged_classifier,
    read_classifier,
    write_classifier,
)
from facespace.identification.classifier_methods import MethodName
from facespace.identification.open_set import offset, templates, thresholds_of_table
from facespace.identification.threshold_tuning import TunedThresholds
from facespace.io.text import clean_name
from facespace.metrics.distances import Floats


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a classifier says of one face.

    `name` is None for unknown; `nearest` is whom the face is most likely among the known, whether or not it is any of
    them. `similarity` is the cosine to that person's template, `threshold` what it had to reach. `probability`, that
    the face is `nearest` where half of all faces are strangers', is None where too few photos were there to measure it.
    """

    name: str | None
    similarity: float
    threshold: float
    nearest: str
    probability: float | None


class Classifier:
    """A method that names, and a similarity to reach, fitted to embeddings as `Embedder.represent` makes them.

    `method`: `centroid` (the person whose mean embedding is nearest), `knn`, `logistic` or `svm`. Whatever the method,
    strangers are told by the cosine to the template of the person named, the mean of that person's embeddings: a
    share `rate` of them may be given a name. `closed_set` names everybody, as the programs of 2018 did.

    After `fit`: `names_` (the P people, sorted), `embeddings_` (N,D) and `owners_` (N,) of the training photos,
    `templates_` (P,D), `thresholds_` (P,) and `evidence_`, the rates measured with photos and people held out.
    `model_` says which model made the embeddings, where they know it.
    """

    def __init__(
        self, method: MethodName = "centroid", *, rate: float = CLASSIFY_RATE, closed_set: bool = False, seed: int = 0
    ) -> None:
        self.method = method
        self.rate = rate
        self.closed_set = closed_set
        self.seed = seed

    def fit(
        self,
        embeddings: Vectors,
        names: Sequence[str],
        *,
        calibration: Calibration | None = None,
        digests: Sequence[str] = (),
    ) -> Classifier:
        """Fit to embeddings (N,D) of length 1 and the name of each; `calibration` is the embedder's.

        `digests` (N,) may name the content of each photo, so that it is not computed again when people are added.
        `ValueError` for an unknown method, no photos, what is not of length 1, names that do not fit, and for one
        person alone where the model has no calibration: there is nobody to tell that person from.
        """
        if self.method not in classifier_methods.METHODS:
            raise ValueError(f"method wants {', '.join(classifier_methods.METHODS)}; got {self.method!r}")
        if calibration is not None and not hasattr(calibration, "identification_thresholds"):
            raise TypeError(f"calibration must be that of an embedder, got {type(calibration).__name__}")
        self.model_ = making_of(embeddings)
        vectors = unit_vectors(represented(embeddings))
        self.digests_ = tuple(digests) or ("",) * len(vectors)
        if len(names) != len(vectors):
            raise ValueError(f"each of {len(vectors)} embeddings wants a name; got {len(names)}")
        if not len(vectors):
            raise ValueError("a classifier wants photos to learn from; got none")
        people, owners = np.unique([clean_name(name) for name in names], return_inverse=True)
        if len(people) == 1 and calibration is None and not self.closed_set:
            raise ValueError(
                f"one person alone ({people[0]}), and no thresholds have been measured for this model: nothing tells how "
                "like a stranger may be; add people"
            )
        self.names_ = tuple(str(name) for name in people)
        self.embeddings_, self.owners_ = vectors, owners.astype(np.int64)
        self.namer_ = classifier_methods.fit(self.method, self.embeddings_, self.owners_, len(self.names_))
        trials = held_out.hold_out(
            self.method, self.embeddings_, self.owners_, len(self.names_),
            rate=self.rate, calibration=calibration, seed=self.seed,
        )  # fmt: skip
        table = calibration is not None
        chosen = offset(trials.stranger_margin, self.rate, table=table)
        wanted = thresholds_of_table(calibration, self.rate, np.bincount(self.owners_).tolist())
        self.probability_ = held_out.fit_probability(trials, chosen)
        # Above 1 where the held-out people are alike to the last digit: then nobody can be told from a stranger.
        self._set_people(wanted + chosen)
        self.evidence_: dict[str, Any] = {
            "n_people": len(self.names_),
            "n_photos": len(self.owners_),
            "rate": self.rate,
            "threshold_from": (
                "the model's table and people held out" if table and len(people) > 1
                else "the model's table" if table else "people held out"
            ),
            "offset": chosen,
            **held_out.rates(trials, chosen, self.rate, table=table, seed=self.seed),
            "reliability": held_out.reliability(trials, chosen, seed=self.seed),
        }  # fmt: skip
        return self

    def save(self, path: str | PathLike[str], embedder: Embedder | None = None) -> None:
        """Write the fitted classifier, whole or not at all, in a file of which reading runs nothing.

        The file remembers the model, which vectors of `Embedder.represent` know; where it was fitted to bare arrays,
        `embedder` says it. `ValueError` where nobody does, and where the two differ.
        """
        self._check_fitted()
        model = self.model_
        if embedder is not None:
            if model and other_model(model, embedder):
                raise ValueError(f"this classifier is of the model {model.get('model')!r}, the embedder of another")
            model = model_of(embedder)
        if not model:
            raise ValueError("fitted to bare arrays, it does not know its model: save(path, embedder)")
        record = ClassifierRecord(
            method=self.method,
            rate=self.rate,
            closed_set=self.closed_set,
            seed=self.seed,
            names=self.names_,
            embeddings=self.embeddings_,
            owners=self.owners_,
            thresholds=self.thresholds_,
            arrays=self.namer_.arrays(),
            probability=self.probability_,
            evidence=self.evidence_,
            digests=self.digests_,
            model=model,
        )
        write_classifier(Path(path), record)

    @classmethod
    def load(cls, path: str | PathLike[str], embedder: Embedder | None = None) -> Classifier:
        """Read a classifier that `save` wrote; with an `embedder`, it must be of that model.

        `ClassifierError` where it is of another model, damaged, something else, or a pickle, which could run any code.
        """
        saved = read_classifier(Path(path), embedder)
        try:
            method: Any = saved.method
            return cls(method, rate=saved.rate, closed_set=saved.closed_set, seed=saved.seed)._restore(saved)
        except DAMAGE as wrong:
            raise damaged_classifier(Path(path), wrong) from None

    def _restore(self, saved: ClassifierRecord) -> Classifier:
        """What `fit` had learned, put back without learning it again; `ValueError` where it does not fit together."""
        owners, names, thresholds = saved.owners, saved.names, saved.thresholds
        self.names_ = names
        self.embeddings_, self.owners_ = unit_vectors(saved.embeddings), owners
        if owners.shape != (len(self.embeddings_),) or not np.array_equal(np.unique(owners), np.arange(len(names))):
            raise ValueError(f"{len(self.embeddings_)} photos do not belong to {len(names)} people")
        if thresholds.shape != (len(names),) or not np.isfinite(thresholds).all():
            raise ValueError(f"{len(names)} people want a threshold each")
        self.namer_ = classifier_methods.restore(self.method, self.embeddings_, owners, len(names), saved.arrays)
        self.probability_ = saved.probability
        self.evidence_ = saved.evidence
        self.digests_, self.model_ = saved.digests, saved.model
        self._set_people(thresholds)
        return self

    def _check_fitted(self) -> None:
        if not hasattr(self, "names_"):
            raise ValueError("this classifier is not fitted yet: call fit, or Classifier.load")

    def _set_people(self, thresholds: Floats) -> None:
        self.templates_ = templates(self.owners_, self.embeddings_, len(self.names_))
        self.thresholds_ = thresholds

    def calibrate(
        self, probes: Vectors, names: Sequence[str], *, calibration: Calibration | None, rate: float | None = None
    ) -> TunedThresholds:
        """Choose the thresholds anew on labelled photos; kept in `evidence_["calibrated"]`. See `threshold_tuning`."""
        self._check_fitted()
        rate = self.rate if rate is None else rate
        probes = represented(probes, self.model_)
        wanted = thresholds_of_table(calibration, rate, np.bincount(self.owners_).tolist())
        result = threshold_tuning.calibrate(
            probes, names, self.templates_, self.names_, wanted,
            enrolled=self.embeddings_, rate=rate, table=calibration is not None,
        )  # fmt: skip
        self.rate = rate
        self.thresholds_ = wanted + result.offset
        self.evidence_ = {**self.evidence_, "calibrated": result.evidence}
        return result

    def predict(self, embeddings: Vectors, *, one_photo: bool = False) -> list[Prediction]:
        """Who each face (M,D) is, or unknown; any M, also 0. Embeddings are as `Embedder.represent` makes them.

        With `one_photo` they are the faces of one photo: of several with one name the most similar keeps it.
        """
        self._check_fitted()
        vectors = probes_of(embeddings, self.embeddings_.shape[1], self.model_)
        nearest = self.namer_.nearest(vectors)
        similarity = np.einsum("nd,nd->n", vectors, self.templates_[nearest]).astype(np.float64)
        thresholds = self.thresholds_[nearest]
        probability = (
            [None] * len(vectors)
            if self.probability_ is None
            else held_out.probability(similarity - thresholds, self.probability_).tolist()
        )
        predictions = [
            Prediction(
                self.names_[k] if self.closed_set or value >= wanted else None,
                float(value), float(wanted), self.names_[k], likely,
            )
            for k, value, wanted, likely in zip(nearest, similarity, thresholds, probability, strict=True)
        ]  # fmt: skip
        return keep_each_name_once(predictions) if one_photo else predictions
