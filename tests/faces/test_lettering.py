from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
from PIL import Image, features

from facespace.faces.fonts import Fonts, packaged_files
from facespace.faces.lettering import Lettering, LetteringWarning

FILES = [file for file in packaged_files() if "cjk" not in file]
NAMES = ["Zoë Müller", "Łukasz Žižka", "Nguyễn Thị", "Καλλιόπη", "Владимир", "Արամ", "თამარ", "ከበደ", "(1) a-b_c.d, e's"]
SHAPED_NAMES = ["שרה כהן", "محمد علي", "สมชาย ก้อง", "श्रीकृष्ण", "হাসান", "தமிழ்", "👩‍🚀"]
SIZE, WIDTH = 30, 2000
shaping = pytest.mark.skipif(not features.check("raqm"), reason="this Pillow finds no FriBiDi")


class EveryLetter(Fonts):
    """Fonts of which the first claims to have every letter, so that it draws placeholder boxes."""

    def have(self, letters: str) -> bool:
        return True

    def file_for(self, letters: str) -> str:
        return FILES[0]


def drawn(name: str, *, fonts: Fonts | None = None, size: int = SIZE, width: int = WIDTH) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LetteringWarning)
        return np.asarray(Lettering(fonts or Fonts(FILES)).draw(name, size, width))


def ink(picture: np.ndarray) -> np.ndarray:
    rows, columns = (np.flatnonzero(picture.any(axis=axis)) for axis in (1, 0))
    return picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if rows.size else picture[:0, :0]


def n_boxes(picture: np.ndarray, shapes: bool) -> int:
    """Count how often the missing-glyph box of one of the fonts appears in a picture."""
    boxes = {}
    for file in FILES:
        mask = Fonts([], shapes=shapes).open(file, SIZE).getmask("\U0010ffff")
        box = ink(np.asarray(mask, np.uint8).reshape(mask.size[::-1]))
        boxes[box.shape, box.tobytes()] = box
    found = 0
    for box in boxes.values():
        if box.size and box.shape <= picture.shape:
            windows = np.lib.stride_tricks.sliding_window_view(picture, box.shape)
            found += int((windows == box).all(axis=(2, 3)).sum())
    return found


@pytest.mark.parametrize("name", NAMES)
def test_no_box_stands_for_a_letter(name: str) -> None:
    for shapes in (False, *([True] if features.check("raqm") else [])):
        assert n_boxes(drawn(name, fonts=Fonts(FILES, shapes=shapes)), shapes) == 0


