"""Parses an HTML page: its text, its tags, and the sources of its pictures."""

from __future__ import annotations

import html.parser


class Page(html.parser.HTMLParser):
    """Fails on tags that are closed in the wrong order, and on attributes that would run a script.

    `open` are the tags still open at the end. `html` is ignored: its end tag may be left out.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not [name for name, _ in attributes if name.startswith("on")]
        if tag not in ("html", "img", "meta"):
            self.open.append(tag)
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert tag == "html" or self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
