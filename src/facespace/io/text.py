"""Text from outside made safe to store and print: names of people and of files."""

from __future__ import annotations

import re
import unicodedata

_MAX_NAME = 200
# Marks that reorder the text around them, and line ends that are no controls.
_MARKS = re.compile("[\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def plain_text(text: str) -> str:
    """Text that JSON, SQLite and a terminal take: bytes of a path that are no UTF-8, and controls, become escapes.

    >>> plain_text("caf\\udce9.jpg")
    'caf\\\\xe9.jpg'
    """
    # Nearly all names and paths are printable as they are: letters are looked at one by one only where they are not.
    return text if text.isprintable() else "".join(map(_plain, text))


def _plain(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # how Python keeps a byte of a path that is no UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    if unicodedata.category(letter) in ("Cc", "Cs"):
        return letter.encode("unicode_escape").decode("ascii")
    return letter


def one_line(text: str) -> str:
    """`plain_text` for a message: what `escape_marks` replaces becomes escapes too.

    >>> print(one_line("a" + chr(0x2028) + "b.jpg"))
    a\\u2028b.jpg
    """
    return escape_marks(plain_text(text))


def escape_marks(text: str) -> str:
    """Direction marks and Unicode's line separators as escapes, as JSON writes them too.

    A name that is stored keeps them, but on a terminal they could show a line in another order than it has.

    >>> print(escape_marks("gpj." + chr(0x202E) + "anna"))
    gpj.\\u202eanna
    """
    return _MARKS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def clean_name(name: str) -> str:
    """A person's name as it is stored: composed Unicode, outer blanks off. `ValueError` when nothing is left.

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
    """What an exception says, its first line alone, at most 200 characters; its class where it says nothing.

    >>> first_line(ValueError("too long\\nby far")), first_line(MemoryError())
    ('too long', 'MemoryError')
    """
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
