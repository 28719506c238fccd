"""Files of arrays and a record: written files are read back, everything else is refused in one line."""

from __future__ import annotations

import pickle
import struct

import numpy as np
import pytest

from facespace.errors import ClassifierError, FacespaceError
from facespace.io import tensor_file
from facespace.io.tensor_file import read_tensor_file, write_tensor_file

REMEDY = "train one from the photos"


def read(path):
    return read_tensor_file(path, "classifier", ClassifierError, remedy=REMEDY)


def test_arrays_and_record_are_read_back(tmp_path):
    arrays = {
        "one": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "two": np.array([2**60, -1]),
        "none": np.empty((0, 4), np.uint8),
    }
    record = {"names": ["王小明", "a\nb"], "rate": 0.1, "nested": {"list": [1, None, True]}}
    write_tensor_file(tmp_path / "c", "classifier", arrays, record)
    found, again = read(tmp_path / "c")
    assert again == record
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused_and_not_run(tmp_path, protocol):
    path = tmp_path / "classifier.pkl"
    path.write_bytes(pickle.dumps({"model": Evil(), "names": ["a"]}, protocol=protocol))
    reason = "a pickle, which could run any code" if protocol >= 2 else "a pickle|not a facespace classifier"
    with pytest.raises(ClassifierError, match=reason):
        read(path)


def test_a_truncated_file_is_reported(tmp_path):
    path = tmp_path / "c"
    write_tensor_file(path, "classifier", {"numbers": np.arange(1000.0)}, {"filled": "x" * 500})
    data = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ClassifierError, match=r"cut short|damaged|not a facespace classifier") as error:
            read(path)
        assert REMEDY in str(error.value)
        assert "\n" not in str(error.value)


def test_other_files_are_reported(tmp_path):
    path = tmp_path / "c"
    with pytest.raises(ClassifierError, match="no classifier there"):
        read(path)
    write_tensor_file(path, "grouping", {}, {})
    with pytest.raises(ClassifierError, match="not a facespace classifier"):
        read(path)
    path.write_bytes(struct.pack("<Q", 2**63) + b"{}" * 10)
    with pytest.raises(ClassifierError, match="not a facespace classifier, or cut short"):
        read(path)
    write_tensor_file(path, "classifier", {}, {"names": []})
    assert read(path)[1] == {"names": []}


def test_a_length_that_begins_like_a_pickle_is_not_one(tmp_path):
    path, seen = tmp_path / "c", set()
    for n in range(400, 1500):
        write_tensor_file(path, "classifier", {}, {"filled": "x" * n})
        start = path.read_bytes()[:2]
        if start in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            seen.add(start)
            assert read(path)[1] == {"filled": "x" * n}
    assert len(seen) >= 3


def test_a_record_too_long_for_the_header_is_read_back(tmp_path):
    """safetensors reads headers of at most 100 MB, so a long record is stored as an array, which `read` does not return."""
    record = {"photos": [f"照片{k}" for k in range(200_000)]}
    write_tensor_file(tmp_path / "c", "classifier", {"one": np.arange(3)}, record)
    assert struct.unpack("<Q", (tmp_path / "c").read_bytes()[:8])[0] < 1000
    arrays, found = read(tmp_path / "c")
    assert found == record
    assert arrays.keys() == {"one"}


def test_a_file_that_could_not_be_read_again_is_not_written(tmp_path, monkeypatch):
    path = tmp_path / "c"
    write_tensor_file(path, "classifier", {"numbers": np.arange(10)}, {})
    monkeypatch.setattr(tensor_file, "_MAX_BYTES", path.stat().st_size)
    write_tensor_file(path, "classifier", {"numbers": np.arange(10)}, {})
    with pytest.raises(FacespaceError, match=r"c: a classifier must have at most \d+ bytes, got \d+$"):
        write_tensor_file(path, "classifier", {"numbers": np.arange(11)}, {})
    assert read(path)[0]["numbers"].tolist() == list(range(10))
