"""The check of a pickle before it is loaded, compared with the disassembler of the standard library."""

from __future__ import annotations

import pickle
import pickletools
import random
import struct
import time
import tracemalloc
from collections.abc import Container

import numpy as np
import pytest

from facespace.datasets.pairs import pickle_checks
from facespace.datasets.pairs.pickle_checks import asks_for, check_steps
from facespace.errors import DatasetError
from support.pickles import IMAGES, PROTOCOLS, SAME, TWO_IMAGES, a_set, small_files, text

# None of these instructions calls anything except the names in the pickle.
HARMLESS = {
    "PROTO", "FRAME", "STOP", "MARK", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "EMPTY_LIST", "APPEND", "APPENDS",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2",
    "LONG1", "BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "MEMOIZE",
}  # fmt: skip
Names = Container[tuple[str, str]]


def refusal(data: bytes, known: Names = frozenset()) -> str:
    with pytest.raises(DatasetError) as caught:
        check_steps(data, known)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


def names_in(data: bytes) -> set[tuple[str, str]]:
    """Return the names that its GLOBAL instructions ask for."""
    globals_ = [argument for step, argument, _ in pickletools.genops(data) if step.name == "GLOBAL"]
    return {tuple(argument.split(" ", 1)) for argument in globals_}  # type: ignore[misc]


def is_sound(data: bytes, known: Names) -> bool:
    """Return whether a pickle is sound: the slow oracle. Raises `ValueError` if the disassembler cannot read it."""
    if data[:1] not in (b"\x80", b"(", b"]", b"c"):
        return False
    steps = [(step.name, argument, at) for step, argument, at in pickletools.genops(data)]
    ends = [*(at for _, _, at in steps[1:]), steps[-1][2] + 1]
    if ends[-1] != len(data):
        return False
    inside_to = 0
    for number, ((name, argument, at), end) in enumerate(zip(steps, ends, strict=True)):
        if name not in HARMLESS:
            return False
        if name == "GLOBAL" and tuple(argument.split(" ", 1)) not in known:
            return False
        if name in ("BINPUT", "LONG_BINPUT") and argument > number:
            return False
        if name == "FRAME":
            if at < inside_to or end + argument > len(data):
                return False
            inside_to = end + argument
        if at < inside_to < end:
            return False
    return True


# Accepted pickles


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_sets_pass(protocol: int) -> None:
    arrays = [np.frombuffer(image, np.uint8) for image in IMAGES]
    for content in ((IMAGES, SAME), (arrays, np.array(SAME)), ([bytearray(image) for image in IMAGES], SAME)):
        data = pickle.dumps(content, protocol)
        check_steps(data, names_in(data))
        check_steps(pickletools.optimize(data), names_in(data))
        if names := names_in(data):
            refusal(data, names - {min(names)})


def test_every_harmless_instruction_passes() -> None:
    """Nothing is loaded, and the check does not ask whether the instructions make sense."""
    arguments = {
        "PROTO": b"\2", "FRAME": struct.pack("<Q", 1), "GLOBAL": b"m\nx\n", "BININT": bytes(4), "BININT1": b"\0",
        "BININT2": bytes(2), "LONG1": b"\1\5", "BINSTRING": b"\1\0\0\0a", "SHORT_BINSTRING": b"\1a",
        "BINUNICODE": b"\1\0\0\0a", "SHORT_BINUNICODE": b"\1a", "BINUNICODE8": b"\1" + bytes(7) + b"a",
        "BINBYTES": b"\1\0\0\0a", "SHORT_BINBYTES": b"\1a", "BINBYTES8": b"\1" + bytes(7) + b"a",
        "BYTEARRAY8": b"\1" + bytes(7) + b"a", "BINGET": b"\0", "LONG_BINGET": bytes(4), "BINPUT": b"\0",
        "LONG_BINPUT": bytes(4),
    }  # fmt: skip
    for step in pickletools.opcodes:
        if step.name in HARMLESS - {"STOP"}:
            data = b"\x80\x02" + step.code.encode("latin-1") + arguments.get(step.name, b"") + b"."
            check_steps(data, {("m", "x")})


# Refused pickles


@pytest.mark.parametrize(
    "step", [step for step in pickletools.opcodes if step.name not in HARMLESS], ids=lambda s: s.name
)
def test_every_other_instruction_is_refused(step: pickletools.OpcodeInfo) -> None:
    message = refusal(b"\x80\x02" + step.code.encode("latin-1") + b"m\nx\n" + bytes(20) + b".", {("m", "x")})
    assert "m.x" in message if step.name == "INST" else step.name in message


def test_a_name_is_allowed_as_a_whole() -> None:
    known = {("m", "x")}
    check_steps(b"\x80\x02cm\nx\n.", known)
    for module, name in ((b"m", b"xx"), (b"x", b"m"), (b"m.x", b""), (b"M", b"x"), (b"m ", b"x"), (b"m\xff", b"x")):
        message = refusal(b"\x80\x02c" + module + b"\n" + name + b"\n.", known)
        assert "nothing in it was run" in message
    for cut in (b"\x80\x02cm", b"\x80\x02cm\n", b"\x80\x02cm\nx"):
        assert "cut short" in refusal(cut, known)


