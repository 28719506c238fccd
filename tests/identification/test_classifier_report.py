"""Reports of classifiers: lines of text, JSON, and a self-contained page."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from facespace.errors import RuntimeUnavailable
from facespace.identification import classifier_report
from facespace.identification.classifier import Classifier, Prediction
from facespace.identification.classifier_evaluation import ClassifierEvaluation
from facespace.identification.classifier_report import (
    as_json,
    in_words,
    prediction_in_words,
    tried_in_words,
    write_report,
)
from support.calibrations import CALIBRATION
from support.sphere import people, unit

HOSTILE = "<b>Zoë</b>"


class Page(HTMLParser):
    """Checks that every tag is closed; collects texts, rows of tables and pictures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.captions: list[str] = []
        self.pictures: list[str] = []
        self.feed(text)
        assert self.open in ([], ["html"])

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.pictures.append(dict(attrs)["src"])
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag == "figcaption":
            self.captions.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] in (["td"], ["th"]):
            self.rows[-1].append(data)
        if self.open[-1:] == ["figcaption"]:
            self.captions[-1] += data


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """Return a classifier of 24 people with ten photos each, enough for a reliability diagram; the first name is HTML."""
    embeddings, owners = people(24, 10, similarity=0.35)
    return Classifier(rate=0.05).fit(embeddings, [HOSTILE if k == 0 else f"person {k:02}" for k in owners])


@pytest.fixture
def tried() -> ClassifierEvaluation:
    """Return an evaluation of five photos, two of them named right; the last two are strangers'."""
    return ClassifierEvaluation(
        (HOSTILE, HOSTILE, "person 01", "Xia", "Yan"),
        (
            Prediction(HOSTILE, 0.61234, 0.5, HOSTILE, 0.98765),
            Prediction("person 01", 0.7, 0.5, "person 01", None),
            Prediction(None, 0.4, 0.5, HOSTILE, None),
            Prediction(None, 0.1, 0.5, "person 01", None),
            Prediction("person 02", 0.9, 0.5, "person 02", None),
        ),
        (True, True, True, False, False),
    )


PATHS = [f"{k} & <i>.png" for k in range(5)]


def photos(folder) -> list[str]:
    """Return the paths of uniformly gray pictures; the last file is missing."""
    paths = [str(folder / path) for path in PATHS]
    for k, path in enumerate(paths[:4]):
        Image.fromarray(np.full((200, 300, 3), 50 * k, np.uint8)).save(path)
    return paths


def test_a_prediction_in_words():
    line = prediction_in_words(Prediction("Anna", 0.61234, 0.5, "Anna", 0.9))
    assert line.startswith("Anna ")
    assert "0.612" in line
    assert "0.500" in line
    line = prediction_in_words(Prediction(None, 0.4, 0.5, "Ben", None))
    assert line.startswith("unknown ")
    assert "Ben" in line


def test_the_rates_held_out_in_words(classifier):
    lines = in_words(classifier)
    names = ["closed_set_accuracy", "known_named_right", "known_rejected", "unknown_detected"]
    for line, name in zip(lines[1:5], names, strict=True):
        rate = classifier.evidence_[name]
        assert f" {rate['share']:.4f} " in line
        assert f"{rate['low']:.3f} to {rate['high']:.3f}" in line
        assert f"{rate['n']} faces" in line
    assert len({line[:30] for line in lines[1:5]}) == 4
    assert f"{classifier.thresholds_[0]:.4f}" in lines[5]
    assert "0.05 of strangers" in lines[5]
    assert classifier.evidence_["threshold_from"] in lines[5]
    assert len(lines) == 6, "there are probabilities"


def test_what_was_not_measured_in_words():
    one_each = Classifier().fit(unit(np.random.default_rng(0).standard_normal((5, 8))), list("abcde"))
    lines = in_words(one_each)
    assert all("not measured" in line for line in lines[1:4])
    assert "5 faces" in lines[4]
    assert "no probabilities" in lines[6]


def test_thresholds_that_differ_and_names_for_everybody():
    vectors = unit(np.random.default_rng(0).standard_normal((5, 8)))
    by_person = Classifier(rate=0.1).fit(vectors, list("aaaab"), calibration=CALIBRATION)
    low, high = sorted(by_person.thresholds_)
    assert f"{low:.4f} to {high:.4f}" in in_words(by_person)[5]
    closed = Classifier(closed_set=True).fit(vectors, list("aaaab"))
    assert "strangers" not in in_words(closed)[5]
    assert "name" in in_words(closed)[5]


def test_the_rates_of_a_test_in_words(tried):
    lines = tried_in_words(tried)
    assert [int(number) for number in re.findall(r"\d+", lines[0])] == [5, 3, 2]
    assert [float(re.search(r"\d\.\d{4}", line).group()) for line in lines[1:]] == [
        pytest.approx(share, abs=1e-4) for share in (1 / 3, 1 / 3, 1 / 3, 1 / 3, 1 / 2)
    ]
    nobody_strange = ClassifierEvaluation(tried.names[:3], tried.predictions[:3], tried.known[:3])
    assert len(tried_in_words(nobody_strange)) == 5, "there is no line about strangers"


