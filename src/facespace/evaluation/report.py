"""The report of an evaluation: `report.json` for programs, and one self-contained page for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.evaluation.pairs import Evaluation
from facespace.io.files import write_together
from facespace.io.text import plain_text
from facespace.metrics.verification import FAR_TARGETS, Rate
from facespace.reports.page import as_png, data_uri, new_plot, render

_WORST = 50  # most wrong pairs of each kind
_NAMES = 200  # most missing or failed photos on the page; the JSON lists all


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return the report as JSON: `accuracy`, `val_at_far`, `auc`, `eer`, `settings`, `pairs`, then the details.

    `accuracy` has mean, std and interval (std and interval are null without folds), and threshold. The threshold is a
    distance of the kind that `settings.distance` names. Figures that the pairs cannot support are null;
    `val_at_far_details` says why. `collapsed` is a remark if embeddings of different people are all alike, else null.
    """
    result, intervals = evaluation.verification, evaluation.intervals
    folds = bool(result.fold_accuracies)
    pairs, used = evaluation.source.pairs, evaluation.used

    def pair(position: int) -> dict[str, Any]:
        k = used[position]
        distance = float(result.distances[position])
        return {
            "a": plain_text(pairs.photos[pairs.first[k]]),
            "b": plain_text(pairs.photos[pairs.second[k]]),
            "distance": distance if np.isfinite(distance) else None,
        }

    false_matches, false_non_matches = worst(evaluation)
    return {
        "accuracy": {
            "mean": result.accuracy,
            "std": result.accuracy_std,
            "interval": list(intervals["accuracy"]) if folds and "accuracy" in intervals else None,
            "threshold": result.threshold,
        },
        "val_at_far": {target: rate.value for target, rate in result.val.items()},
        "auc": result.auc,
        "eer": result.eer,
        "settings": evaluation.settings,
        "collapsed": evaluation.collapsed or None,
        "pairs": {
            "used": len(used),
            "missing": evaluation.n_missing,
            "undetected": result.undetected,
            "same": result.n_same,
            "different": result.n_different,
        },
        "misfit": evaluation.misfit,
        "fold_accuracies": list(result.fold_accuracies),
        "fold_thresholds": list(result.fold_thresholds),
        "intervals_95_over_people": {name: list(bounds) for name, bounds in intervals.items()},
        "val_at_far_details": {target: _rate(rate) for target, rate in result.val.items()},
        "thresholds_at_fmr": {target: _rate(rate) for target, rate in result.fmr_table.items()},
        "exact_auc": result.exact_auc,
        "exact_eer": result.exact_eer,
        "groups": {
            plain_text(column): {
                plain_text(value): {
                    "same": rate.n_same,
                    "different": rate.n_different,
                    "accuracy": rate.accuracy,
                    "fnmr": rate.fnmr,
                    "fmr": rate.fmr,
                }
                for value, rate in rates.items()
            }
            for column, rates in evaluation.groups.items()
        },
        "missing_photos": [plain_text(name) for name in evaluation.missing],
        "failed_photos": {plain_text(name): plain_text(reason) for name, reason in evaluation.failed.items()},
        "worst_false_matches": [pair(k) for k in false_matches],
        "worst_false_non_matches": [pair(k) for k in false_non_matches],
    }


def _rate(rate: Rate) -> dict[str, Any]:
    if rate.reason is not None:
        return {"reason": rate.reason}
    return {
        "val": rate.value,
        "std": rate.std,
        "far": rate.far,
        "fnmr": rate.fnmr,
        "threshold": rate.threshold,
    }


def worst(evaluation: Evaluation, n: int = _WORST) -> tuple[list[int], list[int]]:
    """Return the wrongly judged pairs: the closest pairs of different people, then the farthest of the same person.

    Pairs are given as positions in `used`, worst first, at most `n` of each kind. Pairs are left out if a photo has
    no face or cannot be read.
    """
    result = evaluation.verification
    same = evaluation.source.pairs.same[evaluation.used]
    wrong = ~result.correct & np.isfinite(result.distances)
    order = np.argsort(result.distances, kind="stable")
    matches = [int(k) for k in order if wrong[k] and not same[k]]
    non_matches = [int(k) for k in order[::-1] if wrong[k] and same[k]]
    return matches[:n], non_matches[:n]


