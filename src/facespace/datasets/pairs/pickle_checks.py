"""Checks a pickle without running it: every instruction must be harmless and lie within the file."""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Container

from facespace.errors import DatasetError
from facespace.io.text import plain_text

_MAX_STEPS = 10_000_000  # a set needs 2 to 30 steps per image; an empty list takes 1 byte of file but 64 of memory
INNOCENT = "a verification file needs only bytes and booleans; nothing in it was run"

_HARMLESS = (
    "PROTO FRAME STOP MARK GLOBAL STACK_GLOBAL REDUCE BUILD EMPTY_LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 "
    "TUPLE3 NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINSTRING SHORT_BINSTRING BINUNICODE SHORT_BINUNICODE "
    "BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 BINGET LONG_BINGET BINPUT LONG_BINPUT MEMOIZE"
)
# Text instructions of protocol 0 and partly of 1.
_OF_TEXT = ("INT", "LONG", "FLOAT", "STRING", "UNICODE", "LIST", "DICT", "GET", "PUT")
_STEPS = {ord(step.code): step for step in pickletools.opcodes}
# The number of bytes in front of an argument that give its length.
_PREFIX = {getattr(pickletools, f"TAKEN_FROM_ARGUMENT{kind}"): int(kind[0]) for kind in ("1", "4", "4U", "8U")}
_ARGUMENT = {code: step.arg.n if step.arg else 0 for code, step in _STEPS.items() if step.name in _HARMLESS.split()}
_N_FIXED = {code: n for code, n in _ARGUMENT.items() if n >= 0}
_N_PREFIX = {code: _PREFIX[n] for code, n in _ARGUMENT.items() if n in _PREFIX}


def check_steps(data: bytes, known: Container[tuple[str, str]]) -> None:
    """Raise `DatasetError` unless a pickle consists of harmless instructions up to the end of the file.

    `known` contains the objects, as (module, name), that the pickle may import.

    Numbers that make the unpickler allocate memory are checked: a length must not exceed the bytes left in the file;
    a memo index (the memo table is allocated up to it) must not exceed the number of instructions before it.
    """
    if data[0] not in b"\x80(]c":
        raise DatasetError("not a verification file: it is not a pickle")
    puts = pickle.BINPUT + pickle.LONG_BINPUT
    position, frame_end = 0, 0
    for n_steps in range(_MAX_STEPS):
        if position >= len(data):  # also if an argument reaches beyond the end
            raise _cut_short(len(data))
        code = data[position]
        argument = position + 1
        if code in _N_FIXED:
            end = argument + _N_FIXED[code]
        elif code in _N_PREFIX:
            start = argument + _N_PREFIX[code]
            end = start + int.from_bytes(data[argument:start], "little")
        elif code == pickle.GLOBAL[0]:
            end = _check_global(data, argument, known)
        else:
            raise _refused(data, position)
        if code in puts:
            if int.from_bytes(data[argument:end], "little") > n_steps:
                raise DatasetError("damaged: a memo index is larger than the number of instructions before it")
        elif code == pickle.FRAME[0]:
            if position < frame_end:
                raise DatasetError("damaged: a frame begins inside another frame")
            frame_end = end + int.from_bytes(data[argument:end], "little")
            if frame_end > len(data):
                raise _cut_short(len(data))
        elif code == pickle.STOP[0]:
            if end != len(data):
                raise DatasetError(f"damaged: {len(data) - end:,} bytes follow its end")
            return
        # Otherwise the unpickler would skip the rest of the frame and run bytes that were not checked here.
        if position < frame_end < end:
            raise DatasetError("damaged: a frame ends inside an instruction")
        position = end
    raise DatasetError(f"a verification file must have at most {_MAX_STEPS:,} instructions, got more")


def _check_global(data: bytes, start: int, known: Container[tuple[str, str]]) -> int:
    """Return the end of a GLOBAL instruction, which imports a name; its argument is two lines, module and name.

    Raises `DatasetError` if the name is not in `known`.
    """
    middle = data.find(b"\n", start)
    end = data.find(b"\n", middle + 1)
    if middle < 0 or end < 0:
        raise _cut_short(len(data))
    module, name = (line.decode("utf-8", "backslashreplace") for line in data[start:end].split(b"\n"))
    if (module, name) not in known:
        raise asks_for(module, name)
    return end + 1


def _refused(data: bytes, position: int) -> DatasetError:
    step = _STEPS.get(data[position])
    if step is None:
        return DatasetError(f"damaged, or not a verification file: byte {position:,} is not a pickle instruction")
    if step.name in _OF_TEXT:
        return DatasetError(f"the pickle protocol is too old ({step.name}); write it again with protocol 2 or later")
    if step.name == "INST":  # asks for a name as GLOBAL does
        module, _, name = data[position + 1 : position + 161].decode("utf-8", "backslashreplace").partition("\n")
        return asks_for(module, name.partition("\n")[0])
    return DatasetError(f"this file uses the instruction {step.name}; {INNOCENT}")


def _cut_short(n_bytes: int) -> DatasetError:
    return DatasetError(f"damaged or cut short: its {n_bytes:,} bytes end before the pickle does")


def asks_for(module: str, name: str) -> DatasetError:
    """Return the error for a name that a pickle must not ask for."""
    return DatasetError(f"this file asks for {plain_text(f'{module[:80]}.{name[:80]}')}; {INNOCENT}")
