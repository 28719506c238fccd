"""Pieces of self-contained report pages: safe text, tables, pictures within the page, curves."""

from __future__ import annotations

import base64
import html
import importlib
import importlib.resources
import io
import os
import urllib.parse
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from facespace.errors import RuntimeUnavailable
from facespace.io.files import place_from
from facespace.io.text import plain_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_plots() -> None:
    """Raise `RuntimeUnavailable` where a page's plots cannot be drawn, before any work is done for them."""
    try:
        importlib.import_module("matplotlib")
    except ImportError:
        raise RuntimeUnavailable("a report wants matplotlib; install it with: pip install 'facespace[plots]'") from None


def begin(title: str, *, head: str = "") -> str:
    """The beginning of a page, with its title and the one style of all pages; `head` is put before them."""
    style = importlib.resources.files("facespace.reports").joinpath("style.css").read_text(encoding="utf-8")
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"{head}<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{safe(title)}</title><style>{style}</style>"
    )


def safe(text: object) -> str:
    """Anything as text that HTML shows as it is.

    >>> safe("<b>&")
    '&lt;b&gt;&amp;'
    """
    return html.escape(plain_text(str(text)))


def link(folder: PurePath, target: PurePath) -> str:
    """The address of a file, for a page in a folder; both paths are absolute.

    It is relative where the file and the page can be moved together, see `place_from`, and else begins with `file:`. Every
    byte of a name that could mean something else in an address is escaped, so that no name becomes another scheme.

    >>> from pathlib import PurePosixPath
    >>> link(PurePosixPath("/home/ann/people"), PurePosixPath("/home/ann/my photos/50%#1?.jpg"))
    '../my%20photos/50%25%231%3F.jpg'
    >>> link(PurePosixPath("/home/people"), PurePosixPath("/home/people/javascript:alert(1)"))
    'javascript%3Aalert%281%29'
    """
    place = place_from(folder, target)
    return place.as_uri() if place.is_absolute() else urllib.parse.quote(os.fsencode(place.as_posix()))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, pictures: Sequence[str] = ()) -> str:
    """A table of texts; `pictures`, if any, are the sources of one picture a row, empty for none, before its texts."""
    text = "".join(f"<th>{safe(name)}</th>" for name in head)
    cells = ["<tr>" + "".join(f"<td class=n>{safe(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    if pictures:
        text = f"<th></th>{text}"
        shown = (f"<td><img alt='' src='{safe(source)}'></td>" if source else "<td></td>" for source in pictures)
        cells = [f"<tr>{cell}{row[4:]}" for cell, row in zip(shown, cells, strict=True)]
    return f"<table><tr>{text}</tr>{''.join(cells)}</table>"


def data_uri(kind: str, data: bytes) -> str:
    """A picture's file (`kind`: png, jpeg) as the source of an image in the page."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def new_plot(title: str, x: str, y: str) -> tuple[Figure, Any]:
    """An empty plot of the pages' size, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), dpi=110, layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure, axes


def as_png(figure: Figure) -> bytes:
    """A plot as the bytes of a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure)  # the figure saves itself by its canvas
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
