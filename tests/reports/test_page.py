"""Tests the pieces of report pages: escaped text, tables, embedded pictures, and plots."""

from __future__ import annotations

import base64
import importlib.resources
import io
import sys
from pathlib import PurePosixPath, PureWindowsPath

import jinja2
import numpy as np
import pytest
from PIL import Image

from facespace.errors import RuntimeUnavailable
from facespace.reports.page import as_png, check_plots, data_uri, link, new_plot, render
from support.html_pages import Page

EVIL = "<img src=x onerror=alert(1)> & \"both\" 'quotes'"


def groups(name: str = "person-0001", **values: object) -> str:
    """The smallest page: one group without faces, of this name."""
    page = {"n_people": 1, "n_faces": 0, "n_photos": 0, "n_alone": 0, "n_poor": 0, "max_groups": 2, "table": "t.csv"}
    return render("groups.html", **{**page, "groups": [(name, "address", 0, [])], **values})


def test_values_are_shown_unchanged() -> None:
    text = groups(EVIL, groups=[(EVIL, EVIL, 1, [{"photo": EVIL, "caption": EVIL, "picture": EVIL}])])
    page = Page(text)
    assert page.tags.count("img") == 1
    assert EVIL in page.text and EVIL not in text
    assert page.sources == [f"{EVIL}/", EVIL, EVIL]


def test_control_characters_become_escapes() -> None:
    assert "a\\x00b\\nc\\x1b[31m" in groups("a\0b\nc\x1b[31m")
    assert b"caf\\xe9 \xe7\x8e\x8b" in groups("caf\udce9 王").encode()
    assert "<h1>0.5 people</h1>" in groups(n_people=0.5)


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="n_people"):
        render("groups.html", groups=[])


@pytest.mark.parametrize(
    ("folder", "target", "address"),
    [
        ("C:/Users/Ann/people", "C:/Users/Ann/Photos/50% #1.jpg", "../Photos/50%25%20%231.jpg"),
        ("C:/Users/Ann/people", "c:/users/ann/photos/a.jpg", "../photos/a.jpg"),
        ("C:/people", "C:/photos/a.jpg", "file:///C:/photos/a.jpg"),
        ("C:/people", "D:/a b/it's.jpg", "file:///D:/a%20b/it%27s.jpg"),
        ("C:/people", "//nas/share/photos/a.jpg", "file://nas/share/photos/a.jpg"),
    ],
)
def test_addresses_of_files_on_windows(folder: str, target: str, address: str) -> None:
    assert link(PureWindowsPath(folder), PureWindowsPath(target)) == address


@pytest.mark.parametrize(
    "name", ["javascript:alert(1)", "data:,x", "//host", "http:", "..", "a\\b", "caf\udce9", "\n", "'", '"', "<"]
)
def test_no_name_of_a_file_becomes_another_address(name: str) -> None:
    for folder in map(PurePosixPath, ("/a/b", "/a/b/c", "/x")):
        address = link(folder, PurePosixPath("/a/b") / name.lstrip("/"))
        assert not set(address) & set("'\"<>\\\n #?")
        assert address.isascii()
        if not address.startswith("file:///a/b"):
            assert ":" not in address
            assert not address.startswith("/")


def test_every_template_extends_the_page() -> None:
    folder = importlib.resources.files("facespace.reports") / "templates"
    for file in folder.iterdir():
        text = file.read_text(encoding="utf-8")
        assert file.name in ("page.html", "pieces.html") or text.startswith('{% extends "page.html" %}')
        assert "| safe" not in text and "Markup" not in text and "autoescape" not in text


def test_a_page_is_complete_with_its_title_and_style() -> None:
    text = groups()
    assert text.startswith("<!doctype html>")
    page = Page(text)
    assert page.open == []
    assert page.tags[:7] == ["html", "head", "meta", "meta", "title", "style", "body"]
    assert "body {" in text.split("<style>")[1].split("</style>")[0]
    assert text.endswith("</html>\n")


def test_a_page_fetches_nothing() -> None:
    text = groups(groups=[])
    assert Page(text).sources == []
    for fetching in ("http:", "https:", "@import", "url("):
        assert fetching not in text, fetching


def test_a_picture_within_the_page() -> None:
    data = bytes(range(256))
    (source,) = Page(f'<img src="{data_uri("png", data)}">').sources
    head, _, encoded = source.partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(encoded, validate=True) == data
    assert data_uri("jpeg", b"\xff\xd8\xff") == "data:image/jpeg;base64,/9j/"


def test_a_plot_becomes_a_png() -> None:
    figure, axes = new_plot("Title", "the x", "the y")
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == ("Title", "the x", "the y")
    empty = np.asarray(Image.open(io.BytesIO(as_png(figure))).convert("RGB")).astype(int)
    assert empty.shape == (440, 550, 3)  # 5 by 4 inches of 110 px
    axes.plot([0, 1], [0, 1], color="red", linewidth=5)
    data = as_png(figure)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    drawn = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)

    def n_red(pixels: np.ndarray) -> int:
        return int(((pixels[..., 0] > 200) & (pixels[..., 1:] < 60).all(axis=2)).sum())

    assert n_red(empty) == 0
    assert n_red(drawn) > 1000


def test_plots_leave_no_figures_open() -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    as_png(new_plot("", "", "")[0])
    assert plt.get_fignums() == before


def test_plots_can_be_drawn_with_matplotlib() -> None:
    check_plots()


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RuntimeUnavailable, match=r"facespace\[plots\]"):
        check_plots()
