"""Verification files: files of every kind of writer are read, and nothing in a hostile file is run."""

from __future__ import annotations

import builtins
import gc
import io
import os
import pickle
import pickletools
import posixpath
import random
import struct
import subprocess
import time
import tracemalloc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facespace.datasets.pairs import insightface_bin as module
from facespace.datasets.pairs.insightface_bin import VerificationSet, as_pairs, read_bin
from facespace.datasets.pairs.lists import PairList
from facespace.errors import DatasetError
from support.pickles import (
    IMAGES,
    PROTOCOLS,
    SAME,
    TWO_IMAGES,
    a_set,
    python2,
    python2_array,
    short,
    small_files,
    text,
)

Read = Callable[[bytes], VerificationSet]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def write_and_read(data: bytes) -> VerificationSet:
        path = tmp_path / "set.bin"
        path.write_bytes(data)
        return read_bin(path)

    return write_and_read


def refusal(read: Read, data: bytes) -> str:
    with pytest.raises(DatasetError) as caught:
        read(data)
    message = str(caught.value)
    assert "set.bin: " in message
    assert "\n" not in message
    assert len(message.split("set.bin: ")[1]) < 400
    return message


def is_the_set(found: VerificationSet) -> bool:
    return found.images == tuple(IMAGES) and found.same.tolist() == SAME and found.same.dtype == np.bool_


# Reading


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "kind",
    [
        lambda: (IMAGES, SAME),
        lambda: [tuple(IMAGES), tuple(SAME)],
        lambda: (IMAGES, [1, 0, 1]),
        lambda: ([bytearray(image) for image in IMAGES], SAME),
        lambda: ([np.frombuffer(image, np.uint8) for image in IMAGES], SAME),
        lambda: ([np.array(list(image), np.uint8) for image in IMAGES], SAME),
        lambda: (IMAGES, [np.bool_(same) for same in SAME]),
        lambda: (IMAGES, [np.int64(same) for same in SAME]),
        lambda: (IMAGES, np.array(SAME)),
        lambda: (IMAGES, np.array(SAME, np.int32)),
        lambda: (IMAGES, np.array(SAME, ">i8")),
        lambda: (IMAGES, np.array([1, 9, 0, 9, 1], np.int8)[::2]),
    ],
    ids=[
        "lists",
        "tuples",
        "ints",
        "bytearrays",
        "constant arrays",
        "arrays",
        "NumPy bools",
        "NumPy ints",
        "array of bool",
        "array of int32",
        "array of big-endian int64",
        "array of every second",
    ],
)
def test_what_python_3_writes(read: Read, protocol: int, kind: Callable[[], Any]) -> None:
    data = pickle.dumps(kind(), protocol)
    assert is_the_set(read(data))
    assert is_the_set(read(pickletools.optimize(data)))
    if protocol == 2:  # NumPy 1 and NumPy 2 have different names for their internal modules
        assert is_the_set(read(data.replace(b"numpy._core.", b"numpy.core.")))
        assert is_the_set(read(data.replace(b"numpy.core.", b"numpy._core.")))


def test_what_python_2_writes(read: Read) -> None:
    same = b"\x88\x89\x88"
    assert is_the_set(read(a_set(b"".join(map(python2, IMAGES)), same)))
    arrays = b"".join(python2_array(b"u1", len(image), image) for image in IMAGES)
    assert is_the_set(read(a_set(arrays, same)))
    labels = python2_array(b"b1", 3, b"\1\0\1")
    assert is_the_set(read(b"\x80\x02](" + b"".join(map(python2, IMAGES)) + b"e" + labels + b"\x86."))
    # cPickle numbers its memo from 1, sometimes in the long form.
    assert read(a_set(b"U\x01aq\x01U\x01br\x02\x00\x00\x00", b"K\x01")).images == (b"a", b"b")