@shaping
@pytest.mark.parametrize("name", SHAPED_NAMES)
def test_no_box_stands_for_a_letter_that_is_shaped(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = np.asarray(Lettering(Fonts(FILES)).draw(name, SIZE, WIDTH))
    assert n_boxes(picture, shapes=True) == 0


def test_the_test_sees_boxes() -> None:
    assert n_boxes(drawn("ab王小明", fonts=EveryLetter(FILES, shapes=False)), shapes=False) == 3


@pytest.mark.parametrize(
    ("name", "latin"),
    [
        ("王小明", "WangXiaoMing"),
        ("Zoë 王", "Zoë Wang"),
        ("ゆき", "yuki"),
        ("a\ue000", "a?"),
        ("Eve \u0378", "Eve ?"),
    ],
)
def test_letters_that_no_font_has_are_written_in_latin_ones(name: str, latin: str) -> None:
    with pytest.warns(LetteringWarning, match="no installed font has its letters"):
        picture = Lettering(Fonts(FILES)).draw(name, SIZE, WIDTH)
    assert np.array_equal(picture, drawn(latin))


@pytest.mark.parametrize(("name", "latin"), [("محمد علي", "mhmd `ly"), ("שרה", "srh"), ("ก้อง A", "kong A")])
def test_what_cannot_be_shaped_is_written_in_latin_letters(name: str, latin: str) -> None:
    fonts = Fonts(FILES, shapes=False)
    with pytest.warns(LetteringWarning, match="FriBiDi"):
        picture = Lettering(fonts).draw(name, SIZE, WIDTH)
    assert np.array_equal(picture, drawn(latin, fonts=fonts))


def test_the_warning_is_given_once() -> None:
    lettering = Lettering(Fonts(FILES))
    with pytest.warns(LetteringWarning) as warned:
        for name in ("王小明", "李四", "王小明"):
            lettering.draw(name, SIZE, WIDTH)
    assert len(warned) == 1
    assert str(warned[0].message).startswith("王小明 and names like it are drawn in Latin letters")


def test_without_any_font_everything_is_written_in_latin_letters() -> None:
    for name, latin in (("Zoë Müller", "Zoe Muller"), ("Владимир", "Vladimir"), ("王", "Wang")):
        assert np.array_equal(drawn(name, fonts=Fonts([])), drawn(latin, fonts=Fonts([])))


@shaping
def test_hebrew_runs_from_right_to_left() -> None:
    first, both = ink(drawn("א")), ink(drawn("אב"))
    assert np.array_equal(both[:, -first.shape[1] :][-first.shape[0] :], first)


@shaping
def test_words_of_hebrew_follow_each_other_from_right_to_left() -> None:
    """The blank between them comes from another font, so the words are drawn one by one."""
    first, both = drawn("אב"), drawn("אב גד")
    width = ink(first).shape[1] + SIZE // 4  # up to the margin on the right
    assert np.array_equal(both[:, -width:], first[:, -width:])


@shaping
def test_arabic_letters_are_joined() -> None:
    assert ink(drawn("محمد")).any(axis=0).all()
    assert not ink(drawn("م ح م د")).any(axis=0).all()


@shaping
def test_vowel_signs_of_devanagari_take_their_place() -> None:
    """The sign of a short i is written before the consonant that it follows in text."""
    consonant, syllable = ink(drawn("क")), ink(drawn("कि"))
    assert syllable.shape[1] > consonant.shape[1]
    assert np.array_equal(syllable[-10:, -10:], consonant[-10:, -10:])


@shaping
def test_two_directions_in_one_name() -> None:
    """In Unicode's order: a name that begins in Hebrew runs from right to left, the Latin part in it does not."""
    latin, mixed = ink(drawn("Cohen (2)")), ink(drawn("שרה Cohen (2)"))
    assert np.array_equal(mixed[: latin.shape[0], : latin.shape[1]], latin)
    hebrew, mixed = ink(drawn("שרה")), ink(drawn("Cohen שרה"))
    assert np.array_equal(mixed[-hebrew.shape[0] :, -hebrew.shape[1] :], hebrew)


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("\u202egnp.exe\u202c", "gnp.exe"),
        ("\u2066\u200fAnna\u2069\u00ad\ufeff", "Anna"),
        ("e\u0301te\u0301", "été"),
        ("a\nb\t\x07", "a\\nb\\t\\x07"),
        ("caf\udce9", "caf\\xe9"),
        ("\ud800", "\\ud800"),
        ("a\u2028b", "a\\u2028b"),
        ("  Anna \u3000 Maria ", "Anna Maria"),
        ("a\u034fb\ufe0e", "ab"),
        ("\u3164", "?"),
        ("\u202e", "?"),
        (" ", "?"),
        ("", "?"),
    ],
)
def test_names_meant_to_deceive(name: str, same: str) -> None:
    assert np.array_equal(drawn(name), drawn(same))


def test_marks_are_composed_with_their_letters_where_nothing_else_places_them() -> None:
    fonts = Fonts(FILES, shapes=False)
    assert np.array_equal(drawn("e\u0301te\u0301", fonts=fonts), drawn("été", fonts=fonts))


@pytest.mark.parametrize("letter", ["x", "é", "王", "א", "क्", "\u0300", "\u202e", "\udc80", "\0", "👩‍🚀"])
def test_names_of_any_length_are_cut_to_the_width(letter: str) -> None:
    ending = drawn("…", size=11)
    for width in (4, 30, 300):
        picture = drawn(letter * 10_000, width=width)
        assert picture.shape[1] <= width
        assert picture.shape[0] <= 3 * SIZE
    if letter in "xé":
        dots = ink(ending)
        assert np.array_equal(ink(picture)[-dots.shape[0] :, -dots.shape[1] :], dots)


def test_a_wide_name_gets_smaller_letters_before_it_is_cut() -> None:
    name = "Anna Maria Magdalena"
    whole = drawn(name)
    narrow = drawn(name, width=whole.shape[1] * 2 // 3)
    assert whole.shape[0] * 0.5 < narrow.shape[0] < whole.shape[0] * 0.8
    assert ink(narrow).shape[1] > 0.8 * narrow.shape[1]
    smallest = drawn(name, width=60)
    assert np.array_equal(smallest, drawn(name, size=11, width=60))
    assert not np.array_equal(ink(smallest), ink(drawn(name, size=11)))


def test_labels_of_one_size_are_equally_high_whatever_their_letters() -> None:
    assert len({drawn(name).shape[0] for name in ("Anna", "axe", "12", "Jürgen")}) <= 2


def test_marks_are_not_heaped_beyond_bounds() -> None:
    assert drawn("Z" + "\u0300" * 190).shape[0] <= 3 * SIZE


def test_drawings_are_cached() -> None:
    lettering = Lettering(Fonts(FILES))
    assert isinstance(lettering.draw("Zoë", SIZE, WIDTH), Image.Image)
    assert lettering.draw("Zoë", SIZE, WIDTH) is lettering.draw("Zoë", SIZE, WIDTH)


def test_the_fonts_of_the_tests_are_there() -> None:
    assert {"NotoSans[wght].ttf", "NotoSansArabic[wght].ttf"} <= {os.path.basename(file) for file in FILES}