def test_json_of_a_classifier(classifier):
    found = as_json(classifier, None, [])
    assert json.loads(json.dumps(found)) == found
    assert "test" not in found
    assert "faces" not in found
    assert (found["method"], found["closed_set"], found["rate"]) == ("centroid", False, 0.05)
    assert found["held_out"] == classifier.evidence_
    assert [person["name"] for person in found["people"]] == list(classifier.names_)
    assert {person["photos"] for person in found["people"]} == {10}
    assert found["people"][3]["threshold"] == round(float(classifier.thresholds_[3]), 4)


def test_json_of_a_test(classifier, tried):
    found = as_json(classifier, tried, ["a\udce9.png", *PATHS[1:]])
    assert found["test"] == tried.rates()
    assert found["faces"][0] == {
        "image": "a\\xe9.png", "true": HOSTILE, "learned": True, "name": HOSTILE, "nearest": HOSTILE,
        "similarity": 0.6123, "threshold": 0.5, "probability": 0.9877,
    }  # fmt: skip
    assert [face["image"] for face in found["faces"][1:]] == PATHS[1:]
    assert found["faces"][4]["learned"] is False
    assert found["faces"][4]["probability"] is None
    with pytest.raises(ValueError, match="zip"):
        as_json(classifier, tried, PATHS[1:])


def test_the_page_is_whole_escaped_and_self_contained(classifier, tried, tmp_path):
    folder = tmp_path / "new" / "folder"
    paths = photos(tmp_path)
    write_report(folder, classifier, tried, paths)
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.json"]
    written = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert written == as_json(classifier, tried, paths)
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "<b>Zoë" not in text
    assert "<i>" not in text
    assert not re.search(r"https?://", text)
    assert page.rows[1:3] == [
        [HOSTILE, "10", f"{classifier.thresholds_[0]:.4f}", "2", "1"],
        ["person 01", "10", f"{classifier.thresholds_[1]:.4f}", "1", "0"],
    ]
    assert len(page.rows) == 1 + 24
    opened = [
        Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) if source else None
        for source in page.pictures
    ]
    assert [picture and picture.format for picture in opened] == ["PNG", "PNG", None, "JPEG", "JPEG"]
    assert [picture and picture.size for picture in opened[2:]] == [None, (96, 64), (96, 64)]


def test_mistakes_begin_with_the_most_similar(classifier, tried, tmp_path, monkeypatch):
    paths = photos(tmp_path)
    write_report(tmp_path, classifier, tried, paths)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert [caption.partition(": ")[0] for caption in page.captions] == ["Yan (a stranger)", HOSTILE, "person 01"]
    assert [caption.endswith(paths[k]) for k, caption in zip((4, 1, 2), page.captions, strict=True)] == [True] * 3
    assert prediction_in_words(tried.predictions[4]) in page.captions[0]
    monkeypatch.setattr(classifier_report, "_SHOWN", 2)
    write_report(tmp_path, classifier, tried, paths)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert Page(text).captions == page.captions[:2]
    assert "<h2>3 wrong" in text, "the heading also counts those that are not shown"


def test_the_page_without_a_test(classifier, tmp_path):
    write_report(tmp_path, classifier, None, [])
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len(page.pictures) == 1
    assert page.captions == []
    assert [len(row) for row in page.rows] == [3] * 25


def test_people_have_faces_and_the_first_figure_is_explained(classifier, tried, tmp_path):
    portraits = {HOSTILE: Image.new("RGB", (96, 80), (200, 0, 0)), "person 02": Image.new("RGB", (50, 96), (0, 200, 0))}
    for one in (None, tried):
        write_report(tmp_path, classifier, one, [] if one is None else photos(tmp_path), portraits)
        text = (tmp_path / "report.html").read_text(encoding="utf-8")
        page = Page(text)
        rows = text.partition("<h2>People</h2>")[2].split("<tr>")[2:]
        assert [row.startswith("<td><img ") for row in rows] == [True, False, True] + [False] * 21
        colors = [
            np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))).mean(axis=(0, 1))
            for source in page.pictures[-2:]
        ]
        assert [int(color.argmax()) for color in colors] == [0, 1]
        assert [len(row) for row in page.rows] == [3 if one is None else 5] * 25
        assert text.count("whose most likely person is the correct one") == 1


def test_of_many_people_the_first_are_shown(classifier, tried, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier_report, "PEOPLE_SHOWN", 5)
    face = Image.new("RGB", (96, 96))
    write_report(tmp_path, classifier, tried, photos(tmp_path), dict.fromkeys(classifier.names_, face))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert [row[0] for row in Page(text).rows[1:]] == list(classifier.names_[:5])
    assert len(Page(text).pictures) == 2 + 3 + 5
    assert "And 19 more people: see report.json." in text
    assert len(json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["people"]) == 24


def test_a_report_needs_matplotlib(classifier, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RuntimeUnavailable, match=r"facespace\[plots\]"):
        write_report(tmp_path / "report", classifier, None, [])
    assert not (tmp_path / "report").exists()
