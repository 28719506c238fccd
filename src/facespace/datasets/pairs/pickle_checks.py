"""A pickle walked over without running it: whether it is made of harmless instructions that fit into its file."""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Container

from facespace.errors import DatasetError
from facespace.io.text import plain_text

_MAX_STEPS = 10_000_000  # a set takes 2 to 30 steps an image; an empty list costs 1 byte of file and 64 of memory
INNOCENT = "a verification file needs nothing but bytes and booleans; nothing of it was run"

_HARMLESS = (
    "PROTO FRAME STOP MARK GLOBAL STACK_GLOBAL REDUCE BUILD EMPTY_LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 "
    "TUPLE3 NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINSTRING SHORT_BINSTRING BINUNICODE SHORT_BINUNICODE "
    "BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 BINGET LONG_BINGET BINPUT LONG_BINPUT MEMOIZE"
)
# Such as protocol 0 is made of, and 1 in part.
_OF_TEXT = ("INT", "LONG", "FLOAT", "STRING", "UNICODE", "LIST", "DICT", "GET", "PUT")
_STEPS = {ord(step.code): step for step in pickletools.opcodes}
# How an argument says its length: in as many bytes before it.
_PREFIX = {getattr(pickletools, f"TAKEN_FROM_ARGUMENT{kind}"): int(kind[0]) for kind in ("1", "4", "4U", "8U")}
_ARGUMENT = {code: step.arg.n if step.arg else 0 for code, step in _STEPS.items() if step.name in _HARMLESS.split()}
_N_FIXED = {code: n for code, n in _ARGUMENT.items() if n >= 0}
_N_PREFIX = {code: _PREFIX[n] for code, n in _ARGUMENT.items() if n in _PREFIX}


def check_steps(data: bytes, known: Container[tuple[str, str]]) -> None:
    """Pass a pickle of harmless instructions that fit into the file, to its end; `DatasetError` for any other.

    `known` are the names, (module, name), that it may ask for.

    A number that asks for memory is held to what the file has: a length to the bytes left, a memo index (whose table
    is taken whole) to the steps before it, the index a writer could have come to.
    """
    if data[0] not in b"\x80(]c":
        raise DatasetError("not a verification file: it is no pickle")
    puts = pickle.BINPUT + pickle.LONG_BINPUT
    position, frame_end = 0, 0
    for n_steps in range(_MAX_STEPS):
        if position >= len(data):  # after an argument that reaches beyond the end, too
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
                raise DatasetError("damaged: it numbers things it does not have")
        elif code == pickle.FRAME[0]:
            if position < frame_end:
                raise DatasetError("damaged: a frame begins inside of another")
            frame_end = end + int.from_bytes(data[argument:end], "little")
            if frame_end > len(data):
                raise _cut_short(len(data))
        elif code == pickle.STOP[0]:
            if end != len(data):
                raise DatasetError(f"damaged: {len(data) - end:,} bytes follow its end")
            return
        # The unpickler would drop what is left of the frame and read on elsewhere: not what was checked here.
        if position < frame_end < end:
            raise DatasetError("damaged: a frame ends inside of an instruction")
        position = end
    raise DatasetError(f"more than {_MAX_STEPS:,} instructions; no verification file has so many")


def _check_global(data: bytes, start: int, known: Container[tuple[str, str]]) -> int:
    """Where an instruction ends that asks for a name (two lines: module, name)."""
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
        return DatasetError(f"damaged, or not a verification file: byte {position:,} is no instruction of a pickle")
    if step.name in _OF_TEXT:
        return DatasetError(f"written with old pickle steps ({step.name}); write it again with protocol 2 or later")
    if step.name == "INST":  # asks for a name as GLOBAL does
        module, _, name = data[position + 1 : position + 161].decode("utf-8", "backslashreplace").partition("\n")
        return asks_for(module, name.partition("\n")[0])
    return DatasetError(f"this file wants to use the instruction {step.name}; {INNOCENT}")


def _cut_short(n_bytes: int) -> DatasetError:
    return DatasetError(f"damaged or cut short: its {n_bytes:,} bytes end before the pickle does")


def asks_for(module: str, name: str) -> DatasetError:
    """The error for a name that a pickle may not ask for."""
    return DatasetError(f"this file asks for {plain_text(f'{module[:80]}.{name[:80]}')}; {INNOCENT}")
