from __future__ import annotations

import numpy as np
import pytest

from facespace.faces import drawing
from facespace.faces.drawing import FOUND, KNOWN, UNKNOWN, annotate
from facespace.faces.face import Face
from facespace.faces.fonts import Fonts, packaged_files
from facespace.faces.lettering import Lettering

HEIGHT, WIDTH = 200, 300
GRAY = 90


@pytest.fixture(autouse=True)
def fonts_of_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use only the fonts that come with facespace, even if others are installed."""
    lettering = Lettering(Fonts([file for file in packaged_files() if "cjk" not in file]))
    monkeypatch.setattr(drawing, "_lettering", lambda: lettering)


def face(x1: float, y1: float, x2: float, y2: float) -> Face:
    w, h = x2 - x1, y2 - y1
    points = ((0.3, 0.35), (0.7, 0.35), (0.5, 0.55), (0.35, 0.8), (0.65, 0.8))
    return Face((x1, y1, x2, y2), 0.9, tuple((x1 + a * w, y1 + b * h) for a, b in points))


def frame_width(height: float, size: tuple[int, int]) -> int:
    picture = np.full((*size[::-1], 3), GRAY, np.uint8)
    drawn = np.asarray(annotate(picture, [face(100, 100, 100 + height, 100 + height)], [""], [KNOWN]))
    return int(changed(drawn)[:, 100 + round(height / 2)][:110].sum())


def test_frames_are_seen_on_large_pictures_and_do_not_hide_small_faces() -> None:
    assert frame_width(400, (1500, 1200)) == 8
    assert frame_width(40, (1500, 1200)) == 2
    assert frame_width(40, (300, 200)) == 2


@pytest.fixture
def image() -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), GRAY, np.uint8)


def changed(picture: np.ndarray) -> np.ndarray:
    return (picture != GRAY).any(axis=2)


def test_frame_and_landmarks(image: np.ndarray) -> None:
    one = face(100, 60, 180, 150)
    picture = np.asarray(annotate(image, [one], [""], [KNOWN]))
    assert picture.shape == image.shape
    assert (image == GRAY).all(), "it is a copy"
    for x, y in [(100, 100), (180, 100), (140, 60), (140, 150), *one.landmarks]:
        assert tuple(picture[round(y), round(x)]) == KNOWN
    inside = changed(picture)[64:147, 104:177]
    assert inside.sum() < 5 * 16, "nothing but five dots inside the frame"
    assert not changed(picture)[:50].any()


def test_a_label_stands_above_its_frame(image: np.ndarray) -> None:
    plain = np.asarray(annotate(image, [face(100, 60, 180, 150)], [""], [UNKNOWN]))
    labelled = np.asarray(annotate(image, [face(100, 60, 180, 150)], ["unknown"], [UNKNOWN]))
    rows = np.flatnonzero((plain != labelled).any(axis=(1, 2)))
    assert rows.min() >= 36
    assert rows.max() <= 60
    strip = labelled[rows.min() : 60, 100:]
    assert (strip == UNKNOWN).all(axis=2).any()
    assert (strip > 230).all(axis=2).any(), "white letters"


@pytest.mark.parametrize(
    "box",
    [(-40, -30, 60, 50), (250, 150, 340, 260), (0, 0, 300, 200), (-10, -10, 310, 210), (295, 195, 299, 199), (400, 300, 450, 350)],
)  # fmt: skip
@pytest.mark.parametrize("label", ["Anna", "x" * 10_000, "王小明", "👩‍🚀", "שרה", "a\nb", "\u202e", "caf\udce9"])
@pytest.mark.filterwarnings("ignore::facespace.faces.lettering.LetteringWarning")
def test_labels_stay_in_the_picture(image: np.ndarray, box: tuple[float, float, float, float], label: str) -> None:
    plain = np.asarray(annotate(image, [face(*box)], [""], [FOUND]))
    labelled = np.asarray(annotate(image, [face(*box)], [label], [FOUND]))
    assert labelled.shape == image.shape
    assert ((plain != labelled).any(axis=2)).sum() > 50, "the label is to be seen"


def letter_size(height: float, size: tuple[int, int]) -> int:
    return drawing._letter_size(face(0, 0, height, height), size)


def test_labels_are_read_on_the_whole_picture_and_do_not_cover_it() -> None:
    assert letter_size(40, (300, 200)) >= 11
    assert letter_size(40, (4000, 3000)) > 4000 / 160
    assert 4000 / 50 < letter_size(600, (4000, 3000)) < 600 / 4
    assert letter_size(2000, (4000, 3000)) < 4000 / 20


def test_a_face_that_comes_nearer_in_a_film_changes_the_size_of_its_label_in_few_steps() -> None:
    assert len({letter_size(height, (640, 480)) for height in range(100, 200, 4)}) <= 5


def test_the_letters_of_a_name_are_drawn(image: np.ndarray) -> None:
    """No two names look alike, as they would if boxes replaced their letters."""
    pictures = [
        np.asarray(annotate(image, [face(20, 60, 80, 120)], [name], [KNOWN])) for name in ("Zoé", "Zoë", "Zoж", "Zoλ")
    ]
    assert len({picture.tobytes() for picture in pictures}) == 4


def test_labels_lie_over_every_frame(image: np.ndarray) -> None:
    lower, upper = face(50, 100, 150, 190), face(40, 20, 160, 98)
    first = np.asarray(annotate(image, [lower, upper], ["lower", ""], [KNOWN, UNKNOWN]))
    second = np.asarray(annotate(image, [upper, lower], ["", "lower"], [UNKNOWN, KNOWN]))
    assert np.array_equal(first, second)


def test_every_face_has_its_colour(image: np.ndarray) -> None:
    picture = np.asarray(annotate(image, [face(20, 60, 80, 120), face(150, 60, 210, 120)], ["", ""], [KNOWN, UNKNOWN]))
    assert tuple(picture[90, 20]) == KNOWN
    assert tuple(picture[90, 150]) == UNKNOWN


def test_no_faces(image: np.ndarray) -> None:
    assert np.array_equal(np.asarray(annotate(image, [], [], [])), image)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1)])
def test_tiny_pictures(shape: tuple[int, int]) -> None:
    picture = annotate(np.zeros((*shape, 3), np.uint8), [face(0, 0, 1, 1)], ["a long label"], [KNOWN])
    assert picture.size == shape[::-1]


def test_one_label_and_one_colour_per_face(image: np.ndarray) -> None:
    with pytest.raises(ValueError):
        annotate(image, [face(20, 60, 80, 120)], [], [KNOWN])
    with pytest.raises(ValueError):
        annotate(image, [face(20, 60, 80, 120)], ["Anna"], [])
