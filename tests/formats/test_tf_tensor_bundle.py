"""Checkpoints of a small writer in this file, a real one compared with the formula of its weights, and damage."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from facespace.errors import ModelError
from facespace.formats.tf_tensor_bundle import MAX_INDEX_BYTES, TensorBundle
from support.tf_bundles import (
    CODES,
    PARTITIONED,
    block,
    entry,
    extents,
    field,
    header,
    limited,
    masked,
    refusal,
    same,
    shape_message,
    table,
    varint,
    write_bundle,
    write_index,
    write_partitioned,
)

# --- a writer with its own protobuf encoder, independent of the reader --------------------------------------------------


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    return tmp_path / "model-x.ckpt-7"


def some_tensors(n: int = 60) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {f"net/block_{k // 10}/layer_{k}/weights": random.normal(size=(k % 5, 3)).astype("f4") for k in range(n)}


# --- reading --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"per_block": 1}, {"per_block": 7, "restart": 3}, {"restart": 1}], ids=str)
@pytest.mark.parametrize("n_shards", [1, 3])
def test_tensors_come_back(prefix, options, n_shards):
    tensors = some_tensors()
    write_bundle(prefix, tensors, n_shards=n_shards, **options)
    bundle = TensorBundle.open(prefix)
    assert bundle.names == tuple(sorted(tensors))
    for name, array in tensors.items():
        assert name in bundle
        assert (bundle.shape(name), bundle.dtype(name)) == (array.shape, array.dtype)
        assert same(bundle.read(name), array)
    assert "net" not in bundle
    assert 7 not in bundle


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("shape", [(), (5,), (2, 0, 3), (2, 3, 4)], ids=str)
def test_types_and_shapes(prefix, dtype, shape):
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    array = np.frombuffer(np.random.default_rng(1).bytes(n_bytes), np.uint8)
    array = (array % 2 if dtype == "bool" else array).view(dtype).reshape(shape)
    write_bundle(prefix, {"a": array, "b": array})
    bundle = TensorBundle.open(prefix)
    assert same(bundle.read("b"), array)
    bundle.read("b")[...] = 0  # the caller owns the array that is read


def test_names_of_every_kind(prefix):
    names = ["a", "ab", "a/b", "ä/文", "x" * 3000, "a\nb"]
    tensors = {name: np.full(3, k, np.int32) for k, name in enumerate(names)}
    write_bundle(prefix, tensors)
    bundle = TensorBundle.open(prefix)
    assert set(bundle.names) == set(names)
    assert all(same(bundle.read(name), array) for name, array in tensors.items())


def test_only_requested_tensors_are_read(prefix):
    tensors = some_tensors()
    write_bundle(prefix, tensors, n_shards=2)
    Path(f"{prefix}.data-00001-of-00002").unlink()
    bundle = TensorBundle.open(prefix)
    first, second = sorted(tensors)[:2]
    assert same(bundle.read(first), tensors[first])
    assert "data-00001-of-00002: No such file" in refusal(lambda: bundle.read(second))


@pytest.mark.shared
def test_a_real_checkpoint_follows_the_formula(shared):
    bundle = TensorBundle.open(shared / "data/tf1_squeezenet_128/model-20180101-000000.ckpt-7")
    assert len(bundle.names) == 106
    for name in bundle.names:
        shape, last = bundle.shape(name), name.rsplit("/", 1)[-1]
        u = np.random.RandomState(zlib.crc32(name.encode())).uniform(-1, 1, shape)
        if last == "moving_variance":
            expected = 1 + 0.5 * u
        else:
            expected = 0.1 * u if last in ("moving_mean", "beta", "biases") else u * np.sqrt(6 / np.prod(shape[:-1]))
        assert same(bundle.read(name), expected.astype(np.float32)), name


# --- partitioned variables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARTITIONED)
def test_parts_are_joined(prefix, name):
    whole = write_partitioned(prefix, name)
    bundle = TensorBundle.open(prefix)
    assert bundle.names == (name,)
    assert bundle.shape(name) == whole.shape
    assert same(bundle.read(name), whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slices": [((0, 4), (0, 4)), ((4, 3), (0, 4))]}, "does not match its parts of 112 bytes in total"),
        ({"slices": [((0, 4), (0, 4)), ((4, 3), (0, 4)), ((4, 3), (0, 4))]}, "has parts that overlap"),
        ({"slices": [((0, 4), (0, 4)), ((4, 9), (0, 4))]}, "has a part that does not fit"),
        ({"slices": [((-1, 4), (0, 4))]}, "has a part that does not fit"),
        ({"slices": [((0, 4),)]}, "has a part that does not fit"),
        ({"slices": [((0, 2), (0, 4)), ((2, 8), (0, 4))]}, "no tensor"),
        ({"part_shape": (2, 6)}, "has a part that does not fit"),
        ({"without": b"\0part/10x4_3\0\1\1\2\x84\x83\x80\x84"}, "no tensor"),
        ({"one_place": True}, "does not match its checksum"),
    ],
    ids=str,
)
def test_parts_that_do_not_fit(prefix, changes, message):
    write_partitioned(prefix, **changes)
    assert message in refusal(lambda: TensorBundle.open(prefix).read("part/10x4_3"))


def test_parts_of_the_same_bytes_cannot_make_a_giant(prefix):
    """A small file must not allocate gigabytes by using one of its parts many times."""
    n, rows = 1000, 2000
    data = np.zeros((rows, 250), "f4").tobytes()
    slices = [((rows * k, rows), (0, 250)) for k in range(n)]
    entries = {b"": header(), b"w": field(1, 1) + field(2, shape_message((rows * n, 250)))}
    for place in slices:
        entries[b"w"] += field(7, extents(*place))
        start = place[0][0]
        size = start.bit_length() // 7 + 1
        ordered = (start ^ ((1 << size) - 1 << size * 8 - size)).to_bytes(size, "big")
        entries[b"\0w\0\1\1\2" + ordered + b"\xc7\xd0\x80\xc0\xfa"] = entry(1, (rows, 250), 0, 0, data)
    Path(f"{prefix}.data-00000-of-00001").write_bytes(data)
    write_index(prefix, entries)
    with limited():
        assert "does not match its parts of 2000000000 bytes in total" in refusal(
            lambda: TensorBundle.open(prefix).read("w")
        )


# --- refused files --------------------------------------------------------------------------------------------------------


W = np.arange(6, dtype="f4").reshape(2, 3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (entry(1, (2, 3), 0, 0, W.tobytes(), size=20), "tensor 'w' of float32 [2, 3] cannot have 20 bytes"),
        (entry(1, (2, 2), 0, 0, W.tobytes()), "cannot have 24 bytes"),
        (
            entry(1, (2, 3), 0, 1, W.tobytes()),
            "has 24 bytes from byte 1 on, but model-x.ckpt-7.data-00000-of-00001 has only 24",
        ),
        (entry(1, (2, 3), 0, -8, W.tobytes()), "has 24 bytes from byte -8"),
        (entry(1, (2, 3), 0, 2**63 - 1, W.tobytes()), "has 24 bytes from byte 9223372036854775807"),
        (entry(1, (2, 3), 1, 0, W.tobytes()), "is in data file 1 of 1"),
        (entry(1, (2, 3), -1, 0, W.tobytes()), "is in data file -1 of 1"),
        (entry(1, (-2, -3), 0, 0, W.tobytes()), "has the invalid shape [-2, -3]"),
        (entry(1, (2**31, 2**31), 0, 0, W.tobytes()), "is larger than"),
        (entry(1, (2**40, 2**40, 0), 0, 0, b""), "is larger than"),
        (entry(1, (1,) * 33, 0, 0, b"1234"), "has the invalid shape [1, 1"),
        (entry(1, (2, 3), 0, 0, W.tobytes())[:-4] + b"1234", "does not match its checksum"),
        (entry(1, (2, 3), 0, 0, W.tobytes())[:-5], "does not match its checksum"),
        (entry(7, (6,), 0, 0, W.tobytes()), "must be plain numbers, got text"),
        (entry(14, (12,), 0, 0, W.tobytes()), "got bfloat16"),
        (entry(0, (6,), 0, 0, W.tobytes()), "got TensorFlow's type 0"),
        (entry(10, (24,), 0, 0, W.tobytes()), "has booleans other than 0 and 1"),
        (field(1, 1) + field(2, field(3, 1)), "has the invalid shape []"),
        (b"\xff\xff", "has a damaged entry"),
    ],
)
def test_entries_that_are_wrong(prefix, changed, message):
    entries = write_bundle(prefix, {"w": W, "x": W})
    assert same(TensorBundle.open(prefix).read("w"), W)
    write_index(prefix, entries | {b"w": changed})
    Path(f"{prefix}.data-00000-of-00001").write_bytes(W.tobytes())
    bundle = TensorBundle.open(prefix)
    with limited():
        said = refusal(lambda: bundle.read("w"))
    assert str(prefix) in said
    assert message in said


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (header(endianness=1), "written by a big-endian machine"),
        (header(min_consumer=2), "it needs a reader of version 2, this one has 1"),
        (header(n_shards=0), "it must have 1 to 99,999 data files, got 0"),
        (header(n_shards=-1), "it must have 1 to 99,999 data files, got -1"),
        (header() + field(3, field(3, 1)), "it needs a reader of version 0"),
        (b"", "it must have 1 to 99,999 data files, got 0"),
        (b"\xff", "damaged"),
        (b"x" * 2**17, "its names or entries are too long"),
    ],
)
def test_headers_that_are_wrong(prefix, changed, message):
    write_index(prefix, write_bundle(prefix, {"w": W}) | {b"": changed})
    said = refusal(lambda: TensorBundle.open(prefix))
    assert said.startswith(f"{prefix}.index: damaged, or not a TensorFlow checkpoint (")
    assert message in said


def test_without_a_header(prefix):
    entries = write_bundle(prefix, {"w": W})
    del entries[b""]
    write_index(prefix, entries)
    assert "it must have 1 to 99,999 data files, got 0" in refusal(lambda: TensorBundle.open(prefix))


def test_compressed_blocks(prefix):
    write_index(prefix, write_bundle(prefix, {"w": W}), kind=1)
    assert " is compressed, but" in refusal(lambda: TensorBundle.open(prefix))


def resealed(data: bytes, pairs: list[tuple[bytes, bytes]]) -> bytes:
    """Return the index with other pairs in its index block and right checksums."""
    new = block(pairs, 1) + b"\0"
    place = len(data) - 48
    handle = varint(0) + varint(0) + varint(place) + varint(len(new) - 1)
    return data[:place] + new + masked(new) + handle.ljust(40, b"\0") + data[-8:]


@pytest.mark.parametrize(
    ("handle", "message"),
    [
        (varint(0) + varint(2**40), "overlaps another or exceeds the file"),
        (varint(2**63) + varint(1), "overlaps another or exceeds the file"),
        (varint(1) + varint(8), "does not match its checksum"),
        (b"\xff" * 10 + b"\1", "a number is cut short or too long"),
        (b"\x80", "a number is cut short or too long"),
        (b"", "a number is cut short or too long"),
    ],
)
def test_blocks_that_are_out_of_place(prefix, handle, message):
    write_bundle(prefix, {"w": W})
    path = Path(f"{prefix}.index")
    path.write_bytes(resealed(path.read_bytes(), [(b"~", handle)]))
    assert message in refusal(lambda: TensorBundle.open(prefix))


def test_a_block_is_read_once(prefix):
    """Otherwise a small file could be read endlessly."""
    entries = write_bundle(prefix, {"w": W})
    path = Path(f"{prefix}.index")
    handle = varint(0) + varint(len(block(sorted(entries.items()))))
    path.write_bytes(resealed(path.read_bytes(), [(b"~", handle)]))
    assert same(TensorBundle.open(prefix).read("w"), W)
    path.write_bytes(resealed(path.read_bytes(), [(b"~", handle), (b"~~", handle)]))
    assert "a block of" in refusal(lambda: TensorBundle.open(prefix))


@pytest.mark.parametrize("pairs", [[(b"", b""), (b"b", b""), (b"a", b"")], [(b"", b""), (b"a", b""), (b"a", b"")]])
def test_keys_out_of_order(prefix, pairs):
    Path(f"{prefix}.index").write_bytes(table(pairs))
    assert "its keys are not in order" in refusal(lambda: TensorBundle.open(prefix))


def seal(content: bytes) -> bytes:
    """Return an index file with one data block of this content."""
    data = content + b"\0"
    data += masked(data)
    return resealed(
        data + bytes(40) + 0xDB4775248B80FB57.to_bytes(8, "little"), [(b"~", varint(0) + varint(len(content)))]
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a block is too short"),
        (b"\0\0\0", "a block is too short"),
        (b"\xff\xff\xff\xff", "a block is too short"),
        (b"\1\0\0" + bytes(4), "an entry is larger than its block"),
        (b"\0\1\xff\xff\x03a" + bytes(4), "an entry is larger than its block"),
        (b"\0\xff\xff\x03\0a" + bytes(4), "an entry is larger than its block"),
        (b"\0\1" + bytes(4), "an entry is larger than its block"),
        (b"\0" + b"\xff" * 10 + bytes(4), "a number is cut short or too long"),
    ],
)
def test_blocks_that_are_malformed(prefix, content, message):
    Path(f"{prefix}.index").write_bytes(seal(content))
    assert message in refusal(lambda: TensorBundle.open(prefix))


def test_names_that_grow_without_end(prefix):
    """Each takes five bytes in the file, and one byte more in memory than the one before."""
    n = 20_000
    content = b"".join(varint(k) + b"\1\0a" for k in range(n)) + bytes(4)
    Path(f"{prefix}.index").write_bytes(seal(content))
    with limited(2**28):
        assert "its names are too long" in refusal(lambda: TensorBundle.open(prefix))


@pytest.mark.parametrize("end", [b"", b"\x57" * 8, bytes(7)])
def test_files_that_are_not_a_table(prefix, end):
    write_bundle(prefix, {"w": W})
    path = Path(f"{prefix}.index")
    path.write_bytes(path.read_bytes()[:-8] + end)
    assert "bytes without the magic number of an index at the end" in refusal(lambda: TensorBundle.open(prefix))


def test_an_index_that_is_too_large(prefix):
    with open(f"{prefix}.index", "wb") as file:
        file.truncate(MAX_INDEX_BYTES + 1)
    assert f"at most {MAX_INDEX_BYTES} bytes, got {MAX_INDEX_BYTES + 1}" in refusal(lambda: TensorBundle.open(prefix))


def test_files_that_are_missing_or_something_else(prefix):
    assert f"{prefix}.index: No such file or directory; a checkpoint consists of" in refusal(
        lambda: TensorBundle.open(prefix)
    )
    Path(f"{prefix}.index").mkdir()
    assert "not a regular file" in refusal(lambda: TensorBundle.open(prefix))
    Path(f"{prefix}.index").rmdir()
    os.mkfifo(f"{prefix}.index")
    assert "not a regular file" in refusal(lambda: TensorBundle.open(prefix))
    Path(f"{prefix}.index").unlink()
    prefix.write_bytes(b"a checkpoint in one file")
    assert "restore it in TensorFlow 1 and save it" in refusal(lambda: TensorBundle.open(prefix))
    write_bundle(prefix, {"w": W})
    data = Path(f"{prefix}.data-00000-of-00001")
    data.unlink()
    assert f"{data}: No such file" in refusal(lambda: TensorBundle.open(prefix).read("w"))
    os.mkfifo(data)
    assert "not a regular file" in refusal(lambda: TensorBundle.open(prefix).read("w"))
    assert "the checkpoint has no tensor 'v'" in refusal(lambda: TensorBundle.open(prefix).read("v"))


# --- damage ---------------------------------------------------------------------------------------------------------------


def read_all(prefix: Path, expected: dict[str, np.ndarray]) -> None:
    """Check that every tensor is unchanged, or that a `ModelError` is raised."""
    try:
        bundle = TensorBundle.open(prefix)
        names = bundle.names
    except ModelError:
        return
    for name in names:
        try:
            found = bundle.read(name)
        except ModelError as error:
            assert "\n" not in str(error)
            continue
        if name in expected:
            assert same(found, expected[name])


FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FILES = ["model-x.ckpt-7.index", "model-x.ckpt-7.data-00000-of-00002", "model-x.ckpt-7.data-00001-of-00002"]


@settings(FUZZ, max_examples=100)
@given(st.sampled_from(FILES), st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=3))
def test_flipped_bytes(tmp_path, name, flips):
    """Checksums cover every relevant byte of both files, so everything that is read is right."""
    tensors = some_tensors(20)
    write_bundle(tmp_path / "model-x.ckpt-7", tensors, n_shards=2, per_block=6)
    path = tmp_path / name
    data = bytearray(path.read_bytes())
    for place, bits in flips:
        data[int(place * len(data))] ^= bits
    path.write_bytes(data)
    with limited():
        read_all(tmp_path / "model-x.ckpt-7", tensors)


@settings(FUZZ, max_examples=40)
@given(st.sampled_from(FILES), st.floats(0, 1, exclude_max=True))
def test_cut_files(tmp_path, name, place):
    tensors = some_tensors(20)
    write_bundle(tmp_path / "model-x.ckpt-7", tensors, n_shards=2)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: int(place * path.stat().st_size)])
    with limited():
        read_all(tmp_path / "model-x.ckpt-7", tensors)


@settings(FUZZ, max_examples=100)
@given(st.data())
def test_hostile_entries(tmp_path, data):
    """Right checksums, wrong content: entries and keys with changed, moved and random bytes."""
    prefix = tmp_path / "model-x.ckpt-7"
    write_partitioned(prefix)
    entries = dict(TensorBundle.open(prefix)._entries) | {b"": header(2)}
    keys = sorted(entries)
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(st.sampled_from(keys))
        value = bytearray(entries[key])
        if data.draw(st.booleans()) and value:
            value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
        else:
            value += data.draw(st.binary(max_size=12))
        entries[data.draw(st.sampled_from([key, key + b"\x81", b"w"]))] = bytes(value)
    write_index(prefix, entries)
    with limited():
        read_all(prefix, {})


@settings(FUZZ, max_examples=100)
@given(st.binary(max_size=200))
def test_hostile_blocks(tmp_path, content):
    prefix = tmp_path / "model-x.ckpt-7"
    Path(f"{prefix}.index").write_bytes(seal(content + bytes(4)))
    with limited():
        read_all(prefix, {})
    Path(f"{prefix}.index").write_bytes(content + 0xDB4775248B80FB57.to_bytes(8, "little"))
    with limited():
        read_all(prefix, {})
