"""Pieces of report pages: text that cannot become markup, tables, pictures within the page, and plots."""

from __future__ import annotations

import base64
import io
import sys
from pathlib import PurePosixPath, PureWindowsPath

import numpy as np
import pytest
from PIL import Image

from facespace.errors import RuntimeUnavailable
from facespace.reports.page import as_png, begin, check_plots, data_uri, link, new_plot, safe, table
from support.html_pages import Page

EVIL = "<img src=x onerror=alert(1)> & \"both\" 'quotes'"


def test_safe_text_is_shown_as_it_is() -> None:
    page = Page(f"<p title='{safe(EVIL)}' class=\"{safe(EVIL)}\">{safe(EVIL)}</p>")
    assert page.text == EVIL
    assert page.tags == ["p"]
    assert safe("&<>\"'") == "&amp;&lt;&gt;&quot;&#x27;"


def test_safe_takes_anything_and_escapes_controls() -> None:
    assert safe(0.5) == "0.5"
    assert safe(None) == "None"
    assert safe("a\0b\nc\x1b[31m") == "a\\x00b\\nc\\x1b[31m"
    assert safe("caf\udce9 王 Zoë").encode("utf-8") == "caf\\xe9 王 Zoë".encode()


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


def test_a_table_may_begin_with_pictures() -> None:
    text = table(["a"], [["1"], ["2"]], pictures=["data:,x'>", ""])
    page = Page(text)
    assert page.sources == ["data:,x'>"]
    assert page.text == "a12"
    assert text.count("<td") == 4 and text.count("<th>") == 2
    with pytest.raises(ValueError, match="zip"):
        table(["a"], [["1"], ["2"]], pictures=["data:,"])


def test_a_page_begins_with_its_title_and_style() -> None:
    page = begin("a </title> & <script>")
    assert page.startswith("<!doctype html>")
    parsed = Page(page)
    assert parsed.open == []
    assert parsed.tags == ["html", "meta", "meta", "title", "style"]
    assert "a </title> & <script>" in parsed.text
    assert "<meta charset=utf-8>" in page
    style = page.split("<style>")[1].removesuffix("</style>")
    assert "body{" in style.replace(" ", "")


def test_a_page_fetches_nothing() -> None:
    page = begin("title")
    assert Page(page).sources == []
    for fetching in ("http:", "https:", "@import", "url("):
        assert fetching not in page, fetching


def test_what_belongs_to_the_head_comes_before_the_title() -> None:
    page = begin("title", head="<meta name=robots content=none>")
    assert Page(page).tags == ["html", "meta", "meta", "meta", "title", "style"]
    assert page.index("charset=utf-8") < page.index("name=robots") < page.index("<title>")


def test_a_table_has_a_row_for_each_and_a_cell_for_each_text() -> None:
    rows = [("1", "2"), (EVIL, "4"), ("5", "6")]
    page = Page(table(["left", "right <b>"], iter(rows)))
    assert page.open == []
    assert page.tags == ["table", "tr", "th", "th", *["tr", "td", "td"] * 3]
    assert page.text == "left" + "right <b>" + "12" + EVIL + "456"
    assert Page(table([], [])).tags == ["table", "tr"]


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


def test_plots_leave_nothing_open() -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    as_png(new_plot("", "", "")[0])
    assert plt.get_fignums() == before


def test_with_matplotlib_plots_can_be_drawn() -> None:
    check_plots()


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RuntimeUnavailable, match=r"facespace\[plots\]"):
        check_plots()
