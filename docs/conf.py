"""Sphinx's settings. `make docs` builds the site into docs/_build/html.

The source folder is the root of the repository, so that a link between two Markdown files, to a script or to a picture
is the same on the site and on a forge. Only the files of `include_patterns` become pages. Nothing is fetched while
building, and no page loads anything from elsewhere.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS / "_extensions"))

from facespace._version import __version__  # noqa: E402

project = "facespace"
author = "The facespace developers"
copyright = f"2026 {author}"  # noqa: A001 - Sphinx's name
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "api_pages"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**"]
exclude_patterns = ["docs/_*", "src", "tests", "benchmarks", "demo", "build", "dist", "secrets", ".*", "*.egg-info"]

myst_heading_anchors = 4
highlight_language = "text"
smartquotes = False  # they would make a dash of --option
python_maximum_signature_line_length = 100
python_use_unqualified_type_names = True
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = f"facespace {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_root"]  # index.html, which leads to docs/index.html
html_copy_source = False


def unlink_folders(_app: Sphinx, page: str, source: list[str]) -> None:
    """Show a link to a folder of the repository as its text: the site has no page for a folder."""
    here = (ROOT / page).parent
    source[0] = re.sub(
        r"\[([^\]]+)\]\(([^():#\s]+/)\)", lambda link: link[1] if (here / link[2]).is_dir() else link[0], source[0]
    )


def set_language(_app: Sphinx, page: str, _template: str, context: dict[str, Any], _doctree: Any) -> None:
    """Declare Chinese pages as Chinese, for fonts and screen readers."""
    if page.endswith(".zh-CN"):
        context["language"] = "zh-CN"


def setup(app: Sphinx) -> None:
    """Connect the handlers of this file."""
    app.connect("source-read", unlink_folders)
    app.connect("html-page-context", set_language)
