"""The report of a dataset check: a page for people and a file for programs, with the same facts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from facespace.curation.checker import Findings, wrong_labels
from facespace.curation.keep_drop import apply_list, propose, read_list
from facespace.curation.report import as_json, write_report
from support.findings import EVIL, findings_of_each_kind, images_of
from support.html_pages import Page


@pytest.fixture
def findings(tmp_path: Path) -> Findings:
    return findings_of_each_kind(tmp_path)


def test_the_page_is_complete_and_self_contained(findings: Findings, tmp_path: Path) -> None:
    write_report(findings, tmp_path / "report")
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "keep_drop.csv", "report.html", "report.json",
    ]  # fmt: skip
    page = Page((tmp_path / "report" / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert page.sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    for text in (
        EVIL,
        "not <an> image",
        "the central 160 px of 182 px crops",
        "20images",
        "One person under two names",
    ):
        assert text in page.text, text
    assert "Images of the evaluation set 1" in page.text


def test_a_page_without_findings(tmp_path: Path) -> None:
    images = images_of(tmp_path / "data", {"a": 3, "b": 3})
    labels = wrong_labels(images.embeddings, images.labels, 2)
    clean = Findings(str(tmp_path / "data"), "net", images, [], np.arange(6), labels, 2, None, None, [], [])
    proposals = write_report(clean, tmp_path / "report")
    assert not any(proposal.drop or proposal.reason for proposal in proposals)
    page = Page((tmp_path / "report" / "report.html").read_text(encoding="utf-8"))
    assert "evaluation set" not in page.text
    assert page.tags.count("img") == 0


def test_the_json_has_the_same_facts(findings: Findings) -> None:
    report = json.loads(json.dumps(as_json(findings, propose(findings)), allow_nan=False))
    assert report["counts"] == {
        "images": 20, "identities": 5, "proposed to drop": 9, "unreadable": 1, "likely wrong labels": 1,
        "copies in another identity": 2, "exact copies": 1, "near copies": 1, "one person, two names": 1,
        "too small identities": 1, "people in evaluation set": 1, "images in evaluation set": 1,
    }  # fmt: skip
    assert report["unreadable"] == [{"file": "d/bad.png", "reason": "not <an> image"}]
    assert [(w["file"], w["nearest"], w["far"], w["closer"]) for w in report["wrong_labels"]] == [
        ("a/0.png", "b", True, False)
    ]
    assert [(c["file"], c["other"]) for c in report["copies_across"]] == [
        ("b/2.png", "a/1.png"),
        ("b/4.png", "a/0.png"),
    ]
    assert [(c["file"], c["exact"]) for c in report["copies_within"]] == [("a/3.png", True), ("a/5.png", False)]
    assert report["same_people"] == [{"name": EVIL, "other": "b", "similarity": 0.97}]
    assert report["small_identities"] == [{"name": "d", "images": 2, "left": 1}]
    assert [(s["name"], s["other"], s["match"]) for s in report["shared_people"]] == [
        ("c", "C.", True),
        ("d", "D", False),
    ]
    assert [(c["file"], c["other"]) for c in report["shared_images"]] == [("b/0.png", "C./1.png")]


def test_names_that_are_not_valid_text(tmp_path: Path) -> None:
    images = images_of(tmp_path / "data", {"caf\udce9\n": 2})
    labels = wrong_labels(images.embeddings, images.labels, 1)
    labels.far[0] = True
    odd = Findings(str(tmp_path / "data"), "net", images, [], np.arange(2), labels, 2, None, None, [], [])
    write_report(odd, tmp_path / "report")
    assert "caf\\xe9\\n/0.png" in (tmp_path / "report" / "report.json").read_text().replace("\\\\", "\\")
    lines = read_list(tmp_path / "report" / "keep_drop.csv")
    assert apply_list(lines, tmp_path / "data", tmp_path / "gone").n_moved == 2
    assert (tmp_path / "gone" / "caf\udce9\n" / "1.png").is_file()
