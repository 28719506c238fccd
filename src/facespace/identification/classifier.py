"""A classifier that names faces from their embeddings and reports people it has not learned as unknown."""

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
    """A classifier's result for one face.

    `name` is None for unknown. `nearest` is the most likely known person, even if the face shows a stranger.
    `similarity` is the cosine to that person's template and `threshold` the similarity required for the name.
    `probability` is the probability that the face shows `nearest`, assuming that half of all faces show strangers; it
    is None if there were too few photos to estimate it.
    """

    name: str | None
    similarity: float
    threshold: float
    nearest: str
    probability: float | None


class Classifier:
    """A naming method and a threshold for each person, fitted to embeddings made by `Embedder.represent`.

    `method` is `centroid` (the person whose mean embedding is nearest), `knn`, `logistic` or `svm`. With every method,
    a face is rejected as a stranger if its cosine to the predicted person's template, the mean of that person's
    embeddings, is below the threshold. The thresholds are chosen so that a share `rate` of strangers is given a name.
    `closed_set` names every face, as the FaceNet programs of 2018 did.

    After `fit`: `names_` (the P people, sorted), `embeddings_` (N,D) and `owners_` (N,) of the training photos,
    `templates_` (P,D), `thresholds_` (P,) and `evidence_`, the rates measured with photos and people held out.
    `model_` describes the model that made the embeddings; it is empty for plain arrays.
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
        """Fit to unit embeddings (N,D) and their names; `calibration` is that of the embedder.

        `digests` (N,) may identify the content of each photo, so that its embedding can be reused when people are added.
        Raise `ValueError` for an unknown method, for no photos, for embeddings that are not of length 1, for a wrong
        number of names, and for a single person without `calibration`, since no threshold can be chosen then
        (`closed_set` needs none).
        """
        if self.method not in classifier_methods.METHODS:
            raise ValueError(f"method must be one of {', '.join(classifier_methods.METHODS)}, got {self.method!r}")
        if calibration is not None and not hasattr(calibration, "identification_thresholds"):
            raise TypeError(f"calibration must be that of an embedder, got {type(calibration).__name__}")
        self.model_ = making_of(embeddings)
        vectors = unit_vectors(represented(embeddings))
        self.digests_ = tuple(digests) or ("",) * len(vectors)
        if len(names) != len(vectors):
            raise ValueError(f"names must have one name for each of {len(vectors)} embeddings, got {len(names)}")
        if not len(vectors):
            raise ValueError("embeddings must not be empty; a classifier needs photos to learn from")
        people, owners = np.unique([clean_name(name) for name in names], return_inverse=True)
        if len(people) == 1 and calibration is None and not self.closed_set:
            raise ValueError(
                f"there must be at least two people for a model without measured thresholds, got only {people[0]}; add people"
            )
        self.names_ = tuple(str(name) for name in people)
        self.embeddings_, self.owners_ = vectors, owners.astype(np.int64)
        self.method_ = classifier_methods.fit(self.method, self.embeddings_, self.owners_, len(self.names_))
        trials = held_out.hold_out(
            self.method, self.embeddings_, self.owners_, len(self.names_),
            rate=self.rate, calibration=calibration, seed=self.seed,
        )  # fmt: skip
        table = calibration is not None
        chosen = offset(trials.stranger_margin, self.rate, table=table)
        table_thresholds = thresholds_of_table(calibration, self.rate, np.bincount(self.owners_).tolist())
        self.probability_ = held_out.fit_probability(trials, chosen)
        # Thresholds exceed 1 if the held-out people have identical embeddings: then every face is rejected.
        self._set_people(table_thresholds + chosen)
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
        """Write the fitted classifier atomically to a file; reading that file runs no code.

        The file records the model. Vectors from `Embedder.represent` name their model; a classifier that was fitted to
        plain arrays needs `embedder`. Raise `ValueError` if neither names a model, or if they name different models.
        """
        self._check_fitted()
        model = self.model_
        if embedder is not None:
            if model and other_model(model, embedder):
                raise ValueError(
                    f"embedder must be of this classifier's model {model.get('model')!r}, got another model"
                )
            model = model_of(embedder)
        if not model:
            raise ValueError("the model of a classifier fitted to plain arrays is not known; call save(path, embedder)")
        record = ClassifierRecord(
            method=self.method,
            rate=self.rate,
            closed_set=self.closed_set,
            seed=self.seed,
            names=self.names_,
            embeddings=self.embeddings_,
            owners=self.owners_,
            thresholds=self.thresholds_,
            arrays=self.method_.arrays(),
            probability=self.probability_,
            evidence=self.evidence_,
            digests=self.digests_,
            model=model,
        )
        write_classifier(Path(path), record)

    @classmethod
    def load(cls, path: str | PathLike[str], embedder: Embedder | None = None) -> Classifier:
        """Read a classifier that `save` wrote; with an `embedder`, check that it was fitted with that model.

        Raise `ClassifierError` if the file belongs to another model, is damaged, is not a classifier, or is a pickle
        (loading a pickle can run any code).
        """
        saved = read_classifier(Path(path), embedder)
        try:
            method: Any = saved.method
            return cls(method, rate=saved.rate, closed_set=saved.closed_set, seed=saved.seed)._restore(saved)
        except DAMAGE as wrong:
            raise damaged_classifier(Path(path), wrong) from None

    def _restore(self, saved: ClassifierRecord) -> Classifier:
        """Restore what `fit` had learned; raise `ValueError` if the parts do not fit together."""
        owners, names, thresholds = saved.owners, saved.names, saved.thresholds
        self.names_ = names
        self.embeddings_, self.owners_ = unit_vectors(saved.embeddings), owners
        if owners.shape != (len(self.embeddings_),) or not np.array_equal(np.unique(owners), np.arange(len(names))):
            raise ValueError(f"the owners of its {len(self.embeddings_)} photos do not match its {len(names)} people")
        if thresholds.shape != (len(names),) or not np.isfinite(thresholds).all():
            raise ValueError(f"it must have one finite threshold for each of {len(names)} people")
        self.method_ = classifier_methods.restore(self.method, self.embeddings_, owners, len(names), saved.arrays)
        self.probability_ = saved.probability
        self.evidence_ = saved.evidence
        self.digests_, self.model_ = saved.digests, saved.model
        self._set_people(thresholds)
        return self

    def _check_fitted(self) -> None:
        if not hasattr(self, "names_"):
            raise ValueError("this classifier is not fitted yet; call fit, or use Classifier.load")

    def _set_people(self, thresholds: Floats) -> None:
        self.templates_ = templates(self.owners_, self.embeddings_, len(self.names_))
        self.thresholds_ = thresholds

    def calibrate(
        self, probes: Vectors, names: Sequence[str], *, calibration: Calibration | None, rate: float | None = None
    ) -> TunedThresholds:
        """Choose the thresholds on labelled photos: the embeddings `probes` (N,D) of people with these `names`.

        Record the measured error rates in `evidence_["calibrated"]`. See `threshold_tuning`.
        """
        self._check_fitted()
        rate = self.rate if rate is None else rate
        probes = represented(probes, self.model_)
        table_thresholds = thresholds_of_table(calibration, rate, np.bincount(self.owners_).tolist())
        result = threshold_tuning.calibrate(
            probes, names, self.templates_, self.names_, table_thresholds,
            enrolled=self.embeddings_, rate=rate, table=calibration is not None,
        )  # fmt: skip
        self.rate = rate
        self.thresholds_ = table_thresholds + result.offset
        self.evidence_ = {**self.evidence_, "calibrated": result.evidence}
        return result

    def predict(self, embeddings: Vectors, *, one_photo: bool = False) -> list[Prediction]:
        """Predict the person, or unknown, for each face's embedding (M,D) from `Embedder.represent`; M may be 0.

        With `one_photo`, all faces are from one photo: if several get the same name, only the most similar keeps it.
        """
        self._check_fitted()
        vectors = probes_of(embeddings, self.embeddings_.shape[1], self.model_)
        nearest = self.method_.nearest(vectors)
        similarity = np.einsum("nd,nd->n", vectors, self.templates_[nearest]).astype(np.float64)
        thresholds = self.thresholds_[nearest]
        probability = (
            [None] * len(vectors)
            if self.probability_ is None
            else held_out.probability(similarity - thresholds, self.probability_).tolist()
        )
        predictions = [
            Prediction(
                self.names_[k] if self.closed_set or value >= threshold else None,
                float(value), float(threshold), self.names_[k], likely,
            )
            for k, value, threshold, likely in zip(nearest, similarity, thresholds, probability, strict=True)
        ]  # fmt: skip
        return keep_each_name_once(predictions) if one_photo else predictions
