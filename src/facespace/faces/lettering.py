"""Draws a name as a picture: chooses fonts and reading direction, and transliterates what no font can draw."""

from __future__ import annotations

import functools
import itertools
import math
import unicodedata
import warnings
from dataclasses import dataclass
from typing import Any

from anyascii import anyascii
from PIL import Image, ImageDraw, ImageFont

from facespace.faces.fonts import Fonts
from facespace.io.text import one_line

_MAX_LETTERS = 200  # the limit of stored names
_MIN_SIZE = 11  # pixels; smaller letters are illegible
_ELLIPSIS = "…"
_JOINERS = "\u200c\u200d"  # control how Persian and Indic letters and emoji join; other invisible letters are dropped
# Letters and marks without ink outside category Cf: joiners, fillers, unwritten vowels, variation selectors.
_INVISIBLE = {
    *"\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0",
    *map(chr, range(0xFE00, 0xFE10)),
    *map(chr, range(0xE0100, 0xE01F0)),
}


class LetteringWarning(UserWarning):
    """Warns that a name has letters that this machine cannot draw, so pictures show them transliterated to Latin."""


@dataclass(frozen=True, slots=True)
class _Run:
    """Letters that one font draws in one direction, `ltr` or `rtl`."""

    text: str
    file: str
    direction: str


