"""Subtitles with the names of the people on screen, in the SubRip format (.srt), which every player can show."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from facespace.io.text import plain_text
from facespace.video.appearances import Appearance

_SHORTEST = 0.2  # shortest time on screen in seconds, for a person in a single frame


def subtitles(appearances: Sequence[Appearance], *, interval: float = 0.0) -> str:
    """Return subtitles with one cue for each period in which the same people are on screen, one name a line.

    A name is listed once even if several faces have it; names are in the order in which people appeared. Faces without
    a name are `unknown`, with their number if there are several. An appearance is shown from its `begin` to its `end`.
    Instead of a `begin` of None, its first analysed frame counts; instead of an `end` of None, its last analysed frame
    plus `interval`, the seconds between two analysed frames.

    >>> print(subtitles([Appearance(1, "Grace Hopper", 0.8, 0.4, 0.0, 3661.0, 9)], interval=0.5), end="")
    1
    00:00:00,000 --> 01:01:01,500
    Grace Hopper
    """
    spans = [_span(seen, interval) for seen in sorted(appearances, key=lambda seen: (seen.first, seen.track))]
    spans.sort(key=lambda span: span[0])
    cues: list[tuple[int, int, str]] = []
    edges = sorted({edge for begin, end, _ in spans for edge in (begin, end)})
    coming = iter(spans)
    next_one = next(coming, None)
    here: list[tuple[int, int, Appearance]] = []
    for begin, end in itertools.pairwise(edges):
        here = [span for span in here if span[1] > begin]
        while next_one is not None and next_one[0] <= begin:
            here.append(next_one)
            next_one = next(coming, None)
        text = _names([seen for _, _, seen in here])
        if cues and cues[-1][1] == begin and cues[-1][2] == text:
            begin = cues.pop()[0]
        if text:
            cues.append((begin, end, text))
    return "\n".join(
        f"{number}\n{_clock(begin)} --> {_clock(end)}\n{text}\n" for number, (begin, end, text) in enumerate(cues, 1)
    )


def _span(seen: Appearance, interval: float) -> tuple[int, int, Appearance]:
    """Return the begin and end of an appearance on screen in milliseconds, and the appearance."""
    begin = seen.first if seen.begin is None else seen.begin
    end = max(seen.last + interval, begin + _SHORTEST)
    if seen.end is not None and seen.end > begin:  # the times of a damaged video may go back
        end = seen.end
    return _milliseconds(begin), _milliseconds(end), seen


def _names(seen: Sequence[Appearance]) -> str:
    names = list(dict.fromkeys(appearance.name for appearance in seen if appearance.name is not None))
    # A player could take an arrow in a name for a time, and angle brackets for markup.
    lines = [plain_text(name).replace("-->", "->").replace("<", "(").replace(">", ")") for name in names]
    if n_unknown := sum(appearance.name is None for appearance in seen):
        lines.append("unknown" if n_unknown == 1 else f"unknown ({n_unknown})")
    return "\n".join(lines)


def _milliseconds(seconds: float) -> int:
    return round(max(seconds, 0.0) * 1000)


def _clock(milliseconds: int) -> str:
    """Format milliseconds as SubRip's times.

    >>> _clock(3_723_004)
    '01:02:03,004'
    """
    seconds, milliseconds = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02},{milliseconds:03}"