def test_invalid_booleans(read: Read) -> None:
    """NumPy accepts any byte as a boolean."""
    labels = python2_array(b"b1", 1, b"\2")
    message = refusal(read, b"\x80\x02](" + TWO_IMAGES + b"e" + labels + b"\x86.")
    assert "pair 0 must have a boolean, 0 or 1, got 2" in message


def test_one_image_many_times(read: Read) -> None:
    for protocol in PROTOCOLS:
        for image in (b"x" * 1000, bytearray(b"x" * 1000), np.frombuffer(b"x" * 1000, np.uint8)):
            found = read(pickle.dumps(([image] * 400, [True] * 200), protocol))
            assert found.images == (b"x" * 1000,) * 400
            assert len(set(map(id, found.images))) == 1  # and not 400 times in memory


# Files that are not verification sets


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((IMAGES, SAME, 1), "expected a list of images and a list of booleans, got 3 things"),
        (IMAGES, "got 6 things"),
        (7, "expected a list of images and a list of booleans, got 7"),
        (None, "of type NoneType"),
        ((b"ab", SAME), "the first item must be a list of encoded images, got an object of type bytes"),
        ((IMAGES, b"\1\0\1"), "the second item must be a list of booleans"),
        ((IMAGES, None), "the second item must be a list of booleans"),
        (([], []), "expected at least one pair of images, got none"),
        ((IMAGES, SAME[:2]), "expected two images for each of 2 booleans, got 6 images"),
        ((IMAGES[:5], SAME), "expected two images for each of 3 booleans, got 5 images"),
        ((IMAGES[:3], SAME), "expected two images"),
        ((IMAGES, [True, 2, False]), "pair 1 must have a boolean, 0 or 1, got 2"),
        ((IMAGES, [True, -1, False]), "pair 1 .*-1"),
        ((IMAGES, [True, False, None]), "pair 2 .*NoneType"),
        ((IMAGES, [True, False, b"1"]), "pair 2 .*of type bytes"),
        ((IMAGES, [True, False, 2**70]), "pair 2 .*of type int"),
        ((IMAGES, [True, False, []]), "pair 2 .*of type list"),
        ((IMAGES, np.array([1, 0, 2])), "pair 2 .*got 2"),
        ((IMAGES, np.array([[1, 0, 1]])), r"an array of int64 \(1, 3\)"),
        ((IMAGES, np.array([1.0, 0, 1])), "got an array of f8"),
        ((IMAGES, np.array(["a"])), "got an array of U1"),
        (([*IMAGES[:5], "text"], SAME), "image 5 must be the bytes of an encoded image, got an object of type str"),
        (([*IMAGES[:5], b""], SAME), "image 5 .* got empty bytes"),
        (([*IMAGES[:5], bytearray()], SAME), "image 5 .* got empty bytes"),
        (([*IMAGES[:5], None], SAME), "image 5 .* NoneType"),
        (([*IMAGES[:5], IMAGES], SAME), "image 5 .* list"),
        (([np.zeros((4, 4, 3), np.uint8), *IMAGES[1:]], SAME), r"image 0 .* an array of uint8 \(4, 4, 3\)"),
        (([np.zeros(4, np.int8), *IMAGES[1:]], SAME), r"image 0 .* an array of int8 \(4,\)"),
    ],
    ids=lambda value: repr(value)[-50:],
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_other_contents(read: Read, protocol: int, content: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read(pickle.dumps(content, protocol))


@pytest.mark.parametrize("content", [(IMAGES, {"same": 1}), (IMAGES, [1.5]), (set(IMAGES), SAME), (IMAGES, [2**3000])])
def test_other_kinds_of_things(read: Read, content: Any) -> None:
    assert "nothing in it was run" in refusal(read, pickle.dumps(content, 4))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"\xff\xd8\xff\xe0 JFIF", "not a verification file: it is not a pickle"),
        (b"PK\x03\x04", "it is not a pickle"),
        (b"\x80\x02\xfe.", "byte 2 is not a pickle instruction"),
        (pickle.dumps((IMAGES, SAME), 0), "pickle protocol is too old .*write it again with protocol 2"),
        (pickle.dumps((IMAGES, SAME), 2) + b".", "damaged: 1 bytes follow its end"),
        (b"\x80\x02.", "damaged, or not a verification file"),
        (b"\x80\x02e.", "damaged, or not a verification file"),
        (b"\x80\x06N.", "damaged, or not a verification file"),
        (b"\x80\x02h\x05.", "damaged, or not a verification file"),
        (b"\x80\x02X\x01\x00\x00\x00\xff.", "damaged, or not a verification file"),
        (b"\x80\x02K\x01K\x02R.", "damaged, or not a verification file"),
        (b"\x80\x02K\x01K\x02b.", "damaged, or not a verification file"),
        (b"\x80\x02K\x01K\x02a.", "damaged, or not a verification file"),
    ],
)
def test_other_files(read: Read, tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read(data)


def test_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetError, match=r"none\.bin: no such file"):
        read_bin(tmp_path / "none.bin")
    with pytest.raises(DatasetError, match="not a regular file"):
        read_bin(tmp_path)
    with (tmp_path / "vast.bin").open("wb") as stream:  # takes no space on the disk
        stream.truncate(4_000_000_001)
    with pytest.raises(DatasetError, match="must have at most 4,000,000,000 bytes, got 4,000,000,001"):
        read_bin(tmp_path / "vast.bin")


