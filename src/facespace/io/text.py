"""Makes untrusted text safe to store and print: names of people and of files."""

from __future__ import annotations

import re
import unicodedata

_MAX_NAME = 200
# Characters that reorder the text around them, and line separators that are not control characters.
_MARKS = re.compile("[\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def plain_text(text: str) -> str:
    """Escape bytes of a path that are not UTF-8, and control characters, so that JSON, SQLite and terminals accept the text.

    >>> plain_text("caf\\udce9.jpg")
    'caf\\\\xe9.jpg'
    """
    # Fast path: nearly all names and paths are printable.
    return text if text.isprintable() else "".join(map(_plain, text))


def _plain(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # Python's surrogate for a byte of a path that is not UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    if unicodedata.category(letter) in ("Cc", "Cs"):
        return letter.encode("unicode_escape").decode("ascii")
    return letter


def one_line(text: str) -> str:
    """Escape text for a message, as `plain_text` and `escape_marks` do.

    >>> print(one_line("a" + chr(0x2028) + "b.jpg"))
    a\\u2028b.jpg
    """
    return escape_marks(plain_text(text))


def escape_marks(text: str) -> str:
    """Escape direction marks and Unicode's line separators, in the notation of JSON.

    Stored names keep these characters, but on a terminal they could reorder the other characters of a line.

    >>> print(escape_marks("gpj." + chr(0x202E) + "anna"))
    gpj.\\u202eanna
    """
    return _MARKS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def clean_name(name: str) -> str:
    """Return a person's name as it is stored: composed Unicode, stripped. Raises `ValueError` if it is empty or too long.

    >>> clean_name("  Zoe\\u0308 ")
    'Zoë'
    """
    if not isinstance(name, str):
        raise TypeError(f"a name must be text, got {type(name).__name__} {name!r}"[:120])
    cleaned = unicodedata.normalize("NFC", plain_text(name.strip())).strip()
    if not cleaned or len(cleaned) > _MAX_NAME:
        raise ValueError(f"a name must have 1 to {_MAX_NAME} characters, got {cleaned[:40]!r}")
    return cleaned


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, at most 200 characters; its class name if it has no message.

    >>> first_line(ValueError("too long\\nby far")), first_line(MemoryError())
    ('too long', 'MemoryError')
    """
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
