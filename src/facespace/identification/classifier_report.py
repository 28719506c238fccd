"""Reports a classifier's rates: lines for the terminal, JSON for programs, and one self-contained HTML page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from facespace.errors import ImageError
from facespace.identification.classifier import Classifier, Prediction
from facespace.identification.classifier_evaluation import ClassifierEvaluation
from facespace.io import image, pictures
from facespace.io.files import write_together
from facespace.io.text import plain_text
from facespace.reports.page import as_png, check_plots, data_uri, new_plot, render

_WORDS = {
    "closed_set_accuracy": "right if there were no strangers",
    "known_named_right": "known people named right",
    "known_named_wrong": "known people given a wrong name",
    "known_rejected": "known people called unknown",
    "unknown_detected": "strangers called unknown",
    "strangers_named": "strangers given a name",
}
_CLOSED_SET = (
    "Right if there were no strangers: the share of the known people's faces whose most likely person is the correct one, "
    "whether or not they are similar enough to get the name."
)
_SHOWN = 200  # wrong faces on the page; the JSON has all
PEOPLE_SHOWN = 500  # people on the page; the JSON has all
THUMBNAIL = 96  # pixels


def in_words(classifier: Classifier) -> list[str]:
    """Return lines with the rates measured during training, with photos and people held out."""
    found = classifier.evidence_
    lines = ["on held-out training photos:"]
    names = ("closed_set_accuracy", "known_named_right", "known_rejected", "unknown_detected")
    lines += [f"  {_WORDS[name]:32} {_share(found[name])}" for name in names]
    low, high = float(classifier.thresholds_.min()), float(classifier.thresholds_.max())
    span = f"{low:.4f}" if f"{low:.4f}" == f"{high:.4f}" else f"{low:.4f} to {high:.4f} by person"
    aim = (
        "closed set: every face gets a name"
        if classifier.closed_set
        else f"from {found['threshold_from']}, for {classifier.rate:g} of strangers named"
    )
    lines.append(f"similarity to reach {span} ({aim})")
    if classifier.probability_ is None:
        lines.append("no probabilities: they need 50 held-out photos and 10 people with at least two photos")
    return lines


def tried_in_words(tried: ClassifierEvaluation) -> list[str]:
    """Return lines with the rates of an evaluation."""
    n_known = sum(tried.known)
    lines = [
        f"tested on {len(tried.names)} photos, {n_known} of people learned, {len(tried.names) - n_known} of strangers:"
    ]
    lines += [f"  {_WORDS[name]:32} {_share(rate)}" for name, rate in tried.rates().items() if rate["n"]]
    return lines


def prediction_in_words(prediction: Prediction) -> str:
    """Return a line for the terminal about one face."""
    nearest = "" if prediction.name else f", nearest {prediction.nearest}"
    return f"{prediction.name or 'unknown'} (similarity {prediction.similarity:.3f}, threshold {prediction.threshold:.3f}{nearest})"


def as_json(classifier: Classifier, tried: ClassifierEvaluation | None, paths: Sequence[str]) -> dict[str, Any]:
    """Return all figures; with an evaluation, also each of its N faces with its file from `paths` (N,)."""
    photos = np.bincount(classifier.owners_, minlength=len(classifier.names_)).tolist()
    result: dict[str, Any] = {
        "method": classifier.method,
        "closed_set": classifier.closed_set,
        "rate": classifier.rate,
        "held_out": classifier.evidence_,
        "people": [
            {"name": name, "photos": n, "threshold": round(float(threshold), 4)}
            for name, n, threshold in zip(classifier.names_, photos, classifier.thresholds_, strict=True)
        ],
    }
    if tried is not None:
        result["test"] = tried.rates()
        result["faces"] = [
            {
                "image": plain_text(path), "true": name, "learned": known, "name": found.name, "nearest": found.nearest,
                "similarity": round(found.similarity, 4), "threshold": round(found.threshold, 4),
                "probability": None if found.probability is None else round(found.probability, 4),
            }
            for path, name, known, found in zip(paths, tried.names, tried.known, tried.predictions, strict=True)
        ]  # fmt: skip
    return result


def write_report(
    folder: Path,
    classifier: Classifier,
    tried: ClassifierEvaluation | None,
    paths: Sequence[str],
    portraits: Mapping[str, Image.Image] = MappingProxyType({}),
) -> None:
    """Write `report.html` and `report.json` into a folder, which is created if missing.

    `portraits` are pictures of people by name, at most `THUMBNAIL` pixels wide and high. The page shows the first
    `PEOPLE_SHOWN` people. Raise `RuntimeUnavailable` without matplotlib.
    """
    check_plots()
    folder.mkdir(parents=True, exist_ok=True)
    figures = json.dumps(as_json(classifier, tried, paths), ensure_ascii=False, indent=1) + "\n"
    write_together(
        {folder / "report.json": figures, folder / "report.html": _as_html(classifier, tried, paths, portraits)}
    )


def _as_html(
    classifier: Classifier,
    tried: ClassifierEvaluation | None,
    paths: Sequence[str],
    portraits: Mapping[str, Image.Image],
) -> str:
    found, shown = classifier.evidence_, classifier.names_[:PEOPLE_SHOWN]
    wrong = [] if tried is None else _wrong(tried)
    head, people = _people(classifier, tried)
    return render(
        "classifier.html",
        n_people=len(classifier.names_),
        n_photos=len(classifier.owners_),
        method=classifier.method,
        closed_set=classifier.closed_set,
        tested=None if tried is None else _tiles(tried.rates()),
        held_out=_tiles({name: found[name] for name in _WORDS if name in found}),
        closed_set_accuracy=_CLOSED_SET,
        remarks=in_words(classifier)[5:],
        curves=_plots(classifier, tried),
        n_wrong=len(wrong),
        mistakes=[] if tried is None else [_mistake(tried, k, paths[k]) for k in wrong[:_SHOWN]],
        head=head,
        people=people,
        portraits={name: _source(portraits[name]) for name in shown if name in portraits},
    )


def _people(classifier: Classifier, tried: ClassifierEvaluation | None) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of the table of people; the first column is the name."""
    head, shown = ["name", "photos", "similarity to reach"], classifier.names_[:PEOPLE_SHOWN]
    photos = Counter(classifier.owners_.tolist())
    rows = [[name, str(photos[k]), f"{classifier.thresholds_[k]:.4f}"] for k, name in enumerate(shown)]
    if tried is not None:
        head += ["tested", "right"]
        tested = Counter(tried.names)
        right = Counter(name for k, name in enumerate(tried.names) if tried.right(k))
        rows = [[*row, str(tested[row[0]]), str(right[row[0]])] for row in rows]
    return head, rows


