"""The report of a check: `report.json` for programs, one self-contained page for people, and the list to edit."""

from __future__ import annotations

import base64
import html
import json
from collections import Counter
from collections.abc import Iterable, Sequence
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
from facespace.reports.page import begin

_SHOWN = 150  # findings of a kind on the page; the JSON has all
_THUMBNAIL = 96


def write_report(findings: Findings, folder: Path) -> list[Proposal]:
    """Write `report.html`, `report.json` and `keep_drop.csv` into a folder, made where missing; the list is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    proposals = propose(findings)
    found = json.dumps(as_json(findings, proposals), ensure_ascii=False, indent=1) + "\n"
    write_together({folder / "report.json": found, folder / "report.html": as_html(findings, proposals)})
    write_list(proposals, findings.root, folder / "keep_drop.csv")
    return proposals


def counts(findings: Findings, proposals: Sequence[Proposal]) -> dict[str, int]:
    """The figures at the top of the report, by name."""
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
    """Identities with fewer images than wanted: name, files at present, and those left after what else is dropped."""
    files = Counter(relative(proposal.path, findings.root).split("/")[0] for proposal in proposals)
    left = Counter(
        relative(proposal.path, findings.root).split("/")[0]
        for proposal in proposals
        if not proposal.drop or proposal.reason == "too few images"
    )
    wanted = findings.min_images
    return [
        (name, files[name], left[name])
        for name in findings.images.names
        if left[name] < wanted and (left[name] or files[name] < wanted)  # not those of whom all is wrong
    ]


def as_json(findings: Findings, proposals: Sequence[Proposal]) -> dict[str, Any]:
    """The report as JSON: `counts`, `settings`, then a list for each kind of finding. Files are as in the list."""
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


def as_html(findings: Findings, proposals: Sequence[Proposal]) -> str:
    """The page: counts, how the crops were made, and each kind of finding with pictures. No script, nothing loaded."""
    labels, images = findings.labels, findings.images
    figures = counts(findings, proposals)
    if findings.against is None:
        figures = {name: n for name, n in figures.items() if not name.endswith("evaluation set")}
    tiles = "".join(
        f'<div class="tile{"" if n else " none"}"><b>{n:,}</b>{html.escape(name)}</div>' for name, n in figures.items()
    )
    prepared = "; ".join(f"{n:,} images: {html.escape(how)}" for how, n in images.prepared.items())
    body = [
        f"<h1>{_text(findings.root)}</h1>",
        f'<p class="dim">Dataset check by facespace, model {_text(findings.model)}. {prepared}.</p>',
        f'<div class="tiles">{tiles}</div>',
        "<p>Nothing has been changed. The file <b>keep_drop.csv</b> beside this page has a line for each file: edit the "
        "column <b>action</b>, then run <code>facespace dataset check DIR --apply keep_drop.csv</code>, which moves "
        "what is marked <code>drop</code> out of the dataset. A red edge marks a picture proposed to be dropped.</p>",
        *_sections(findings, proposals),
    ]
    if labels.median == labels.median:
        body.append(
            f'<h2>Statistics</h2><p class="dim">Similarity of an image to its own identity: median {labels.median:.3f}, '
            f"spread {labels.spread:.3f}; to others: mean {labels.stranger_mean:.3f}, standard deviation "
            f"{labels.stranger_spread:.3f}. A label is called likely wrong below {labels.far_below:.3f}, or where "
            f"another identity reaches {labels.median - 3 * labels.spread:.3f} and lies closer by more than "
            f"{2 * labels.spread:.3f}.</p>"
        )
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        begin("Dataset check", head=f'<meta http-equiv="Content-Security-Policy" content="{policy}">')
        + "\n".join(body)
        + "\n</html>\n"
    )


def _sections(findings: Findings, proposals: Sequence[Proposal]) -> Iterable[str]:
    images, labels, evaluation = findings.images, findings.labels, findings.evaluation
    dropped = {proposal.path for proposal in proposals if proposal.drop}
    typical = _typical(findings)

    def ours(index: int, note: str = "") -> str:
        path = images.paths[index]
        return _figure(path, relative(path, findings.root), note, "drop" if path in dropped else "keep")

    def theirs(index: int) -> str:
        assert evaluation is not None
        return _figure(evaluation.paths[index], relative(evaluation.paths[index], str(findings.against)), "evaluation")

    def person(label: int) -> str:
        return ours(typical[label], "typical") if label in typical else ""

    yield _section(
        "Likely wrong labels",
        "The picture, a typical one of its identity, and of the identity nearest to it.",
        [
            _card(
                [ours(i), person(int(images.labels[i])), person(int(labels.nearest[i]))],
                f"similarity to its own identity {labels.own[i]:.2f}, to the nearest other {labels.other[i]:.2f}",
            )
            for i in _worst(findings)[:_SHOWN]
        ],
        int(labels.wrong.sum()),
    )
    for title, about, within in (
        ("Copies in another identity", "One photo under two names: a label is wrong, or it shows two people.", False),
        (
            "Copies within an identity",
            "Of exact copies all but one are proposed to be dropped; near ones are kept.",
            True,
        ),
    ):
        copies = [copy for copy in findings.copies if _is_within(findings, copy) == within]
        cards = [_card([ours(copy.second), ours(copy.first)], _kind(copy)) for copy in copies[:_SHOWN]]
        yield _section(title, about, cards, len(copies))
    yield _section(
        "One person under two names",
        "Identities whose centres agree. Nothing is proposed: join them by hand, or not.",
        [_card([person(one), person(two)], f"similarity {s:.2f}") for one, two, s in labels.same_people[:_SHOWN]],
        len(labels.same_people),
    )
    if evaluation is not None:
        first = {int(label): index for index, label in reversed(list(enumerate(evaluation.labels)))}
        yield _section(
            "People in the evaluation set",
            f"Thresholds let about {SHARED_RATE:.0%} of unrelated identities through; of equal names half is enough.",
            [
                _card(
                    [person(shared.first), theirs(first[shared.second]) if shared.second in first else ""],
                    f"{_text(images.names[shared.first])} and {_text(evaluation.names[shared.second])}: similarity "
                    f"{shared.similarity:.2f}, threshold {shared.threshold:.2f}"
                    f"{', equal names' if shared.same_name else ''}{'' if shared.is_match else ' – looks different'}",
                )
                for shared in findings.shared[:_SHOWN]
            ],
            len(findings.shared),
        )
        yield _section(
            "Images of the evaluation set",
            "",
            [_card([ours(copy.second), theirs(copy.first)], _kind(copy)) for copy in findings.shared_copies[:_SHOWN]],
            len(findings.shared_copies),
        )
        unread = len(evaluation.unreadable) + len(evaluation.faceless)
        if unread:
            yield f'<p class="dim">{unread:,} files of the evaluation set were left out: see report.json.</p>'
    damaged = [
        _card([], f"<b>{_text(relative(path, findings.root))}</b>: {_text(reason)}")
        for _, path, reason in images.unreadable[:_SHOWN]
    ]
    yield _section("Unreadable files", "", damaged, len(images.unreadable))
    small = small_identities(findings, proposals)
    yield _section(
        "Too small identities",
        f"Fewer than {findings.min_images} images, at present or after what else is proposed.",
        [_card([], f"<b>{_text(name)}</b>: {n:,} images, {left:,} left") for name, n, left in small[:_SHOWN]],
        len(small),
    )


def _worst(findings: Findings) -> list[int]:
    """Likely wrong labels, the clearest first."""
    labels = findings.labels
    wrong = labels.wrong.nonzero()[0].tolist()
    return sorted(wrong, key=lambda index: float(labels.own[index]) - max(float(labels.other[index]), 0.0))


def _typical(findings: Findings) -> dict[int, int]:
    """Of each identity the image nearest to its centre."""
    own, best = findings.labels.own, dict[int, int]()
    for index, label in enumerate(findings.images.labels.tolist()):
        if label not in best or own[index] > own[best[label]]:
            best[label] = index
    return best


def _section(title: str, about: str, cards: list[str], n: int) -> str:
    if not n:
        return ""
    more = f'<p class="dim">{n - len(cards):,} more in report.json.</p>' if n > len(cards) else ""
    return (
        f'<h2>{html.escape(title)} <span class="dim">{n:,}</span></h2><p class="dim">{html.escape(about)}</p>'
        f'<div class="sheet cards">{"".join(cards)}</div>{more}'
    )


def _card(figures: Sequence[str], markup: str) -> str:
    return f'<div class="card"><div class="pictures">{"".join(figures)}</div>{markup}</div>'


def _figure(path: str, name: str, note: str = "", mark: str = "") -> str:
    caption = _text(name) + (f" ({html.escape(note)})" if note else "")
    return f'<figure><img class="{mark}" alt="" src="{_picture(path)}"><figcaption>{caption}</figcaption></figure>'


def _picture(path: str) -> str:
    try:
        square, _ = fit(image.read(path), _THUMBNAIL)
    except ImageError:  # gone since it was checked
        return "data:,"
    data = pictures.encode(Image.fromarray(square), "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")


def _kind(copy: Copy) -> str:
    return "exact copy" if copy.exact else f"similarity {copy.similarity:.3f}, correlation {copy.correlation:.2f}"


def _is_within(findings: Findings, copy: Copy) -> bool:
    return bool(findings.images.labels[copy.first] == findings.images.labels[copy.second])


def _theirs(findings: Findings, path: str) -> str:
    return plain_text(relative(path, str(findings.against)))


def _text(text: str) -> str:
    return html.escape(plain_text(text))


def _number(value: float) -> float | None:
    return round(float(value), 4) if value == value else None
