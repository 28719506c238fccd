"""Classifiers as the old programs used them: loading, displayed names, and the number printed after a name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from facespace.cli.shared.output import say, similarity_and_threshold, write_line
from facespace.io.text import plain_text

if TYPE_CHECKING:
    from facespace.embedding.embedder import Embedder
    from facespace.identification.classifier import Classifier, Prediction


def load_classifier(file: Path, embedder: Embedder) -> Classifier:
    """Load a classifier. Raises `ClassifierError` for a pickle, which is never executed."""
    from facespace.identification.classifier import Classifier

    return Classifier.load(file, embedder)


def write_loaded(file: Path, classifier: Classifier) -> None:
    """Print the old programs' line about a loaded classifier, and report if it has no probabilities."""
    write_line(f'Loaded classifier model from file "{plain_text(str(file))}"')
    if classifier.probability_ is None:
        say("too few people and photos to estimate probabilities; the numbers after the names are similarities")


def shown_name(folder: str) -> str:
    """Return a person's name as the old programs displayed it.

    >>> shown_name("Ariel_Sharon")
    'Ariel Sharon'
    """
    return folder.replace("_", " ")


def probability_or_similarity(prediction: Prediction) -> float:
    """Return the probability of the nearest person, or the similarity if there are no probabilities."""
    return prediction.similarity if prediction.probability is None else prediction.probability


def in_words(prediction: Prediction) -> str:
    """Return the name, or `unknown`, and a number, as the old programs printed them.

    The number is the nearest person's probability or similarity. `unknown: 1.000` would look like certainty, so in that
    case the similarity and the threshold are printed.
    """
    number = f"{probability_or_similarity(prediction):.3f}"
    if prediction.name is None and number == "1.000":
        likeness = similarity_and_threshold(prediction.similarity, prediction.threshold)
        return f"unknown: not similar enough to {plain_text(shown_name(prediction.nearest))}, {likeness}"
    return f"{plain_text(shown_name(prediction.name or 'unknown'))}: {number}"