def _wrong(tried: ClassifierEvaluation) -> list[int]:
    """Return the faces that were judged wrongly, the most similar first."""
    wrong = (k for k in range(len(tried.names)) if not tried.right(k))
    return sorted(wrong, key=lambda k: -tried.predictions[k].similarity)


def _mistake(tried: ClassifierEvaluation, k: int, path: str) -> tuple[str, str, str, str]:
    """Return picture, true name, prediction and file of face `k`."""
    true = tried.names[k] + ("" if tried.known[k] else " (a stranger)")
    return _picture(path), true, prediction_in_words(tried.predictions[k]), path


def _picture(path: str) -> str:
    try:
        picture = Image.fromarray(image.read(path))
    except ImageError:  # gone since it was embedded
        return ""
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return _source(picture)


def _source(picture: Image.Image) -> str:
    return data_uri("jpeg", pictures.encode(picture, "JPEG", quality=85))


def _plots(classifier: Classifier, tried: ClassifierEvaluation | None) -> list[tuple[str, str]]:
    plots = []

    bins = classifier.evidence_.get("reliability", [])
    if bins:
        figure, axes = new_plot(
            "Reliability of the probabilities, on held-out photos", "predicted probability", "share that was right"
        )
        axes.plot([0, 1], [0, 1], ":", color="#888", label="ideal")
        sizes = [20 + 400 * entry["weight"] for entry in bins]
        axes.scatter([e["predicted"] for e in bins], [e["observed"] for e in bins], s=sizes, color="#0b62c4", alpha=0.7,
                     label="a bin, with area by number of faces")  # fmt: skip
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axes.legend(loc="upper left")
        plots.append(("reliability diagram", data_uri("png", as_png(figure))))
    if tried is not None:
        over = np.array([found.similarity - found.threshold for found in tried.predictions])
        known = np.array(tried.known, np.bool_)
        figure, axes = new_plot("Other photos", "similarity to the nearest person minus the threshold", "faces")
        edges = np.histogram_bin_edges(over, bins=40)
        axes.hist(over[known], bins=edges, color="#1a7f37", alpha=0.55, label="people learned")
        if not known.all():
            axes.hist(over[~known], bins=edges, color="#cf222e", alpha=0.55, label="strangers")
        axes.axvline(0, color="#1b1f24", linestyle="--")
        axes.legend()
        plots.append(("similarities of known people and strangers", data_uri("png", as_png(figure))))
    return plots


def _tiles(rates: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the name, value and interval of each rate as text; leave out a rate that has neither a value nor faces."""
    return [
        (_WORDS[name], "not measured" if rate["share"] is None else f"{rate['share']:.3f}", _interval(rate))
        for name, rate in rates.items()
        if rate["n"] or rate["share"] is not None
    ]


def _share(rate: dict[str, Any]) -> str:
    return (
        "not measured: too few photos or people"
        if rate["share"] is None
        else f"{rate['share']:.4f}  ({_interval(rate)})"
    )


def _interval(rate: dict[str, Any]) -> str:
    return "" if rate["low"] is None else f"95 % {rate['low']:.3f} to {rate['high']:.3f}, {rate['n']} faces"
