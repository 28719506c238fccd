from __future__ import annotations

import os
import sys
import unicodedata
from pathlib import Path

import pytest
from PIL import ImageFont

from facespace.faces import fonts
from facespace.faces.fonts import Fonts, font_files, installed_fonts, packaged_files

SCRIPTS = {
    "Latin": "ÀÉÎÕÜßæøþąćđęğıłňőřşťűžȘțẞếữ",
    "Greek": "ΑάΒέΓήΐΞΠΣςφχψώ",
    "Cyrillic": "ЁАЖИЙЛЩЪЫЬЭЮЯёжйщҐїўјљњћџ",
    "Hebrew": "אבגדהוזחטיךכלםמןנסעףפץצקרשת",
    "Arabic": "ءآأؤإئابةتثجحخدذرزسشصضطظعغفقكلمنهوىيپچژکگی",
    "Thai": "กขคงจชดตถทนบปผพมยรลวสหอฮะาำเแโใไ",
    "Devanagari": "अआइईउऊएऐओऔकखगघचछजझटठडढणतथदधनपफबभमयरलवशषसह",
    "Armenian": "ԱԲԳաբգ",
    "Georgian": "აბგდ",
    "Bengali": "অআকখগ",
    "Tamil": "அஆகஙச",
    "Ethiopic": "ሀለሐመከ",
}


@pytest.fixture(scope="module")
def packaged() -> Fonts:
    return Fonts([file for file in packaged_files() if "cjk" not in file])


def glyph(file: str, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = ImageFont.truetype(file, 40, layout_engine=ImageFont.Layout.BASIC).getmask(letter)
    return mask.size, bytes(mask)


@pytest.mark.parametrize("letters", SCRIPTS.values(), ids=SCRIPTS)
def test_the_packaged_fonts_draw_each_letter_otherwise_than_a_missing_one(packaged: Fonts, letters: str) -> None:
    for letter in letters:
        assert packaged.have(letter)
        file = packaged.file_for(letter)
        assert glyph(file, letter) != glyph(file, "\U0010ffff")


def test_letters_that_no_font_has(packaged: Fonts) -> None:
    for letter in ("王", "ゆ", "\ue000", "\U0010ffff", "\u0378"):
        assert not packaged.have(letter)
        assert not packaged.have(f"A{letter}")


@pytest.mark.parametrize("file", packaged_files(), ids=os.path.basename)
def test_the_letters_of_a_font_are_those_of_its_own_table(file: str) -> None:
    """The oracle is the font's character table as read by fontTools, which comes with matplotlib."""
    table = pytest.importorskip("fontTools.ttLib").TTFont(file, fontNumber=0).getBestCmap()
    letters = [chr(code) for code in range(0x21, 0x1400) if unicodedata.category(chr(code))[0] == "L"]
    sample = letters[::17] + [chr(code) for code in sorted(table)[::29] if unicodedata.category(chr(code))[0] == "L"]
    wrong = [letter for letter in sample if fonts._has(file, letter) != (ord(letter) in table)]
    assert not wrong


def test_plain_letters_come_from_one_font(packaged: Fonts) -> None:
    names = {os.path.basename(packaged.file_for(letter)) for letter in SCRIPTS["Latin"] + SCRIPTS["Greek"] + "aZ09 (.)"}
    assert names == {"NotoSans[wght].ttf"}


def test_the_font_inside_pillow_is_the_last() -> None:
    bare = Fonts([])
    assert bare.have("".join(map(chr, range(0x20, 0x7F))))
    assert not bare.have("é")
    assert bare.open(bare.file_for("A"), 20).getlength("A") > 5


def test_files_that_are_not_fonts_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "empty.ttf").touch()
    (tmp_path / "text.otf").write_text("no font")
    files = font_files([str(tmp_path)])
    assert len(files) == 2
    assert Fonts([*files, str(tmp_path / "gone.ttf"), *packaged_files()]).file_for("é") in packaged_files()


def test_preferred_families_first_and_regular_styles_alone(tmp_path: Path) -> None:
    expected = ["NotoSans-Regular.ttf", "NotoSansThai-Regular.ttf", "arial.ttf", "msyh.ttc", "Zapfino.OTF", "NotoSansMono-Regular.ttf", "NotoSerif-Regular.ttf"]  # fmt: skip
    others = [
        "NotoSans-Bold.ttf",
        "NotoSans-Italic.ttf",
        "NotoSansCJK-Light.ttc",
        "LastResort.otf",
        "fonts.dir",
        "arial.afm",
    ]
    for name in others + expected[::-1]:
        folder = tmp_path / name[0]
        folder.mkdir(exist_ok=True)
        (folder / name).touch()
    assert [os.path.basename(file) for file in font_files([str(tmp_path), str(tmp_path / "missing")])] == expected


def test_variable_fonts_are_opened_in_their_regular_weight(packaged: Fonts, monkeypatch: pytest.MonkeyPatch) -> None:
    file = packaged.file_for("A")
    regular = packaged.open(file, 30).getmask("A")
    assert bytes(regular) == bytes(ImageFont.truetype(file, 30).getmask("A"))
    monkeypatch.setattr(fonts, "_WEIGHT", 2000)  # the boldest weight
    assert sum(Fonts([file]).open(file, 30).getmask("A")) > 1.1 * sum(regular)


@pytest.mark.parametrize(
    ("platform", "environment", "folder"),
    [
        ("linux", {"XDG_DATA_DIRS": ""}, "/usr/share/fonts"),
        ("linux", {"XDG_DATA_DIRS": "/run/share:/opt/share"}, "/opt/share/fonts"),
        ("linux", {"XDG_DATA_HOME": "/home/ada/data"}, "/home/ada/data/fonts"),
        ("darwin", {}, "/System/Library/Fonts"),
        ("win32", {"WINDIR": "D:"}, os.path.join("D:", "Fonts")),
    ],
)
def test_the_folders_of_the_system(
    platform: str, environment: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert folder in fonts._system_folders()


def test_the_packaged_fonts_are_asked_before_those_of_the_system() -> None:
    assert installed_fonts().file_for("é") in packaged_files()
    assert installed_fonts() is installed_fonts()
