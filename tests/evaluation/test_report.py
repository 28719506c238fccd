"""Tests the report: its JSON, and its self-contained page."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from facespace.datasets.pairs.pair_sets import PairSet
from facespace.evaluation.pairs import evaluate_pairs
from facespace.evaluation.report import as_json, warnings, worst, write_report
from support.evaluations import FITS, Colours, crop, files, listed


class Page(HTMLParser):
    """Checks that every tag is closed; collects text and pictures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.pictures: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.pictures.append(dict(attrs)["src"])
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def evaluation():
    """Three errors: an unreadable photo, a pair of similar strangers, a person who changed."""
    there = files()
    there[0] = b"no image"
    there[4] = crop(3, 100)  # person 2 looks like person 3
    pairs = listed(fold=True, groups={"age <b>": tuple("young" if k < 8 else "old" for k in range(16))})
    return evaluate_pairs(PairSet("<set> & co", pairs, there, FITS), Colours(), keep_thumbnails=True)


def test_a_model_whose_embeddings_are_all_alike(tmp_path, evaluation):
    class Constant(Colours):
        def embed(self, crops):
            return np.ones((len(crops), 6), np.float32) / np.float32(np.sqrt(6)) + 1e-4 * super().embed(crops)

    collapsed = evaluate_pairs(PairSet("set", listed(), files(), FITS), Constant(), flip="concat")
    (line,) = [line for line in warnings(collapsed) if "alike" in line]
    assert line.startswith("The model cannot be judged: its embeddings are all alike: of photos of different people")
    write_report(tmp_path, collapsed)
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["collapsed"] == collapsed.collapsed
    assert "The model cannot be judged" in "".join(Page((tmp_path / "report.html").read_text(encoding="utf-8")).text)
    assert evaluation.collapsed == "" and as_json(evaluation)["collapsed"] is None
    assert not any("alike" in line for line in warnings(evaluation))


def test_json_has_the_documented_keys(evaluation, tmp_path):
    write_report(tmp_path / "new" / "folder", evaluation)
    report = json.loads((tmp_path / "new" / "folder" / "report.json").read_text(encoding="utf-8"))
    result = evaluation.verification
    assert report["accuracy"]["mean"] == result.accuracy and report["accuracy"]["std"] == result.accuracy_std
    assert report["accuracy"]["interval"] == list(evaluation.intervals["accuracy"])
    assert report["accuracy"]["threshold"] == result.threshold
    assert list(report["val_at_far"]) == ["1e-1", "1e-2", "1e-3", "1e-4", "1e-5", "1e-6"]
    assert report["val_at_far"]["1e-3"] is None
    assert "at least 1,000 pairs" in report["val_at_far_details"]["1e-3"]["reason"]
    assert report["auc"] == result.auc and report["eer"] == result.eer
    assert report["pairs"] == {"used": 16, "missing": 0, "undetected": 3, "same": 8, "different": 8}
    assert report["settings"]["model"] == "colours" and report["settings"]["distance"] == "squared Euclidean"
    assert report["failed_photos"].keys() == {"0/0_1"}
    assert report["groups"]["age <b>"]["young"]["same"] == 4


def test_no_spread_without_folds():
    report = as_json(evaluate_pairs(PairSet("set", listed(), files(), FITS), Colours()))
    assert report["accuracy"]["std"] is None and report["accuracy"]["interval"] is None
    assert report["intervals_95_over_people"]["accuracy"] == [1.0, 1.0]


def test_page_is_complete_escaped_and_self_contained(evaluation, tmp_path):
    write_report(tmp_path, evaluation)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open in ([], ["html"])
    assert "<set>" not in text and "&lt;set&gt; &amp; co" in text and "age <b>" not in text
    assert not re.search(r"https?://", text)
    shown = "".join(page.text)
    assert f"{evaluation.verification.accuracy:.4f}" in shown
    assert "3 pairs have a photo without a face or unreadable" in shown
    n_worst = sum(map(len, worst(evaluation)))
    assert n_worst and len(page.pictures) == 3 + 2 * n_worst
    for k in itertools.chain(*worst(evaluation)):
        assert f"distance {evaluation.verification.distances[k]:.4f}: " in shown
    for picture in page.pictures:
        Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))).load()


def test_worst_are_the_errors_worst_first(evaluation):
    matches, non_matches = worst(evaluation)
    result, same = evaluation.verification, evaluation.source.pairs.same
    wrong = ~result.correct & np.isfinite(result.distances)
    assert set(matches) == set(np.flatnonzero(wrong & ~same)) and set(non_matches) == set(np.flatnonzero(wrong & same))
    assert [result.distances[k] for k in matches] == sorted(result.distances[k] for k in matches)
    assert [result.distances[k] for k in non_matches] == sorted(
        (result.distances[k] for k in non_matches), reverse=True
    )
    assert len(worst(evaluation, 1)[0]) <= 1


def test_misfit_is_the_first_line(tmp_path):
    from facespace.faces.crops import CropRecord

    source = PairSet("set", listed(), files(size=48), CropRecord(48, 0, "arcface"))
    evaluation = evaluate_pairs(source, Colours(), resize_crops=True)
    write_report(tmp_path, evaluation)
    body = (tmp_path / "report.html").read_text(encoding="utf-8").partition("<body>")[2]
    assert body.strip().startswith('<p class="warn"><b>Crops and model do not fit:</b> the crops are 48 px arcface')
    assert "optimistic" in " ".join(warnings(evaluation))
