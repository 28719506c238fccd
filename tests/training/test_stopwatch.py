"""The stopwatch: images a second, the share of waiting and the seconds left, with a clock that the test moves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")

from facespace.training.data_loading import Batch  # noqa: E402
from facespace.training.stopwatch import Stopwatch  # noqa: E402


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("facespace.training.stopwatch.time.perf_counter", clock)
    return clock


@pytest.fixture
def watch(clock: Clock) -> Stopwatch:
    return Stopwatch(12)


def batches(clock: Clock, *seconds: float) -> Iterator[Batch]:
    """Yield batches that take these seconds to arrive; their labels are their numbers."""
    for number, duration in enumerate(seconds):
        clock.pass_by(duration)
        yield Batch(torch.zeros(1), torch.tensor([number]))


def steps(watch: Stopwatch, clock: Clock, n: int, seconds: float) -> None:
    """Do `n` steps that take `seconds` each."""
    for _ in range(n):
        clock.pass_by(seconds)
        watch.did_step()


def test_a_lap_counts_images_of_all_its_steps(watch, clock):
    steps(watch, clock, 3, 0.5)
    clock.pass_by(0.5)  # after the last step, but before the lap ends
    assert watch.lap() == {"images_per_second": 18, "waiting": 0, "seconds": 2}  # 36 images in 2 s


def test_the_age_of_the_last_checkpoint(watch, clock):
    clock.pass_by(3)
    assert watch.unsaved() == 3  # since the start
    watch.saved()
    steps(watch, clock, 2, 0.5)
    watch.lap()  # laps, pauses and epochs do not count
    watch.epoch()
    assert watch.unsaved() == 1


def test_a_lap_begins_where_the_last_one_ended(watch, clock):
    steps(watch, clock, 3, 0.5)
    next_batches = batches(clock, 0.5)
    watch.waiting(next_batches)
    assert watch.lap() == {"images_per_second": 18, "waiting": 0.25, "seconds": 2}
    steps(watch, clock, 1, 4)
    assert watch.lap() == {"images_per_second": 3, "waiting": 0, "seconds": 6}


def test_the_share_of_waiting(watch, clock):
    """Of 8 seconds, 1.5 and 0.5 are spent waiting for two batches."""
    coming = batches(clock, 1.5, 0.5)
    assert watch.waiting(coming).labels.tolist() == [0]
    clock.pass_by(2)
    assert watch.waiting(coming).labels.tolist() == [1]
    clock.pass_by(4)
    watch.did_step()
    assert watch.lap() == {"images_per_second": 1.5, "waiting": 0.25, "seconds": 8}


def test_a_lap_without_time_or_steps_is_finite(watch):
    assert watch.lap() == {"images_per_second": 0, "waiting": 0, "seconds": 0}
    watch.did_step()
    assert 0 < watch.lap()["images_per_second"] < float("inf")


def test_a_pause_belongs_to_no_step(watch, clock):
    steps(watch, clock, 5, 1)
    watch.waiting(batches(clock, 7))
    watch.pause()
    steps(watch, clock, 2, 1)
    assert watch.lap() == {"images_per_second": 12, "waiting": 0, "seconds": 14}  # `seconds` is since the start


def test_seconds_left_before_the_first_lap(watch, clock):
    steps(watch, clock, 3, 1)
    assert watch.left(100) == 0


def test_seconds_left_follow_an_average_over_laps(watch, clock):
    """A step took 2 s, then 4 s, then 1 s: the new average has 0.7 of the old one."""
    steps(watch, clock, 5, 2)
    watch.lap()
    assert watch.left(10) == pytest.approx(20)
    steps(watch, clock, 1, 4)
    watch.lap()
    assert watch.left(10) == pytest.approx(10 * (0.7 * 2 + 0.3 * 4))
    steps(watch, clock, 3, 1)
    watch.lap()
    assert watch.left(10) == pytest.approx(10 * (0.7 * 2.6 + 0.3 * 1))
    assert watch.left(0) == 0


def test_a_lap_without_steps_leaves_the_average(watch, clock):
    steps(watch, clock, 1, 2)
    watch.lap()
    clock.pass_by(50)
    assert watch.lap()["images_per_second"] == 0
    assert watch.left(3) == pytest.approx(6)


def test_a_pause_leaves_the_average(watch, clock):
    steps(watch, clock, 1, 2)
    watch.lap()
    clock.pass_by(50)
    watch.pause()
    steps(watch, clock, 1, 2)
    watch.lap()
    assert watch.left(3) == pytest.approx(6)


def test_epochs_are_measured_from_one_to_the_next(watch, clock):
    """Laps and pauses do not change them."""
    steps(watch, clock, 4, 2)
    watch.lap()
    assert watch.epoch() == 8
    clock.pass_by(3)
    watch.pause()
    clock.pass_by(2)
    assert watch.epoch() == 5
    assert watch.epoch() == 0


def test_the_end_of_an_epoch_does_not_end_the_lap(watch, clock):
    steps(watch, clock, 2, 1)
    watch.epoch()
    steps(watch, clock, 2, 1)
    assert watch.lap() == {"images_per_second": 12, "waiting": 0, "seconds": 4}