def write_report(folder: Path, evaluation: Evaluation) -> None:
    """Write `report.json` and `report.html` into the folder, creating it if necessary."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = json.dumps(as_json(evaluation), indent=1, ensure_ascii=False) + "\n"
    write_together({folder / "report.json": figures, folder / "report.html": _page(evaluation)})


def _page(evaluation: Evaluation) -> str:
    result, settings = evaluation.verification, evaluation.settings
    folds = enumerate(zip(result.fold_accuracies, result.fold_thresholds, strict=True), 1)
    groups = {
        column: [
            (value, r.n_same, r.n_different, f"{r.accuracy:.4f}", _share(r.fnmr), _share(r.fmr))
            for value, r in rates.items()
        ]
        for column, rates in evaluation.groups.items()
    }
    left_out = (
        ("Photos without a face, or unreadable", [f"{name}: {why}" for name, why in evaluation.failed.items()]),
        ("Missing photos", evaluation.missing),
    )
    return render(
        "verification.html",
        settings=settings,
        misfit=evaluation.misfit,
        judged=judged(evaluation),
        tiles=_tiles(evaluation),
        warnings=warnings(evaluation),
        curves=_plots(evaluation),
        thresholds=_thresholds(evaluation),
        vals=_vals(evaluation),
        folds=[(k, f"{accuracy:.4f}", f"{threshold:.4f}") for k, (accuracy, threshold) in folds],
        groups=groups,
        sheets=_sheets(evaluation),
        left_out=left_out,
        max_names=_NAMES,
        described=[(key, _setting(value)) for key, value in settings.items()],
    )


def judged(evaluation: Evaluation) -> str:
    """Return a line with the number of judged pairs, the kind of distance, the threshold and where it was chosen."""
    result, source = evaluation.verification, evaluation.settings["threshold_from"]
    where = {"folds": "chosen on the other folds", "same pairs": "chosen on these very pairs"}.get(
        source, f"chosen on {source}"
    )
    return (
        f"{len(evaluation.used)} pairs ({result.n_same} same, {result.n_different} different), "
        f"{evaluation.settings['distance']} below {result.threshold:.4f}, {where}"
    )


def warnings(evaluation: Evaluation) -> list[str]:
    """Return what a reader must know before relying on the figures."""
    result = evaluation.verification
    lines = []
    if evaluation.collapsed:
        lines.append(f"The model cannot be judged: {evaluation.collapsed}.")
    if result.threshold_source == "same pairs":
        lines.append("The threshold was chosen on the pairs it is judged on: the accuracy is optimistic.")
    if evaluation.source.pairs.fold is not None and evaluation.settings["threshold_from"] == "same pairs":
        lines.append("The folds were not used: one of them has pairs of one kind only.")
    if evaluation.n_missing:
        lines.append(f"{evaluation.n_missing} pairs were left out because a photo is missing.")
    if result.undetected:
        lines.append(f"{result.undetected} pairs have a photo without a face or unreadable; they count as errors.")
    return lines


def _tiles(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """Return name, value and note of each figure at the top of the page."""
    result, intervals = evaluation.verification, evaluation.intervals

    def bounds(name: str) -> str:
        return "95 %: {:.4f} to {:.4f}".format(*intervals[name]) if name in intervals else ""

    spread = "" if result.accuracy_std is None else f" ± {result.accuracy_std:.4f}"
    tiles = [("accuracy", f"{result.accuracy:.4f}{spread}", bounds("accuracy"))]
    for target in ("1e-2", "1e-3", "1e-4"):
        value = result.val[target].value
        if value is not None:
            tiles.append((f"VAL at FAR {target}", f"{value:.4f}", bounds(f"val@{target}")))
    tiles.append(("equal error rate", f"{result.eer:.4f}", bounds("eer")))
    tiles.append(("area under the ROC", f"{result.auc:.5f}", bounds("auc")))
    n_wrong = int((~result.correct).sum())
    tiles.append(("pairs judged wrongly", str(n_wrong), f"of {len(evaluation.used)}"))
    return tiles


def _thresholds(evaluation: Evaluation) -> list[list[str]]:
    return [
        [target, _number(rate.threshold), _share(rate.far), _share(rate.fnmr)]
        if rate.reason is None
        else [target, rate.reason, "", ""]
        for target, rate in evaluation.verification.fmr_table.items()
    ]


def _vals(evaluation: Evaluation) -> list[list[str]]:
    rows = []
    for target in FAR_TARGETS:
        rate = evaluation.verification.val[target]
        if rate.reason is not None:
            rows.append([target, rate.reason, "", ""])
            continue
        spread = "" if rate.std is None else f" ± {rate.std:.4f}"
        rows.append([target, _number(rate.value) + spread, _share(rate.far), _number(rate.threshold)])
    return rows


def _sheets(evaluation: Evaluation) -> list[tuple[str, list[tuple[str, str, list[str]]]]]:
    """Return (title, pairs) of each contact sheet of errors; a pair is (distance, names, pictures), the worst first."""
    pairs, distances = evaluation.source.pairs, evaluation.verification.distances

    def figure(position: int) -> tuple[str, str, list[str]]:
        k = evaluation.used[position]
        photos = (int(pairs.first[k]), int(pairs.second[k]))
        pictures = [
            data_uri("jpeg", evaluation.thumbnails[photo]) for photo in photos if photo in evaluation.thumbnails
        ]
        return f"{distances[position]:.4f}", " | ".join(pairs.photos[photo] for photo in photos), pictures

    titles = ("Different people called the same, closest first", "The same person called different, farthest first")
    return [
        (title, [figure(position) for position in positions])
        for title, positions in zip(titles, worst(evaluation), strict=True)
    ]


def _plots(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Return the name of each plot and its picture within the page."""
    result = evaluation.verification
    same = evaluation.source.pairs.same[evaluation.used]
    finite = np.isfinite(result.distances)
    least = 0.5 / max(result.n_different, 1)
    plots = []

    far, val = np.append(result.roc.far, 1.0), np.append(result.roc.val, 1.0)
    figure, axes = new_plot("ROC", "FAR (different people that match)", "VAL (same person that match)")
    axes.step(np.maximum(far, least), val, where="post", color="#0b62c4")
    axes.set(xscale="log", xlim=(least, 1), ylim=(max(0.0, 1.1 * float(val[far <= least].max(initial=0)) - 0.1), 1.005))
    plots.append(("ROC curve", data_uri("png", as_png(figure))))

    figure, axes = new_plot("DET", "false match rate", "false non-match rate")
    axes.step(np.maximum(far, least), np.maximum(1 - val, 0.5 / max(result.n_same, 1)), where="post", color="#0b62c4")
    axes.plot([least, 1], [least, 1], ":", color="#888", label=f"equal error rate {result.exact_eer:.4f}")
    axes.set(xscale="log", yscale="log", xlim=(least, 1), ylim=(0.5 / max(result.n_same, 1), 1))
    axes.legend(loc="upper right")
    plots.append(("DET curve", data_uri("png", as_png(figure))))

    figure, axes = new_plot("Distances", evaluation.settings["distance"], "share of pairs")
    bins = np.histogram_bin_edges(result.distances[finite], bins=60)
    for kind, color, label in ((same, "#1a7f37", "same person"), (~same, "#cf222e", "different people")):
        values: npt.NDArray[np.float64] = result.distances[kind & finite]
        weights = np.full(len(values), 1 / max(int(kind.sum()), 1))
        axes.hist(values, bins=bins, weights=weights, alpha=0.55, color=color, label=label)
    axes.axvline(result.threshold, color="#1b1f24", linestyle="--", label=f"threshold {result.threshold:.4f}")
    axes.legend()
    plots.append(("distances of same and different pairs", data_uri("png", as_png(figure))))
    return plots


def _setting(value: object) -> str:
    return ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else str(value)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"
