"""Classifiers as the old programs used them: their files, their names, the number behind a name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from facespace.cli.shared.output import say, similarity_and_wanted, write_line
from facespace.io.text import plain_text

if TYPE_CHECKING:
    from facespace.embedding.embedder import Embedder
    from facespace.identification.classifier import Classifier, Prediction


def loaded(file: Path, embedder: Embedder) -> Classifier:
    """The classifier in a file; `ClassifierError` for a pickle, of which nothing is run."""
    from facespace.identification.classifier import Classifier

    return Classifier.load(file, embedder)


def write_loaded(file: Path, classifier: Classifier) -> None:
    """The line of a classifier that was loaded, and what the numbers behind its names are."""
    write_line(f'Loaded classifier model from file "{plain_text(str(file))}"')
    if classifier.probability_ is None:
        say("too few people and photos to measure probabilities; the numbers behind the names are similarities")


def shown_name(folder: str) -> str:
    """A person's name as the old programs made it of the folder's.

    >>> shown_name("Ariel_Sharon")
    'Ariel Sharon'
    """
    return folder.replace("_", " ")


def figure(prediction: Prediction) -> float:
    """The probability of the nearest person, or the similarity where none could be measured."""
    return prediction.similarity if prediction.probability is None else prediction.probability


def in_words(prediction: Prediction) -> str:
    """A name, or `unknown`, and the number behind it, as the old programs wrote them.

    The number says how much the face is like the nearest person. Beside `unknown` a 1.000 would read as certainty, so
    there it is explained.
    """
    number = f"{figure(prediction):.3f}"
    if prediction.name is None and number == "1.000":
        likeness = similarity_and_wanted(prediction.similarity, prediction.threshold)
        return f"unknown: too little like {plain_text(shown_name(prediction.nearest))}, {likeness}"
    return f"{plain_text(shown_name(prediction.name or 'unknown'))}: {number}"
