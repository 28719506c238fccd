"""Writes the report of a check: `report.json` for programs, one self-contained page for people, and the list to edit."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from facespace.curation.checker import SHARED_RATE, Findings
from facespace.curation.duplicates import Copy
from facespace.curation.keep_drop import Proposal, propose, relative, write_list
from facespace.errors import ImageError
from facespace.faces.crops import fit
from facespace.io import image, pictures
from facespace.io.files import write_together
from facespace.io.text import plain_text
from facespace.reports.page import data_uri, render

_SHOWN = 150  # findings of each kind on the page; the JSON has all
_THUMBNAIL = 96


def write_report(findings: Findings, folder: Path) -> list[Proposal]:
    """Write `report.html`, `report.json` and `keep_drop.csv` into a folder, created if missing; return the proposals."""
    folder.mkdir(parents=True, exist_ok=True)
    proposals = propose(findings)
    found = json.dumps(as_json(findings, proposals), ensure_ascii=False, indent=1) + "\n"
    write_together({folder / "report.json": found, folder / "report.html": as_html(findings, proposals)})
    write_list(proposals, findings.root, folder / "keep_drop.csv")
    return proposals


def counts(findings: Findings, proposals: Sequence[Proposal]) -> dict[str, int]:
    """Return the figures at the top of the report, by name."""
    images = findings.images
    within = [copy for copy in findings.copies if _is_within(findings, copy)]
    return {
        "images": len(images.paths) + len(images.unreadable),
        "identities": len(images.names),
        "proposed to drop": sum(proposal.drop for proposal in proposals),
        "unreadable": len(images.unreadable),
        "likely wrong labels": int(findings.labels.wrong.sum()),
        "copies in another identity": len(findings.copies) - len(within),
        "exact copies": sum(copy.exact for copy in within),
        "near copies": sum(not copy.exact for copy in within),
        "one person, two names": len(findings.labels.same_people),
        "too small identities": len(small_identities(findings, proposals)),
        "people in evaluation set": len({shared.first for shared in findings.shared if shared.is_match}),
        "images in evaluation set": len(findings.shared_copies),
    }


def small_identities(findings: Findings, proposals: Sequence[Proposal]) -> list[tuple[str, int, int]]:
    """Return (name, files now, files left) of each identity with fewer than `min_images` files left.

    Files left are those that no other reason proposes to drop. An identity is omitted if none are left and it had at
    least `min_images` files.
    """
    files = Counter(relative(proposal.path, findings.root).split("/")[0] for proposal in proposals)
    left = Counter(
        relative(proposal.path, findings.root).split("/")[0]
        for proposal in proposals
        if not proposal.drop or proposal.reason == "too few images"
    )
    least = findings.min_images
    return [
        (name, files[name], left[name])
        for name in findings.images.names
        if left[name] < least and (left[name] or files[name] < least)  # not if other reasons drop all its files
    ]


def as_json(findings: Findings, proposals: Sequence[Proposal]) -> dict[str, Any]:
    """Return the report as JSON: `counts`, `settings`, `statistics`, then the findings of each kind.

    Files are named as in `keep_drop.csv`.
    """
    images, labels, evaluation = findings.images, findings.labels, findings.evaluation
    names = [plain_text(name) for name in images.names]
    files = [plain_text(relative(path, findings.root)) for path in images.paths]
    theirs = [] if evaluation is None else [_theirs(findings, path) for path in evaluation.paths]

    def copy_json(copy: Copy, other: str) -> dict[str, Any]:
        return {
            "file": files[copy.second], "other": other, "exact": copy.exact,
            "similarity": round(copy.similarity, 4), "correlation": round(copy.correlation, 4),
        }  # fmt: skip

    return {
        "counts": counts(findings, proposals),
        "settings": {
            "dataset": plain_text(findings.root),
            "model": findings.model,
            "crops": images.prepared,
            "min_images": findings.min_images,
            "against": None if findings.against is None else plain_text(findings.against),
            "evaluation": None if evaluation is None else evaluation.prepared,
        },
        "statistics": {
            "own_median": _number(labels.median),
            "own_spread": _number(labels.spread),
            "stranger_mean": _number(labels.stranger_mean),
            "stranger_spread": _number(labels.stranger_spread),
            "far_below": _number(labels.far_below),
        },
        "unreadable": [
            {"file": plain_text(relative(path, findings.root)), "reason": plain_text(reason)}
            for _, path, reason in images.unreadable
        ],
        "wrong_labels": [
            {
                "file": files[i], "own": _number(labels.own[i]), "other": _number(labels.other[i]),
                "nearest": names[labels.nearest[i]] if labels.nearest[i] >= 0 else None,
                "far": bool(labels.far[i]), "closer": bool(labels.closer[i]),
            }
            for i in _worst(findings)
        ],
        "copies_across": [copy_json(c, files[c.first]) for c in findings.copies if not _is_within(findings, c)],
        "copies_within": [copy_json(c, files[c.first]) for c in findings.copies if _is_within(findings, c)],
        "same_people": [
            {"name": names[one], "other": names[two], "similarity": round(similarity, 4)}
            for one, two, similarity in labels.same_people
        ],
        "small_identities": [
            {"name": plain_text(name), "images": files, "left": left}
            for name, files, left in small_identities(findings, proposals)
        ],
        "shared_people": [
            {
                "name": names[shared.first], "other": plain_text(evaluation.names[shared.second]),
                "similarity": round(shared.similarity, 4), "threshold": round(shared.threshold, 4),
                "same_name": shared.same_name, "match": shared.is_match,
            }
            for shared in findings.shared if evaluation is not None
        ],
        "shared_images": [copy_json(copy, theirs[copy.first]) for copy in findings.shared_copies],
        "evaluation_unread": [] if evaluation is None else [
            *({"file": _theirs(findings, path), "reason": plain_text(reason)} for _, path, reason in evaluation.unreadable),
            *({"file": _theirs(findings, path), "reason": "no face found"} for _, path in evaluation.faceless),
        ],
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Figure:
    """A picture of an image: its data URI, its name, a note, and the CSS class of its border."""

    source: str
    name: str
    note: str = ""
    mark: str = ""


@dataclass(frozen=True, slots=True)
class _Card:
    """One finding: a text, its pictures, and its subject (a file or a person)."""

    text: str
    figures: Sequence[_Figure] = ()
    subject: str = ""


@dataclass(frozen=True, slots=True)
class _Section:
    """Findings of one kind: the cards on the page, and the number of all findings."""

    title: str
    about: str
    cards: Sequence[_Card]
    n: int


def as_html(findings: Findings, proposals: Sequence[Proposal]) -> str:
    """Return the report as an HTML page without scripts and without requests to other addresses.

    The page shows the counts, how the crops were made, and the findings of each kind with pictures.
    """
    labels, evaluation = findings.labels, findings.evaluation
    figures = counts(findings, proposals)
    if findings.against is None:
        figures = {name: n for name, n in figures.items() if not name.endswith("evaluation set")}
    statistics = ""
    if labels.median == labels.median:
        statistics = (
            f"Similarity of an image to its own identity: median {labels.median:.3f}, spread {labels.spread:.3f}; to "
            f"others: mean {labels.stranger_mean:.3f}, standard deviation {labels.stranger_spread:.3f}. A label is likely "
            f"wrong if this similarity is below {labels.far_below:.3f}, or if the similarity to another identity is at "
            f"least {labels.median - 3 * labels.spread:.3f} and higher by more than {2 * labels.spread:.3f}."
        )
    return render(
        "dataset_check.html",
        root=findings.root,
        model=findings.model,
        prepared=findings.images.prepared,
        counts=figures,
        sections=_sections(findings, proposals),
        n_unread=0 if evaluation is None else len(evaluation.unreadable) + len(evaluation.faceless),
        statistics=statistics,
    )


def _sections(findings: Findings, proposals: Sequence[Proposal]) -> Iterable[_Section]:
    images, labels, evaluation = findings.images, findings.labels, findings.evaluation
    dropped = {proposal.path for proposal in proposals if proposal.drop}
    typical = _typical(findings)

    def ours(index: int, note: str = "") -> _Figure:
        path = images.paths[index]
        mark = "drop" if path in dropped else "keep"
        return _Figure(_picture(path), relative(path, findings.root), note, mark)

    def theirs(index: int) -> _Figure:
        assert evaluation is not None
        path = evaluation.paths[index]
        return _Figure(_picture(path), relative(path, str(findings.against)), "evaluation")

    def person(label: int) -> list[_Figure]:
        return [ours(typical[label], "typical")] if label in typical else []

    yield _Section(
        "Likely wrong labels",
        "The picture, a typical one of its identity, and a typical one of the identity nearest to it.",
        [
            _Card(
                f"similarity to its own identity {labels.own[i]:.2f}, to the nearest other {labels.other[i]:.2f}",
                [ours(i), *person(int(images.labels[i])), *person(int(labels.nearest[i]))],
            )
            for i in _worst(findings)[:_SHOWN]
        ],
        int(labels.wrong.sum()),
    )
    for title, about, within in (
        ("Copies in another identity", "One photo under two names: a label is wrong, or it shows two people.", False),
        (
            "Copies within an identity",
            "All exact copies except one are proposed to be dropped; near copies are kept.",
            True,
        ),
    ):
        copies = [copy for copy in findings.copies if _is_within(findings, copy) == within]
        cards = [_Card(_kind(copy), [ours(copy.second), ours(copy.first)]) for copy in copies[:_SHOWN]]
        yield _Section(title, about, cards, len(copies))
    yield _Section(
        "One person under two names",
        "Identities whose centres agree. Nothing is proposed: merge them by hand if they are one person.",
        [
            _Card(f"similarity {similarity:.2f}", [*person(one), *person(two)])
            for one, two, similarity in labels.same_people[:_SHOWN]
        ],
        len(labels.same_people),
    )
    if evaluation is not None:
        first = {int(label): index for index, label in reversed(list(enumerate(evaluation.labels)))}
        yield _Section(
            "People in the evaluation set",
            f"About {SHARED_RATE:.0%} of unrelated identities exceed the thresholds; for equal names half is enough.",
            [
                _Card(
                    f"{images.names[shared.first]} and {evaluation.names[shared.second]}: similarity "
                    f"{shared.similarity:.2f}, threshold {shared.threshold:.2f}"
                    f"{', equal names' if shared.same_name else ''}{'' if shared.is_match else ' – looks different'}",
                    [*person(shared.first), *([theirs(first[shared.second])] if shared.second in first else [])],
                )
                for shared in findings.shared[:_SHOWN]
            ],
            len(findings.shared),
        )
        yield _Section(
            "Images of the evaluation set",
            "",
            [_Card(_kind(copy), [ours(copy.second), theirs(copy.first)]) for copy in findings.shared_copies[:_SHOWN]],
            len(findings.shared_copies),
        )
    damaged = [_Card(reason, subject=relative(path, findings.root)) for _, path, reason in images.unreadable[:_SHOWN]]
    yield _Section("Unreadable files", "", damaged, len(images.unreadable))
    small = small_identities(findings, proposals)
    yield _Section(
        "Too small identities",
        f"Fewer than {findings.min_images} images, now or after the other proposals.",
        [_Card(f"{n:,} images, {left:,} left", subject=name) for name, n, left in small[:_SHOWN]],
        len(small),
    )


def _worst(findings: Findings) -> list[int]:
    """Return the images with likely wrong labels, the clearest first."""
    labels = findings.labels
    wrong = labels.wrong.nonzero()[0].tolist()
    return sorted(wrong, key=lambda index: float(labels.own[index]) - max(float(labels.other[index]), 0.0))


def _typical(findings: Findings) -> dict[int, int]:
    """Return the image of each identity that is nearest to its centre."""
    own, best = findings.labels.own, dict[int, int]()
    for index, label in enumerate(findings.images.labels.tolist()):
        if label not in best or own[index] > own[best[label]]:
            best[label] = index
    return best


def _picture(path: str) -> str:
    try:
        square, _ = fit(image.read(path), _THUMBNAIL)
    except ImageError:  # deleted since it was checked
        return "data:,"
    data = pictures.encode(Image.fromarray(square), "JPEG", quality=80)
    return data_uri("jpeg", data)


def _kind(copy: Copy) -> str:
    return "exact copy" if copy.exact else f"similarity {copy.similarity:.3f}, correlation {copy.correlation:.2f}"


def _is_within(findings: Findings, copy: Copy) -> bool:
    return bool(findings.images.labels[copy.first] == findings.images.labels[copy.second])


def _theirs(findings: Findings, path: str) -> str:
    return plain_text(relative(path, str(findings.against)))


def _number(value: float) -> float | None:
    return round(float(value), 4) if value == value else None