class Lettering:
    """Draws names with the given fonts; recent drawings are cached, since videos show one name in many frames.

    Emits a `LetteringWarning` the first time that letters have to be transliterated.
    """

    def __init__(self, fonts: Fonts) -> None:
        self._fonts = fonts
        self._warned = False
        self.draw = functools.lru_cache(maxsize=64)(self._draw)

    def _draw(self, name: str, size: int, max_width: int) -> Image.Image:
        """Draw `name` in letters `size` pixels high, as a mask (mode L), at most `max_width` wide with its margins.

        A name that is too wide gets smaller letters, and is then shortened with an ellipsis. It may contain anything:
        control characters and bytes that are not UTF-8 become escapes; marks that reorder the text are dropped.
        """
        clusters, cut = self._drawable(name)
        while (wide := self._width(clusters, size)) > (room := max_width - 2 * _margin(size)) and size > _MIN_SIZE:
            size = max(min(size * room // wide, size - 1), _MIN_SIZE)
        if wide <= room and not cut:
            return self._mask(clusters, size, max_width)
        ellipsis = self._drawable(_ELLIPSIS)[0]
        fewest, most = 0, len(clusters)
        while fewest < most:
            middle = (fewest + most + 1) // 2
            if self._width(clusters[:middle] + ellipsis, size) <= room:
                fewest = middle
            else:
                most = middle - 1
        return self._mask(clusters[:fewest] + ellipsis, size, max_width)

    def _mask(self, clusters: list[str], size: int, max_width: int) -> Image.Image:
        runs = self._runs(clusters)
        fonts = [self._fonts.open(run.file, size) for run in runs]
        boxes = [font.getbbox(**_shaping(run, font), anchor="ls") for run, font in zip(runs, fonts, strict=True)]
        # At least as high as capitals, so that labels look alike; bounded, because marks can be stacked without end.
        above = min(math.ceil(max(0.75 * size, *(-box[1] for box in boxes))), 3 * size // 2)
        below = min(math.ceil(max(0.25 * size, *(box[3] for box in boxes))), size)
        margin = _margin(size)
        width = min(self._width(clusters, size) + 2 * margin, max_width)
        mask = Image.new("L", (width, above + below + margin))
        draw = ImageDraw.Draw(mask)
        x = float(margin)
        for run, font in zip(runs, fonts, strict=True):
            draw.text((round(x), above + margin // 2), fill=255, font=font, anchor="ls", **_shaping(run, font))
            x += font.getlength(**_shaping(run, font))
        return mask

    def _width(self, clusters: list[str], size: int) -> int:
        fonts = ((run, self._fonts.open(run.file, size)) for run in self._runs(clusters))
        return math.ceil(sum(font.getlength(**_shaping(run, font)) for run, font in fonts))

    def _drawable(self, name: str) -> tuple[list[str], bool]:
        """Return the letters to draw for a name, each with its combining marks, and whether the name's end is cut off.

        A word with a letter that cannot be drawn is transliterated.
        """
        visible = "".join(filter(self._is_visible, name[: 2 * _MAX_LETTERS]))
        text = " ".join(unicodedata.normalize("NFC", one_line(visible)).split()) or "?"
        words = []
        for word in text[:_MAX_LETTERS].split(" "):
            clusters = _clusters(word)
            undrawable = next((cluster for cluster in clusters if not self._can_draw(cluster)), None)
            if undrawable is not None:
                self._warn(word, undrawable)
                clusters = [*"".join(map(_in_latin, word))]
            words.append(clusters)
        drawn = [cluster for word in words for cluster in (" ", *word)][1:]
        return drawn, len(text) > _MAX_LETTERS or len(name) > 2 * _MAX_LETTERS

    def _is_visible(self, letter: str) -> bool:
        if letter in _JOINERS:
            return self._fonts.shapes
        return unicodedata.category(letter) != "Cf" and letter not in _INVISIBLE

    def _can_draw(self, cluster: str) -> bool:
        shaped = self._fonts.shapes or not any(map(_is_shaped, cluster))
        return shaped and self._fonts.have(_without_joiners(cluster))

    def _warn(self, name: str, cluster: str) -> None:
        if self._warned:
            return
        self._warned = True
        if any(map(_is_shaped, cluster)) and not self._fonts.shapes:
            reason = "Pillow finds no FriBiDi to order and join its letters; install that (libfribidi0, or fribidi)"
        else:
            reason = "no installed font has its letters; install one, or for East Asia: pip install 'facespace[cjk]'"
        message = f"{name[:40]} and names like it are drawn in Latin letters: {reason}"
        warnings.warn(message, LetteringWarning, stacklevel=2)

    def _runs(self, clusters: list[str]) -> list[_Run]:
        """Return the letters from left to right as they are drawn."""
        letters = [
            _Run(cluster, self._fonts.file_for(_without_joiners(cluster)), direction)
            for cluster, direction in zip(clusters, _directions(clusters), strict=True)
        ]
        groups: list[list[_Run]] = []
        for direction, group in itertools.groupby(letters, key=lambda letter: letter.direction):
            runs = [
                _Run("".join(letter.text for letter in same), file, direction)
                for file, same in itertools.groupby(group, key=lambda letter: letter.file)
            ]
            groups.append(runs[::-1] if direction == "rtl" else runs)
        return list(itertools.chain.from_iterable(groups[::-1] if _base_direction(clusters) == "rtl" else groups))


def _shaping(run: _Run, font: ImageFont.FreeTypeFont) -> dict[str, Any]:
    """Return the arguments for Pillow: the text and its direction (None if the font was opened without shaping)."""
    shaped = font.layout_engine == ImageFont.Layout.RAQM
    return {"text": run.text, "direction": run.direction if shaped else None}


def _margin(size: int) -> int:
    return max(2, size // 4)


def _clusters(text: str) -> list[str]:
    """Split a text into letters, each with the combining marks that follow it.

    >>> [len(cluster) for cluster in _clusters("n" + chr(0x303) + "o")]
    [2, 1]
    """
    clusters: list[str] = []
    for letter in text:
        joined = unicodedata.category(letter)[0] == "M" or letter in _JOINERS
        if clusters and (joined or clusters[-1][-1] == "\u200d"):
            clusters[-1] += letter
        else:
            clusters.append(letter)
    return clusters


def _without_joiners(cluster: str) -> str:
    return "".join(letter for letter in cluster if letter not in _JOINERS)


def _is_shaped(letter: str) -> bool:
    """Return whether a letter has to be joined, reordered or placed relative to its neighbours."""
    if unicodedata.bidirectional(letter) in ("R", "AL"):
        return True
    return unicodedata.category(letter)[0] == "M" and not "\u0300" <= letter <= "\u036f"


def _base_direction(clusters: list[str]) -> str:
    """Return the direction of the whole name: the direction of the first letter that has one."""
    return next((direction for cluster in clusters if (direction := _strong(cluster))), "ltr")


def _directions(clusters: list[str]) -> list[str]:
    """Return the direction of each letter, by a simplified version of Unicode's annex 9.

    Brackets take the direction of what they enclose. Other signs take the direction of their neighbours if these agree,
    or else the direction of the whole name.

    >>> _directions(["a", " ", "(", chr(0x5D0), ")", "!"])
    ['ltr', 'ltr', 'rtl', 'rtl', 'rtl', 'ltr']
    """
    base = _base_direction(clusters)
    strong = [_strong(cluster, digits=True) for cluster in clusters]
    directions: list[str] = []
    for k, cluster in enumerate(clusters):
        before = directions[-1] if directions else base
        after = next(filter(None, strong[k:]), base)
        kind = unicodedata.category(cluster[0])
        neutral = after if kind == "Ps" else before if kind == "Pe" or before == after else base
        directions.append(strong[k] or neutral)
    return directions


def _strong(cluster: str, *, digits: bool = False) -> str:
    kind = unicodedata.bidirectional(cluster[0])
    if kind in ("R", "AL"):
        return "rtl"
    return "ltr" if kind == "L" or (digits and kind in ("EN", "AN")) else ""


def _in_latin(letter: str) -> str:
    """Transliterate a letter to Latin letters. If that is not possible, return `?`, or nothing for marks and joiners.

    >>> _in_latin("Ж"), _in_latin(chr(0xE000))
    ('Zh', '?')
    """
    return anyascii(letter) or ("" if unicodedata.category(letter)[0] == "M" or letter in _JOINERS else "?")
