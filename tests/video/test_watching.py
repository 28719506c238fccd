"""Watching: which people are reported, each person once while they stay, each stranger once."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Iterable, Iterator

import pytest

from facespace.faces.face import Face
from facespace.video import watching
from facespace.video.appearances import NamedFace, NamedFrame
from facespace.video.naming import VideoNamer
from facespace.video.reader import Frame
from facespace.video.watching import Seen, Watcher, watched
from support.gray_people import StubDetector, StubEmbedder, frame, namer

BIG = Face((0, 0, 90, 90), 0.9, ((1, 1),) * 5, quality=0.8)
BLURRED = dataclasses.replace(BIG, quality=0.2)
SMALL = Face((0, 0, 20, 20), 0.9, ((1, 1),) * 5, quality=0.1)


def look(*faces: tuple[int, str | None] | tuple[int, str | None, Face], similarity: float | None = 0.6) -> NamedFrame:
    """Return a frame of (track, name) or (track, name, face)."""
    named = []
    for track, name, *face in faces:
        alike = similarity if name is not None or similarity is None else min(similarity, 0.2)
        named.append(NamedFace(face[0] if face else BIG, track, name, alike, 0.4))
    return NamedFrame(0, 0.0, named)


def told(watcher: Watcher, frame: NamedFrame, at: float) -> list[tuple[str, str | None]]:
    return [(seen.kind, seen.face.name or seen.reason) for seen in watcher.update(frame, at)]


def all_told(watcher: Watcher, looks: Iterable[NamedFrame], begin: float = 0.0) -> list[tuple[str, str | None]]:
    """Return who is reported for frames at five a second."""
    return list(itertools.chain.from_iterable(told(watcher, one, begin + k / 5) for k, one in enumerate(looks)))


def test_a_person_is_reported_at_the_second_frame() -> None:
    watcher = Watcher()
    assert told(watcher, look((1, "Anna")), 0) == []
    assert told(watcher, look((1, "Anna"), (2, "Ben")), 0.2) == [("known", "Anna")]
    assert told(watcher, look((1, "Anna"), (2, "Ben")), 0.4) == [("known", "Ben")]
    for k in range(1000):
        assert told(watcher, look((1, "Anna"), (2, "Ben")), 1 + k) == [], "they stay, however long"


def test_a_single_frame_under_another_name_is_not_reported() -> None:
    watcher = Watcher()
    names = ["Anna", "Anna", "Ben", "Anna", "Anna", None, "Ben", None, "Ben"]
    assert all_told(watcher, [look((1, name)) for name in names]) == [("known", "Anna")]


@pytest.mark.parametrize(("away", "again"), [(59, False), (61, True)])
def test_a_person_comes_back(away: float, again: bool) -> None:
    watcher = Watcher(cooldown=60)
    for k in range(3):
        told(watcher, look((1, "Anna")), k / 5)
    found = [told(watcher, look((2, "Anna")), 0.4 + away + k / 5) for k in range(3)]
    assert ([("known", "Anna")] in found) is again


def test_a_reopened_source_does_not_report_everyone_again() -> None:
    watcher = Watcher()
    assert all_told(watcher, [look((1, "Anna"))] * 3) == [("known", "Anna")]
    assert watcher.end() == []
    assert all_told(watcher, [look((1, "Anna"))] * 3, 5) == []


def test_a_stranger_is_reported_once_a_track() -> None:
    watcher = Watcher()
    found = [told(watcher, look((1, None)), k / 5) for k in range(50)]
    assert found[4] == [("unknown", "stranger")]
    assert sum(map(len, found)) == 1
    assert all_told(watcher, [look((2, None))] * 9, 20) == [("unknown", "stranger")]


def test_a_stranger_is_reported_with_the_best_frame() -> None:
    watcher = Watcher()
    faces = [BLURRED, dataclasses.replace(BIG, quality=0.9), BIG, BLURRED, BIG]
    seen = [one for k, face in enumerate(faces) for one in watcher.update(look((1, None, face)), k / 5)]
    assert [one.face.face.quality for one in seen] == [0.9]


@pytest.mark.parametrize(("face", "reason"), [(SMALL, "too_small"), (BLURRED, "too_blurred")])
def test_a_weak_face_is_never_reported_as_a_stranger(face: Face, reason: str) -> None:
    watcher = Watcher()
    found = [told(watcher, look((1, None, face)), k / 5) for k in range(30)]
    assert found[14] == [("unknown", reason)]
    assert sum(map(len, found)) == 1


def test_a_weak_face_is_reported_when_it_is_gone() -> None:
    watcher = Watcher()
    assert all_told(watcher, [look((1, None, BLURRED))] * 6) == []
    assert told(watcher, look(), 3) == []
    assert told(watcher, look(), 5) == [("unknown", "too_blurred")]
    assert all_told(watcher, [look((2, None, SMALL))] * 6 + [look((3, None, SMALL))] * 4, 20) == []
    assert [seen.reason for seen in watcher.end()] == ["too_small"], "the other was seen too briefly"


def test_a_face_that_had_a_name_is_not_a_stranger() -> None:
    watcher = Watcher()
    assert told(watcher, look((1, "Anna")), 0) == []
    assert all_told(watcher, [look((1, None))] * 30) == []


def test_a_name_of_another_face_makes_no_stranger() -> None:
    watcher = Watcher()
    twin = NamedFrame(0, 0.0, [NamedFace(BIG, 1, None, 0.6, 0.4)])
    assert all_told(watcher, [twin] * 30) == []


def test_nobody_is_enrolled() -> None:
    watcher = Watcher()
    found = all_told(watcher, [look((1, None), similarity=None)] * 9)
    assert found == [("unknown", "nobody_enrolled")]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MAX_PEOPLE", 50)
    watcher = Watcher()
    for k in range(500):
        for second in (0, 0.2):
            watcher.update(look((k, f"person {k}"), (1000 + k, None)), 20 * k + second)
    assert len(watcher._last) == 50
    assert len(watcher._tracks) <= 4


def test_a_cooldown_below_zero() -> None:
    with pytest.raises(ValueError, match="cooldown must be at least 0 seconds, got -1"):
        Watcher(cooldown=-1)


def test_several_connections_and_a_real_namer() -> None:
    """Gray 10 is Anna; 50 is unknown."""
    closed = []

    def connection(number: int) -> Iterator[Frame]:
        try:
            for k in range(12):
                yield frame(k, 10, 50)
        finally:
            closed.append(number)

    class Camera:
        second = 0.0

    def clock(named: NamedFrame) -> float:
        Camera.second += 0.2
        return Camera.second

    def make() -> VideoNamer:
        return VideoNamer(StubDetector(), StubEmbedder(), namer, keep_appearances=False)  # type: ignore[arg-type]

    turn = threading.Lock()
    found: list[Seen] = []
    for seen in watched([connection(1), connection(2)], make, Watcher(), clock, turn=turn):
        assert turn.locked() is (seen.kind == "known"), "held while a frame is named, not at the end of a source"
        found.append(seen)
    assert not turn.locked()
    assert [(seen.kind, seen.face.name) for seen in found] == [("known", "Anna"), ("unknown", None), ("unknown", None)]
    assert closed == [1, 2]


def test_the_lock_is_free_when_the_watcher_stops() -> None:
    def make() -> VideoNamer:
        return VideoNamer(StubDetector(), StubEmbedder(), namer)  # type: ignore[arg-type]

    turn = threading.Lock()
    frames = (frame(k, 10) for k in range(9))
    watching_ = watched([frames], make, Watcher(), lambda named: named.seconds, turn=turn)
    next(watching_)
    watching_.close()
    assert not turn.locked()
