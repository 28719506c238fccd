"""Report pages: templates, file addresses, embedded pictures and plots."""

from __future__ import annotations

import base64
import functools
import importlib
import importlib.resources
import io
import os
import urllib.parse
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from facespace.errors import RuntimeUnavailable
from facespace.io.files import place_from
from facespace.io.text import plain_text

if TYPE_CHECKING:
    import jinja2
    from matplotlib.figure import Figure


def check_plots() -> None:
    """Raise `RuntimeUnavailable` if a page's plots cannot be drawn; call it before the work starts."""
    try:
        importlib.import_module("matplotlib")
    except ImportError:
        raise RuntimeUnavailable("a report needs matplotlib; install it with: pip install 'facespace[plots]'") from None


def render(template: str, **values: Any) -> str:
    """Return the page of a template in `templates/`, filled with values.

    Every value becomes text that HTML shows unchanged: control characters become escapes, and markup is escaped.
    """
    return _environment().get_template(template).render(values)


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("facespace.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, markupsafe.Markup) else plain_text(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style = importlib.resources.files("facespace.reports").joinpath("style.css").read_text(encoding="utf-8")
    environment.globals["style"] = markupsafe.Markup(style)  # noqa: S704 (a file of this package)
    return environment


def link(folder: PurePath, target: PurePath) -> str:
    """Return the address of a file, for a page in a folder; both paths are absolute.

    It is relative if the file and the page can be moved together (see `place_from`), else it begins with `file:`. Every
    byte of a name that has a meaning in addresses is escaped, so that no name is read as a scheme (`javascript:`).

    >>> from pathlib import PurePosixPath
    >>> link(PurePosixPath("/home/ann/people"), PurePosixPath("/home/ann/my photos/50%#1?.jpg"))
    '../my%20photos/50%25%231%3F.jpg'
    >>> link(PurePosixPath("/home/people"), PurePosixPath("/home/people/javascript:alert(1)"))
    'javascript%3Aalert%281%29'
    """
    place = place_from(folder, target)
    return place.as_uri() if place.is_absolute() else urllib.parse.quote(os.fsencode(place.as_posix()))


def data_uri(kind: str, data: bytes) -> str:
    """Return an address that contains a whole picture, for the `src` of an image; `kind` is png or jpeg."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def new_plot(title: str, x: str, y: str) -> tuple[Figure, Any]:
    """Return an empty plot of the pages' size, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), dpi=110, layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure, axes


def as_png(figure: Figure) -> bytes:
    """Return a plot as the bytes of a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure)  # attaches the canvas with which the figure is saved
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
