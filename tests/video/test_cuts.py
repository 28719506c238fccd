"""Cuts in synthetic thumbnails: which changes are cuts, and which part of the picture changed when."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from facespace.video.cuts import SIZE, CutFinder

WIDTH, HEIGHT = SIZE


def scene(seed: int, width: int = WIDTH) -> np.ndarray:
    """Return a colourful picture that is smooth enough to be moved."""
    coarse = np.random.default_rng(seed).integers(30, 256, (HEIGHT // 3, width // 4, 3), dtype=np.uint8)
    return coarse.repeat(3, axis=0).repeat(4, axis=1)


def cuts(pictures: Iterable[np.ndarray], rate: int = 25) -> list[int]:
    """Return the numbers of the frames that are cuts, at `rate` frames a second."""
    finder = CutFinder()
    for k, picture in enumerate(pictures):
        finder.add(picture, k / rate)
    return [round(second * rate) for second in finder.take()[0]]


def letterboxed(picture: np.ndarray, bar: int) -> np.ndarray:
    """Return the middle third of a picture between bars of one gray at its sides."""
    result = np.full_like(picture, bar)
    result[:, 11:22] = picture[:, 11:22]
    return result


def test_each_cut_is_found_once_and_in_its_frame() -> None:
    assert cuts([scene(0)] * 5 + [scene(1)] * 7 + [scene(2)] * 3) == [5, 12]
    assert cuts([scene(0)] * 9) == cuts([]) == []


@pytest.mark.parametrize("rate", [2, 5, 25, 60])
def test_shots_of_few_frames(rate: int) -> None:
    shown = [scene(k // 3 % 2) for k in range(24)]  # two pictures alternate
    frames = [picture for picture in shown for _ in range(max(rate // 5, 1))]
    length = 3 * max(rate // 5, 1)
    assert cuts(frames, rate) == list(range(length, len(frames), length))


def test_the_first_frame_is_not_a_cut() -> None:
    assert cuts([scene(0), scene(1)]) == [1]


@pytest.mark.parametrize("bar", [0, 90, 255])
def test_bars_do_not_hide_a_cut(bar: int) -> None:
    assert cuts([letterboxed(scene(0), bar)] * 3 + [letterboxed(scene(1), bar)] * 3) == [3]


def test_a_pan_is_not_a_cut() -> None:
    wide = scene(3, width=400)
    for speed in (1, 2, 3):
        pan = [wide[:, x : x + WIDTH] for x in range(0, 300, speed)]
        assert all(k <= 2 for k in cuts(pan)), "at most at its start at full speed"
    assert cuts([*(wide[:, x // 2 : x // 2 + WIDTH] for x in range(50)), scene(1)]) == [50], "at the end of a slow one"


def test_a_flash_is_not_two_cuts() -> None:
    bright = np.full_like(scene(0), 250)
    assert len(cuts([scene(0)] * 5 + [bright] * 2 + [scene(0)] * 5)) <= 1


def test_changing_light_is_not_a_cut() -> None:
    assert cuts(np.clip(scene(0) * (0.6 + k / 50), 0, 255).astype(np.uint8) for k in range(30)) == []


def test_letters_on_black_are_not_a_cut() -> None:
    black, title = np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    title[8:11, 8:24] = 255
    assert cuts([black, title, black]) == []
    assert cuts([black, scene(0)]) == [1], "out of the dark"


def test_a_person_who_steps_in_is_not_a_cut_but_a_change() -> None:
    finder, empty, person = CutFinder(), scene(0), scene(0)
    person[4:14, 20:28] = scene(1)[4:14, 20:28]
    for k in range(10):
        finder.add(person if k >= 6 else empty, k / 25)
    found, changes = finder.take()
    assert found == ()
    assert changes is not None
    # The frame has ten pixels for each cell.
    assert changes.at((200, 40, 280, 140), 320, 180) == 6 / 25
    assert changes.at((210, 50, 230, 70), 320, 180) == 6 / 25
    assert changes.at((20, 40, 100, 140), 320, 180) is None
    assert changes.at((100, 40, 220, 140), 320, 180) is None, "only a part of the box"


def test_boxes_beyond_the_frame() -> None:
    finder = CutFinder()
    for k, picture in enumerate([scene(0), scene(1)]):
        finder.add(picture, float(k))
    changes = finder.take()[1]
    assert changes is not None
    for box in [(-50, -50, 10, 10), (310, 170, 400, 300), (500, 500, 600, 600), (100, 100, 100.5, 100.5)]:
        assert changes.at(box, 320, 180) == 1.0


def test_a_slow_fade_is_not_a_change_at_once() -> None:
    finder, first, second = CutFinder(), scene(0).astype(float), scene(1).astype(float)
    for k in range(21):
        finder.add((first + (second - first) * k / 20).astype(np.uint8), k / 25)
    found, changes = finder.take()
    assert found == ()
    assert changes is not None
    assert changes.at((0, 0, 320, 180), 320, 180) is None


def test_changes_are_returned_once() -> None:
    finder = CutFinder()
    assert finder.take() == ((), None)
    for k, picture in enumerate([scene(0), scene(1)]):
        finder.add(picture, float(k))
    assert finder.take()[0] == (1.0,)
    assert finder.take() == ((), None)
    finder.add(scene(2), 2.0)
    found, changes = finder.take()
    assert found == (2.0,), "compared with the last frame that was taken in"
    assert changes is not None
    assert changes.at((0, 0, 320, 180), 320, 180) == 2.0