def test_a_name_is_shown_short_and_without_controls() -> None:
    error = asks_for("m" * 9000, "\x1b[31mx\n")
    assert isinstance(error, DatasetError)
    assert "m" * 80 + ".\\x1b[31mx\\n;" in str(error)
    assert "m" * 81 not in str(error)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xd8\xff\xe0 JFIF", "not a pickle"),
        (b".", "not a pickle"),
        (b"N.", "not a pickle"),
        (b"\x80\x02\xfe.", "byte 2"),
        (b"\x80\x02N..", "1 bytes follow its end"),
        (b"\x80\x02N." + bytes(1000), "1,000 bytes follow its end"),
        (
            b"\x80\x02Nq\x03.",
            "a memo index is larger than the number of instructions before it",
        ),  # the instruction before it was the second
    ],
)
def test_damaged_pickles(data: bytes, message: str) -> None:
    assert message in refusal(data)


def test_a_memo_index_is_at_most_the_number_of_instructions_before() -> None:
    check_steps(b"\x80\x02Nq\x02.", set())
    check_steps(b"\x80\x02Nr\x02\x00\x00\x00.", set())
    refusal(b"\x80\x02Nr\x03\x00\x00\x00.")


def test_more_instructions_than_any_set_has(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps((IMAGES, SAME), 4)
    n_steps = len(list(pickletools.genops(data)))
    monkeypatch.setattr(pickle_checks, "_MAX_STEPS", n_steps)
    check_steps(data, set())
    monkeypatch.setattr(pickle_checks, "_MAX_STEPS", n_steps - 1)
    assert f"at most {n_steps - 1} instructions" in refusal(data)


def test_a_frame_cannot_hide_instructions() -> None:
    """The unpickler drops the rest of a frame that ends inside an argument: it would read other bytes than were checked."""
    hidden = b"\x80\x04\x95" + struct.pack("<Q", 2) + b"X\x08\x00\x00\x00" + b"N0000000" + b"."
    assert "a frame ends inside an instruction" in refusal(hidden)
    nested = b"\x80\x04\x95" + struct.pack("<Q", 10) + b"\x95" + struct.pack("<Q", 2) + b"N."
    assert "a frame begins inside another frame" in refusal(nested)


# Small files whose instructions would take much memory


BOMBS = {
    "length": (b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"abc.", "cut short"),
    "length of text": (b"\x80\x04\x8d" + struct.pack("<Q", 2**63 - 1) + b"abc.", "cut short"),
    "length of a bytearray": (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"abc.", "cut short"),
    "negative length": (b"\x80\x02T\xff\xff\xff\xffabc.", "cut short"),
    "frame": (b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N.", "cut short"),
    "whole number": (b"\x80\x02\x8b" + struct.pack("<I", 2**31 - 1) + b"1.", "LONG4"),
    "digits": (b"\x80\x02I" + b"9" * 10**6 + b"\n.", "INT"),
    "memo": (b"\x80\x02Nr\xff\xff\xff\x7f.", "a memo index is larger than the number of instructions before it"),
    "memo, 100 million": (
        b"\x80\x02Nr\x00\xe1\xf5\x05.",
        "a memo index is larger than the number of instructions before it",
    ),
    "memo in text": (b"\x80\x02Np2000000000\n.", "PUT"),
}
BOMB_LIMIT = 4 << 20  # bytes


@pytest.mark.parametrize("title", sorted(BOMBS))
def test_a_bomb_does_not_go_off(title: str) -> None:
    data, message = BOMBS[title]
    start = time.perf_counter()
    tracemalloc.start()
    try:
        found = refusal(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert message in found
    assert peak < BOMB_LIMIT
    assert time.perf_counter() - start < 60


# Damage


@pytest.mark.parametrize("k", range(len(small_files())))
def test_a_file_cut_short_is_refused(k: int) -> None:
    data = small_files()[k]
    known = names_in(data)
    check_steps(data, known)
    for n_bytes in range(1, len(data)):
        refusal(data[:n_bytes], known)


@pytest.mark.parametrize("k", range(len(small_files())))
def test_damaged_files_are_judged_as_the_disassembler_does(k: int) -> None:
    data = small_files()[k]
    known = names_in(data)
    chance = random.Random(k)
    n_sound = n_refused = 0
    for _ in range(600):
        damaged = bytearray(data)
        place = chance.randrange(1, len(data))
        kind = chance.randrange(4)
        if kind == 0:
            damaged[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            damaged[place] = chance.randrange(256)
        elif kind == 2:
            del damaged[place]
        else:
            damaged[place:place] = chance.choice(
                [b"R", b"0", b"N", b"q\1", b"\x95" + struct.pack("<Q", 9), b"K", b"\x93"]
            )
        try:
            sound = is_sound(bytes(damaged), known)
        except UnicodeDecodeError:  # the check does not decode texts, so invalid UTF-8 is not detected
            continue
        except ValueError:
            sound = False
        if sound:
            check_steps(bytes(damaged), known)
            n_sound += 1
        else:
            refusal(bytes(damaged), known)
            n_refused += 1
    assert n_sound > 20
    assert n_refused > 100


def test_sets_written_by_hand_pass() -> None:
    data = a_set(TWO_IMAGES, b"\x88")
    check_steps(data, set())
    check_steps(data.replace(b"U\x01a", text("a")), set())