# Attacks. Each would create a file if it were run.


class Call:
    """Is pickled as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def attacks(marker: Path) -> dict[str, tuple[bytes, str]]:
    """Return name → pickle, and what the error must name."""
    touch = f"touch {marker}"
    python = f"open({str(marker)!r}, 'w')"
    name = os.system.__module__  # posix, or nt
    found: dict[str, tuple[bytes, str]] = {}
    calls = {
        "system": (Call(os.system, touch), f"{name}.system"),
        "Popen": (Call(subprocess.Popen, ["touch", str(marker)]), ".Popen"),
        "eval": (Call(eval, python), "builtins.eval"),
        "exec": (Call(exec, python), "builtins.exec"),
        "open": (Call(open, str(marker), "w"), ".open"),
        "getattr": (Call(getattr, b"", "join"), "builtins.getattr"),
        "import": (Call(builtins.__import__, "this"), "builtins.__import__"),
        "in a list": ([[b"", [Call(os.system, touch)]]], f"{name}.system"),
        "as a label": ((IMAGES, [True, False, Call(os.system, touch)]), f"{name}.system"),
        "as an image": (([Call(os.system, touch), *IMAGES[1:]], SAME), f"{name}.system"),
        "of a library": (Call(posixpath.join, "a"), "posixpath.join"),
        "array of objects": (([np.array([Call(os.system, touch)]), *IMAGES[1:]], SAME), ""),
    }
    for title, (content, message) in calls.items():
        for protocol in range(6):
            named = message.replace("builtins", "__builtin__") if protocol < 3 else message
            if protocol < 2 and not isinstance(content, Call):
                named = ""  # already refused because of the old protocol
            found[f"{title}, protocol {protocol}"] = (pickle.dumps(content, protocol), named)
    system, argument = f"{name}\nsystem\n".encode(), text(touch)
    array = b"cnumpy.core.multiarray\n_reconstruct\n"
    by_hand = {
        "GLOBAL alone": (b"\x80\x02c" + system + b".", f"{name}.system"),
        "no protocol": (b"c" + system + b"(" + argument + b"tR.", f"{name}.system"),
        "INST": (b"(" + argument + b"i" + system + b".", f"{name}.system"),
        "INST, cut short": (b"(i" + system[:-3], f"{name}.syst"),
        "OBJ": (b"\x80\x02(c" + system + argument + b"o.", f"{name}.system"),
        "OBJ of a stacked name": (b"\x80\x04(" + short(name) + short("system") + b"\x93" + argument + b"o.", ""),
        "NEWOBJ": (b"\x80\x02c" + system + argument + b"\x85\x81.", f"{name}.system"),
        "NEWOBJ of what is allowed": (b"\x80\x02cnumpy\nndarray\n(K\x04t\x81.", "instruction NEWOBJ;"),
        "NEWOBJ_EX": (b"\x80\x04" + short(name) + short("system") + b"\x93)}\x92.", ""),
        "STACK_GLOBAL": (
            b"\x80\x04" + short(name) + short("system") + b"\x93" + argument + b"\x85R.",
            f"{name}.system",
        ),
        "STACK_GLOBAL from the memo": (
            b"\x80\x04" + short("system") + b"\x94" + short(name) + b"\x94h\x01h\x00\x93" + argument + b"\x85R.",
            f"{name}.system",
        ),
        "dotted": (b"\x80\x04" + short("_codecs") + short("encode.__class__") + b"\x93.", "_codecs.encode.__class__"),
        "dotted, GLOBAL": (b"\x80\x04c_codecs\nencode.__self__\n.", "_codecs.encode.__self__"),
        "a method of the reader": (b"\x80\x04c_codecs\nspend\n.", "_codecs.spend"),
        "EXT1": (b"\x80\x02\x82\x01.", "instruction EXT1;"),
        "EXT2": (b"\x80\x02\x83\x01\x00.", "instruction EXT2;"),
        "EXT4": (b"\x80\x02\x84\x01\x00\x00\x00.", "instruction EXT4;"),
        "PERSID": (b"\x80\x02P1\n.", "instruction PERSID;"),
        "BINPERSID": (b"\x80\x02K\x01Q.", "instruction BINPERSID;"),
        "BUILD with a dictionary": (
            b"\x80\x02c_codecs\nencode\n}" + text("__doc__") + text("x") + b"sb.",
            "instruction EMPTY_DICT;",
        ),
        "BUILD of a function": (b"\x80\x02c_codecs\nencode\nK\x01b.", ""),
        "BUILD of the class of arrays": (b"\x80\x02cnumpy\nndarray\nN(K\x01K\x02t\x86b.", ""),
        "BUILD of a dtype": (b"\x80\x02cnumpy\ndtype\n" + text("u1") + b"\x85R(K\x03" + text("O") + b"tb.", ""),
        "call of an array's class": (b"\x80\x02cnumpy\nndarray\nK\x01\x85R.", ""),
        "codec": (b"\x80\x02c_codecs\nencode\n" + text("abc") + text("rot13") + b"\x86R.", "a codec other than latin1"),
        "codec zip": (b"\x80\x02c_codecs\nencode\nU\x03abc" + text("zip") + b"\x86R.", "a codec other than latin1"),
        "codec uu": (b"\x80\x02c_codecs\nencode\n" + text("abc") + text("uu") + b"\x86R.", "a codec other than latin1"),
        "encode no text": (
            b"\x80\x02c_codecs\nencode\nK\x01" + text("latin1") + b"\x86R.",
            "a codec other than latin1",
        ),
        "encode outside of the codec": (b"\x80\x02c_codecs\nencode\n" + text("Ω") + text("latin1") + b"\x86R.", ""),
        "decode": (b"\x80\x02c_codecs\ndecode\nU\x03abc" + text("zip") + b"\x86R.", "_codecs.decode"),
        "codecs": (b"\x80\x02ccodecs\nencode\n.", "codecs.encode"),
        "array of a foreign class": (b"\x80\x02" + array + b"(c" + system + b"K\x00\x85U\x01btR.", f"{name}.system"),
        "array of a known function": (
            b"\x80\x02" + array + b"(c_codecs\nencode\nK\x00\x85U\x01btR.",
            "something other than",
        ),
        "array of a memoized thing": (
            b"\x80\x02U\x01xq\x00" + array + b"(h\x00K\x00\x85U\x01btR.",
            "something other than",
        ),
        "dtype of objects": (b"\x80\x02cnumpy\ndtype\n" + text("O8") + b"\x85R.", "array of O8"),
        "dtype of records": (b"\x80\x02cnumpy\ndtype\n](" + text("a") + text("O") + b"\x86e\x85R.", "another type"),
        "huge array": (a_set(python2_array(b"u1", 2**31 - 1, b"abc") + b"U\x01a", b"\x88"), "does not fit its 3 bytes"),
        "negative array": (a_set(python2_array(b"u1", -3, b"abc") + b"U\x01a", b"\x88"), "whole numbers"),
        "bytearray of a number": (b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R.", "something other than"),
        "bytes of a number": (b"\x80\x02c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.", "something other than"),
        "a name that paints the terminal": (b"\x80\x02c\x1b[31m\nx\n.", "asks for \\x1b[31m.x;"),
        "a name without end": (b"\x80\x02c" + b"m" * 9000 + b"\nx\n.", "m" * 80 + ".x"),
    }
    return found | by_hand


ATTACKS = sorted(attacks(Path("x")))


@pytest.mark.parametrize("title", ATTACKS)
def test_an_attack_is_refused_and_nothing_is_run(read: Read, tmp_path: Path, title: str) -> None:
    marker = tmp_path / "was here"
    data, named = attacks(Path(str(marker).replace(" ", "\\ ")) if os.name == "posix" else marker)[title]
    message = refusal(read, data)
    assert named in message
    assert "asks for" not in message or "nothing in it was run" in message
    # The second barrier is enough without the first: it may only raise an error or return something harmless.
    try:
        module._Unpickler(data).load()
    except Exception as error:
        assert not isinstance(error, AssertionError)
    assert list(tmp_path.iterdir()) == [tmp_path / "set.bin"]


@pytest.mark.skipif(os.name != "posix", reason="touch")
def test_the_attacks_would_work(tmp_path: Path) -> None:
    for k, title in enumerate(
        ["system, protocol 0", "as a label, protocol 5", "INST", "OBJ", "STACK_GLOBAL from the memo"]
    ):
        marker = tmp_path / str(k)
        data, _ = attacks(marker)[title]
        pickle.loads(data)
        assert marker.exists(), title


# Small files whose instructions would take much memory or time


LIMIT = 4 << 20
RING = b"\x80\x02" + b"X\x00\x00\x10\x00" + b"x" * 2**20 + b"q\x00"  # a text of 1 MB in the memo
MANY = 20_000


def bombs() -> dict[str, tuple[bytes, str]]:
    kept = RING + b"c_codecs\nencode\nq\x01" + text("latin1") + b"q\x02"
    again = b"h\x01h\x00h\x02\x86R"
    raw = b"\x80\x05\x96" + struct.pack("<Q", 2**20) + b"x" * 2**20 + b"q\x00cnumpy.core.numeric\n_frombuffer\nq\x01"
    dtype = b"cnumpy\ndtype\n" + text("u1") + b"\x85Rq\x02"
    return {
        "encoded again and again": (kept + b"(" + again * MANY + b"t.", "the file creates more bytes than it has"),
        "copied again and again": (
            raw + dtype + b"K\x01\x85q\x03(" + b"h\x01(h\x00h\x02J\x00\x00\x10\x00\x85tR" * MANY + b"t.",
            "the file creates more bytes than it has",
        ),
        "tuples in tuples": (b"\x80\x02)" + b"\x85" * 10**5 + b".", "got 1 things"),
        "lists in lists": (b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".", "got 1 things"),
        "marks": (b"\x80\x02" + b"(" * 10**5 + b".", "damaged"),
        "twice as many each time": (b"\x80\x02)" + b"q\x00h\x00\x86" * 10**4 + b".", "of type tuple"),
    }


@pytest.mark.parametrize("title", sorted(bombs()))
def test_a_bomb_does_not_go_off(read: Read, title: str) -> None:
    data, message = bombs()[title]
    start = time.perf_counter()
    tracemalloc.start()
    try:
        found = refusal(read, data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert message in found
    assert peak < LIMIT + 100 * len(data)
    assert time.perf_counter() - start < 60


@pytest.mark.parametrize("wrap", [b"\x85", b"q\x00h\x00\x86"], ids=["one in the other", "two in each other"])
def test_a_million_tuples(read: Read, wrap: bytes) -> None:
    start = time.perf_counter()
    refusal(read, b"\x80\x02)" + wrap * 10**6 + b".")
    assert time.perf_counter() - start < 60


# Damage


@pytest.mark.parametrize("k", range(len(small_files())))
def test_every_file_cut_short_is_refused(read: Read, k: int) -> None:
    data = small_files()[k]
    assert len(read(data).images) == 2
    for n_bytes in range(len(data)):
        refusal(read, data[:n_bytes])


@pytest.mark.parametrize("k", range(len(small_files())))
def test_damaged_bytes_are_refused_or_read(read: Read, k: int) -> None:
    data = small_files()[k]
    chance = random.Random(k)
    n_read = n_refused = 0
    for _ in range(400):
        damaged = bytearray(data)
        place = chance.randrange(len(data))
        kind = chance.randrange(3)
        if kind == 0:
            damaged[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            damaged[place] = chance.randrange(256)
        else:
            damaged[place:place] = chance.choice(
                [b"R", b"b", b"a", b"h\0", b"\x94", b"0", b"N", b")", b"t", b"(", b"\x93"]
            )
        try:
            found = read(bytes(damaged))
        except DatasetError:
            n_refused += 1
        else:
            n_read += 1
            assert len(found.images) == 2 * len(found.same) > 0
            assert all(type(image) is bytes for image in found.images)
    assert n_refused > 100
    assert n_read > 0


# As a list of pairs


def test_as_pairs() -> None:
    images = (b"a", b"b", b"a", b"c", b"d", b"e", b"e", b"a", b"f", b"f")
    pairs, kept = as_pairs(VerificationSet(images, np.array([True, True, False, False, True])))
    assert isinstance(pairs, PairList)
    assert kept == [b"a", b"b", b"c", b"d", b"e", b"f"]
    assert pairs.photos == ("image 0", "image 1", "image 3", "image 4", "image 5", "image 8")
    assert pairs.first.tolist() == [0, 0, 3, 4, 5]
    assert pairs.second.tolist() == [1, 2, 4, 0, 5]
    assert pairs.same.tolist() == [True, True, False, False, True]
    assert pairs.people == ("person 1", "person 1", "person 1", "person 2", "person 3", "person 4")
    assert pairs.fold is None
    assert pairs.groups == {}


@pytest.mark.parametrize("n_pairs", [10, 11, 19, 20, 23, 6000])
def test_folds(n_pairs: int) -> None:
    images = tuple(b"%d" % k for k in range(2 * n_pairs))
    fold = as_pairs(VerificationSet(images, np.ones(n_pairs, bool)))[0].fold
    assert fold is not None
    assert fold.dtype == np.int64
    # The rule of scikit-learn's KFold: the first n % 10 folds have n // 10 + 1, the others n // 10.
    sizes = [n_pairs // 10 + (1 if k < n_pairs % 10 else 0) for k in range(10)]
    assert fold.tolist() == [k + 1 for k, size in enumerate(sizes) for _ in range(size)]


def test_people_are_what_pairs_join() -> None:
    rng = np.random.default_rng(0)
    for n_photos in (5, 30, 100):
        ends = rng.integers(0, n_photos, (60, 2))
        same = rng.random(60) < 0.5
        pairs, kept = as_pairs(VerificationSet(tuple(b"%d" % end for end in ends.ravel()), same))
        near = np.eye(len(kept), dtype=bool)
        near[pairs.first[same], pairs.second[same]] = near[pairs.second[same], pairs.first[same]] = True
        for _ in range(7):  # chains of up to 128 steps
            near = near @ near
        assert pairs.people is not None
        people = np.array(pairs.people)
        assert np.array_equal(people[:, None] == people[None], near)
        assert list(dict.fromkeys(pairs.people)) == [f"person {k + 1}" for k in range(len(set(pairs.people)))]


def test_a_long_chain_of_pairs() -> None:
    images = tuple(b"%d" % ((k + 1) // 2) for k in range(40_000))
    start = time.perf_counter()
    assert set(as_pairs(VerificationSet(images, np.ones(20_000, bool)))[0].people or ()) == {"person 1"}
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(
    ("images", "same", "message"),
    [
        ((b"a",), [True], "two images for each of 1 booleans, got 1 images"),
        ((b"a", b"b"), [1], "got int64"),
        ((b"a", b"b"), [[True]], r"\(1, 1\)"),
        ((), [], "got float64"),
        ((b"a", "b"), [True], "image 1 .*of type str"),
    ],
)
def test_parts_that_do_not_fit(images: Any, same: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        VerificationSet(images, np.array(same))


# The real files


@pytest.mark.shared
@pytest.mark.parametrize(("file", "n_pairs"), [("lfw_dev.bin", 1000), ("lfw_dev_40_protocol2.bin", 40)])
def test_real_files(shared: Path, file: str, n_pairs: int) -> None:
    found = read_bin(shared / "data" / file)
    assert len(found.images) == 2 * n_pairs
    assert found.same.shape == (n_pairs,)
    assert found.same.sum() == n_pairs / 2
    for image in found.images:
        with Image.open(io.BytesIO(image)) as picture:
            picture.load()
            assert picture.size == (112, 112)
    pairs, kept = as_pairs(found)
    assert len(kept) == len(set(found.images)) == len(pairs.photos)
    assert [kept[index] for index in pairs.first] == list(found.images[::2])
    assert [kept[index] for index in pairs.second] == list(found.images[1::2])
    assert pairs.people is not None
    people = np.array(pairs.people)
    assert np.array_equal(people[pairs.first] == people[pairs.second], pairs.same)
    assert pairs.fold is not None
    folds = [found.same[pairs.fold == k] for k in range(1, 11)]
    assert {len(fold) for fold in folds} == {n_pairs // 10}
    if n_pairs == 1000:
        assert {int(fold.sum()) for fold in folds} == {50}


@pytest.mark.shared
def test_the_first_pairs_of_both_real_files_are_the_same(shared: Path) -> None:
    all_images = set(read_bin(shared / "data" / "lfw_dev.bin").images)
    assert set(read_bin(shared / "data" / "lfw_dev_40_protocol2.bin").images) <= all_images


@pytest.mark.parametrize("damaged", [False, True])
def test_no_memory_of_a_file_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool) -> None:
    """The garbage collector is off: it would run too late if one file is read after the other, and it never finds what
    was on the unpickler's stack when it failed."""
    made: list[weakref.ref[object]] = []

    class Watched(module._Unpickler):
        def __init__(self, data: bytes) -> None:
            super().__init__(data)
            made.append(weakref.ref(self))

    monkeypatch.setattr(module, "_Unpickler", Watched)
    path = tmp_path / "x.bin"
    data = pickle.dumps(([b"one", b"two"], [True]), protocol=2)
    path.write_bytes(data.replace(b"one", b"on\xff") if damaged else data)
    gc.disable()
    try:
        if damaged:  # inside the text that `_codecs.encode` would turn into bytes
            with pytest.raises(DatasetError, match="can't decode"):
                read_bin(path)
        else:
            assert read_bin(path).images == (b"one", b"two")
        assert [reference() for reference in made] == [None]
    finally:
        gc.enable()
