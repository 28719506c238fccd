"""Ctrl-C and SIGTERM during training: they are noted, a second Ctrl-C ends at once, and handlers are restored."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from facespace.training.interrupts import interrupts

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def heard() -> Iterator[list[int]]:
    """Record the signals that reach the previous handlers; without these SIGTERM would end the tests."""
    numbers: list[int] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, lambda number, _frame: numbers.append(number))
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in SIGNALS]


def to_own_process(number: int) -> None:
    os.kill(os.getpid(), number)


def check_old_handlers(heard: list[int], expected: list[Any]) -> None:
    """Check that the previous handlers are restored and receive signals again."""
    assert handlers() == expected
    assert heard == []
    for number in SIGNALS:
        signal.raise_signal(number)
    assert heard == list(SIGNALS)


@pytest.mark.parametrize("send", [signal.raise_signal, to_own_process])
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_is_noted_and_the_step_continues(heard, number, send: Callable[[int], None]):
    before = handlers()
    with interrupts() as interrupted:
        assert interrupted() == 0
        send(number)
        assert interrupted() == number
        assert interrupted() == number  # it is still there at the second call
    check_old_handlers(heard, before)


def test_without_a_signal_nothing_is_noted(heard):
    before = handlers()
    with interrupts() as interrupted:
        assert all(now != old for now, old in zip(handlers(), before, strict=True))
        assert interrupted() == 0
    check_old_handlers(heard, before)
    assert interrupted() == 0  # later signals go to the previous handlers


@pytest.mark.parametrize("first", SIGNALS, ids=lambda number: number.name)
def test_ctrl_c_after_a_signal_ends_at_once(heard, first):
    before = handlers()
    with interrupts() as interrupted:
        signal.raise_signal(first)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert interrupted() == first
    check_old_handlers(heard, before)


@pytest.mark.parametrize("first", SIGNALS, ids=lambda number: number.name)
def test_a_second_sigterm_waits_for_the_step(heard, first):
    before = handlers()
    with interrupts() as interrupted:
        signal.raise_signal(first)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert interrupted() == first
    check_old_handlers(heard, before)


def test_torchrun_forwards_a_ctrl_c_that_was_already_received(heard, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    before = handlers()
    with interrupts() as interrupted:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert interrupted() == signal.SIGINT
    check_old_handlers(heard, before)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_old_handlers_come_back_after_an_error(heard, error):
    before = handlers()
    with pytest.raises(error, match="of the block"), interrupts() as interrupted:
        signal.raise_signal(signal.SIGINT)
        assert interrupted() == signal.SIGINT
        raise error("of the block")
    check_old_handlers(heard, before)


def test_every_use_begins_without_signals():
    with interrupts() as first:
        signal.raise_signal(signal.SIGTERM)
    with interrupts() as second:
        assert (first(), second()) == (signal.SIGTERM, 0)
        signal.raise_signal(signal.SIGINT)  # the first of this use: it raises nothing
        assert second() == signal.SIGINT


def test_an_ignored_signal_is_ignored_again():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts() as interrupted:
        signal.raise_signal(signal.SIGINT)
        assert interrupted() == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_another_thread_leaves_signals_alone(heard):
    """Python sets handlers in the main thread only."""
    before = handlers()
    inside, go_on = threading.Event(), threading.Event()
    seen: list[Any] = []

    def work() -> None:
        try:
            with interrupts() as interrupted:
                inside.set()
                go_on.wait(60)
                seen.append(interrupted())
        except BaseException as error:
            seen.append(error)
            inside.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(60)
    during = handlers()
    signal.raise_signal(signal.SIGINT)
    go_on.set()
    thread.join(60)
    assert seen == [0]
    assert during == handlers() == before
    assert heard == [signal.SIGINT]
