"""Finds the fonts of this machine, and which of them has a letter."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import re
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any

from PIL import ImageFont, features

_PACKAGES = ("manimgx_fonts", "manimgx_fonts_cjk")  # read as folders, never imported
_ENDINGS = (".ttf", ".otf", ".ttc", ".otc")
_STYLED = re.compile(r"bold|italic|oblique|light|thin|medium|black|heavy|condensed")
# Apple's LastResort font draws every letter as a placeholder box for its script.
_NO_LETTERS = ("lastresort",)
# Plain sans-serif families, the most complete first. Other files follow, fixed-width and serif fonts last.
_PREFERRED = (
    "notosans-",
    "notosans",
    "dejavusans",
    "segoeui",
    "tahoma",
    "arial",
    "pingfang",
    "hiragino",
    "msyh",
    "yugoth",
    "malgun",
    "leelaw",
    "nirmala",
    "wqy-microhei",
)
_EMBEDDED = ""  # stands for Pillow's built-in font, which has the ASCII letters
_PROBE_SIZE = 20
_NO_CHARACTER = "\U0010ffff"  # never assigned in Unicode, so fonts draw their missing-glyph box
_WEIGHT = 400  # regular; some variable fonts begin with thin


class Fonts:
    """Font files in order of preference, followed by Pillow's small built-in font.

    `shapes` says whether Pillow can join and reorder letters, for which it uses libraqm and FriBiDi. Arabic, Hebrew,
    Thai and the scripts of India need this.

    >>> Fonts([]).have("Anna"), Fonts([]).have("Zoë")
    (True, False)
    """

    def __init__(self, files: Sequence[str], *, shapes: bool | None = None) -> None:
        self._files = (*files, _EMBEDDED)
        self.shapes = bool(features.check("raqm")) if shapes is None else shapes
        self.open = functools.lru_cache(maxsize=64)(self._open)

    def have(self, letters: str) -> bool:
        """Return whether one of the fonts has all of the letters."""
        return any(_has_all(file, letters) for file in self._files)

    def file_for(self, letters: str) -> str:
        """Return the first font file that has all of the letters. If none has, return "", Pillow's built-in font."""
        return next((file for file in self._files if _has_all(file, letters)), _EMBEDDED)

    def _open(self, file: str, size: int) -> ImageFont.FreeTypeFont:
        """Open the font of a file at a size in pixels, in its regular weight."""
        layout = ImageFont.Layout.RAQM if self.shapes else ImageFont.Layout.BASIC
        return _load(file, size, layout)


@functools.cache
def installed_fonts() -> Fonts:
    """Return the fonts of facespace's packages, then those of the system. The search runs once; its result is kept."""
    return Fonts(packaged_files() + font_files(_system_folders()))


def packaged_files() -> list[str]:
    """Return the font files of the packages that facespace requires, and of its extra `cjk` if installed."""
    specs = filter(None, map(importlib.util.find_spec, _PACKAGES))
    return [file for spec in specs for file in font_files(spec.submodule_search_locations or ())]


def font_files(folders: Sequence[str]) -> list[str]:
    """Return the upright regular font files in folders and their subfolders, preferred families first."""
    files = [os.path.join(at, name) for folder in folders for at, _, names in os.walk(folder) for name in names]
    return sorted((file for file in files if _is_regular(file)), key=_preference)


def _is_regular(file: str) -> bool:
    name = os.path.basename(file).lower()
    return name.endswith(_ENDINGS) and not name.startswith(_NO_LETTERS) and not _STYLED.search(name)


def _preference(file: str) -> tuple[bool, int, str, str]:
    name = os.path.basename(file).lower()
    rank = next((k for k, family in enumerate(_PREFERRED) if name.startswith(family)), len(_PREFERRED))
    return "mono" in name or "serif" in name, rank, name, file


def _system_folders() -> list[str]:
    home = os.path.expanduser("~")
    if sys.platform == "win32":
        windows, local = os.environ.get("WINDIR", r"C:\Windows"), os.environ.get("LOCALAPPDATA", home)
        return [os.path.join(windows, "Fonts"), os.path.join(local, "Microsoft", "Windows", "Fonts")]
    if sys.platform == "darwin":
        return [os.path.join(home, "Library/Fonts"), "/Library/Fonts", "/System/Library/Fonts"]
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(home, ".local/share")
    shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    return [os.path.join(home, ".fonts"), *(os.path.join(folder, "fonts") for folder in (data, *shared.split(":")))]


def _has_all(file: str, letters: str) -> bool:
    return all(_has(file, letter) for letter in letters)


@functools.lru_cache(maxsize=1 << 16)
def _has(file: str, letter: str) -> bool:
    """Return whether a font draws a letter: not its sign for missing letters, and with ink unless it is invisible."""
    try:
        font, missing = _probe(file)
        drawn = _drawn(font, letter)
    except OSError:  # not a font that FreeType reads, or a bitmap font
        return False
    return drawn != missing and (any(drawn[-1]) or letter.isspace() or unicodedata.category(letter) == "Cf")


@functools.lru_cache(maxsize=256)
def _probe(file: str) -> tuple[ImageFont.FreeTypeFont, tuple[float, tuple[int, int], bytes]]:
    font = _load(file, _PROBE_SIZE, ImageFont.Layout.BASIC)
    return font, _drawn(font, _NO_CHARACTER)


def _drawn(font: ImageFont.FreeTypeFont, letter: str) -> tuple[float, tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return font.getlength(letter), mask.size, bytes(mask)


def _load(file: str, size: int, layout: ImageFont.Layout) -> ImageFont.FreeTypeFont:
    if file == _EMBEDDED:
        font = ImageFont.load_default(size)
        assert isinstance(font, ImageFont.FreeTypeFont)  # load_default returns this class whenever a size is given
        return font
    font = ImageFont.truetype(file, size, layout_engine=layout)
    with contextlib.suppress(OSError):  # most fonts are not variable
        font.set_variation_by_axes([_regular_value(axis) for axis in font.get_variation_axes()])
    return font


def _regular_value(axis: Any) -> float:
    """Return an axis's value in a variable font's regular style: 400 for the weight, the default for any other axis."""
    if axis["name"] != b"Weight":
        return float(axis["default"])
    return float(min(max(_WEIGHT, axis["minimum"]), axis["maximum"]))
