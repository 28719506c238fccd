"""Subtitles: valid SubRip, with the right names at each second."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from facespace.video.appearances import Appearance
from facespace.video.subrip import subtitles


def seen(
    name: str | None, first: float, last: float, track: int = 1, begin: float | None = None, end: float | None = None
) -> Appearance:
    return Appearance(track, name, 0.5, 0.4, first, last, 3, begin, end)


def read_srt(text: str) -> list[tuple[float, float, list[str]]]:
    """A strict parser of the format: numbers from 1, times with a comma, an empty line after each cue."""
    if not text:
        return []
    cues = []
    for number, block in enumerate(text.removesuffix("\n").split("\n\n"), 1):
        head, times, *names = block.rstrip("\n").split("\n")
        assert head == str(number)
        found = re.fullmatch(r"(\d{2,}):([0-5]\d):([0-5]\d),(\d{3}) --> (\d{2,}):([0-5]\d):([0-5]\d),(\d{3})", times)
        assert found, times
        h1, m1, s1, ms1, h2, m2, s2, ms2 = map(int, found.groups())
        begin, end = 3600 * h1 + 60 * m1 + s1 + ms1 / 1000, 3600 * h2 + 60 * m2 + s2 + ms2 / 1000
        assert begin < end
        assert names
        assert all(names)
        cues.append((begin, end, names))
    for (_, end, _), (begin, _, _) in itertools.pairwise(cues):
        assert end <= begin, "no two cues at once"
    return cues


def test_one_person() -> None:
    assert subtitles([seen("Anna", 1.5, 3.25)], interval=0.25) == "1\n00:00:01,500 --> 00:00:03,500\nAnna\n"


def test_people_come_and_go() -> None:
    text = subtitles([seen("Anna", 0, 10, 1), seen("Ben", 4, 6, 2), seen(None, 20, 21, 3), seen("Anna", 21, 22, 4)])
    assert read_srt(text) == [
        (0, 4, ["Anna"]), (4, 6, ["Anna", "Ben"]), (6, 10, ["Anna"]), (20, 21, ["unknown"]), (21, 22, ["Anna"]),
    ]  # fmt: skip


def test_a_name_is_listed_once_and_strangers_are_counted() -> None:
    text = subtitles([seen(None, 0, 2, 1), seen("Anna", 0, 2, 2), seen(None, 0, 2, 3), seen("Anna", 0, 2, 4)])
    assert read_srt(text) == [(0, 2, ["Anna", "unknown (2)"])]


def test_a_track_that_continues_as_another_makes_no_new_cue() -> None:
    assert read_srt(subtitles([seen("Anna", 0, 2, 1), seen("Anna", 2, 4, 2)])) == [(0, 4, ["Anna"])]
    assert read_srt(subtitles([seen("Anna", 0, 2, 1), seen("Anna", 1, 4, 2)])) == [(0, 4, ["Anna"])]


def test_names_change_where_the_picture_does() -> None:
    """At the cut between two analysed frames, and in the order in which people appear."""
    people = [seen("Anna", 0, 1.0, 1, end=1.12), seen("Ben", 1.2, 2.0, 2, begin=1.12, end=2.2)]
    assert read_srt(subtitles(people, interval=0.2)) == [(0, 1.12, ["Anna"]), (1.12, 2.2, ["Ben"])]
    people = [seen("Anna", 1.0, 2.0, 1), seen("Ben", 1.2, 1.8, 2, begin=0.9, end=2.0)]
    assert read_srt(subtitles(people)) == [(0.9, 1, ["Ben"]), (1, 2, ["Ben", "Anna"])]
    assert read_srt(subtitles([seen("Anna", 1.0, 1.0, begin=0.98, end=1.04)])) == [(0.98, 1.04, ["Anna"])], (
        "however short"
    )


def test_an_end_before_the_beginning_is_ignored() -> None:
    assert read_srt(subtitles([seen("Anna", 5, 6, end=3)], interval=0.5)) == [(5, 6.5, ["Anna"])]


def test_a_single_frame_can_be_read() -> None:
    assert read_srt(subtitles([seen("Anna", 3, 3)])) == [(3, pytest.approx(3.2), ["Anna"])]


def test_no_appearances() -> None:
    assert subtitles([]) == ""


@pytest.mark.parametrize("seconds", [359_999.999, 1e9])
def test_long_videos(seconds: float) -> None:
    ((begin, _, _),) = read_srt(subtitles([seen("Anna", seconds, seconds + 1)]))
    assert begin == pytest.approx(seconds)


def test_names_are_not_markup() -> None:
    text = subtitles([seen("<b>Anna\n\n2\n00:00:00,000 --> 00:00:09,000", 0, 1)])
    ((_, _, names),) = read_srt(text)
    assert len(names) == 1
    assert "<" not in names[0]
    assert "-->" not in names[0]


def test_random_appearances_against_a_slow_oracle() -> None:
    """At every quarter second the cue has exactly the names of the people on screen."""
    dice = random.Random(7)
    for _ in range(30):
        people = []
        for track in range(dice.randrange(12)):
            first = dice.randrange(40) / 2
            people.append(seen(dice.choice(["Anna", "Ben", None]), first, first + dice.randrange(1, 20) / 2, track))
        cues = read_srt(subtitles(people))
        for quarter in range(120):
            now = quarter / 4 + 0.1
            here = [person.name or "unknown" for person in people if person.first <= now < person.last]
            shown = [name for begin, end, names in cues if begin <= now < end for name in names]
            assert {name.split(" (")[0] for name in shown} == set(here)
            if here.count("unknown") > 1:
                assert f"unknown ({here.count('unknown')})" in shown
