"""Text from outside made safe to store and print: names of people and of files."""

from __future__ import annotations

import unicodedata

_MAX_NAME = 200


def plain_text(text: str) -> str:
    """Text that JSON, SQLite and a terminal take: bytes of a path that are no UTF-8, and controls, become escapes.

    >>> plain_text("caf\\udce9.jpg")
    'caf\\\\xe9.jpg'
    """
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(
        letter.encode("unicode_escape").decode("ascii") if unicodedata.category(letter) in ("Cc", "Cs") else letter
        for letter in text
    )


def clean_name(name: str) -> str:
    """A person's name as it is stored: composed Unicode, outer blanks off. `ValueError` when nothing is left.

    >>> clean_name("  Zoe\\u0308 ")
    'Zoë'
    """
    cleaned = unicodedata.normalize("NFC", plain_text(name)).strip()
    if not cleaned or len(cleaned) > _MAX_NAME:
        raise ValueError(f"a name wants 1 to {_MAX_NAME} characters; got {cleaned[:40]!r}")
    return cleaned
