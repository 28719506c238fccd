"""Parquet: files of pyarrow, of Hugging Face's library and of our writer, and errors for damaged files."""

from __future__ import annotations

import io
import json
import pickle
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from facespace.datasets.formats import parquet
from facespace.datasets.formats.parquet import ParquetImages, ParquetWriter
from facespace.datasets.names import write_names
from facespace.errors import DatasetError, FacespaceError, ImageError, RuntimeUnavailable

arrow = pytest.importorskip("pyarrow")
arrow_parquet = pytest.importorskip("pyarrow.parquet")


def picture(number: int) -> bytes:
    """Return a PPM, whose pixels are its bytes."""
    return b"P6 2 2 255\n" + bytes([number % 256]) * 12


PICTURES = [picture(k) for k in range(10)]


def structs(images: Sequence[bytes | None]) -> Any:
    """Return images as Hugging Face's library stores them."""
    return arrow.array([{"bytes": image, "path": "a.jpg"} for image in images])


def write(path: Path, columns: dict[str, Any], metadata: dict[str, str] | None = None, **options: Any) -> Path:
    table = arrow.table(columns).replace_schema_metadata(metadata)
    arrow_parquet.write_table(table, path, **options)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "train.parquet"


@pytest.mark.parametrize("image", [structs, arrow.array], ids=["struct", "bytes"])
@pytest.mark.parametrize("options", [{}, {"row_group_size": 3}, {"compression": "zstd", "use_dictionary": False}])
def test_images_of_either_kind(file: Path, image: Any, options: dict[str, Any]) -> None:
    labels = arrow.array([2, 0, 1, 1, 1, 0, 0, 0, 2, 2], arrow.int32())
    names = ["Cleo", "Anna", *["Ben"] * 3, *["Anna"] * 3, *["Cleo"] * 2]
    write(file, {"id": list(range(10)), "image": image(PICTURES), "label": labels, "name": names}, **options)
    images = ParquetImages(file)
    assert images.labels.tolist() == labels.to_pylist()
    assert list(images.names) == ["Anna", "Ben", "Cleo"]
    order = list(range(10))
    random.Random(0).shuffle(order)
    assert [images.encoded(index) for index in order] == [PICTURES[index] for index in order]
    assert images.read(9).tolist() == [[[9] * 3] * 2] * 2
    assert pickle.loads(pickle.dumps(images)).encoded(4) == PICTURES[4]


def test_names_of_a_class_label(file: Path) -> None:
    features = {"label": {"names": ["Anna", "Ben", "Cleo"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    write(file, {"image": structs(PICTURES[:2]), "label": [1, 0]}, metadata)
    assert list(ParquetImages(file).names) == ["Anna", "Ben"]
    for wrong in ("[", "[]", '{"info": {"features": {"label": {"names": 3}}}}', "[" * 5000):
        write(file, {"image": structs(PICTURES[:2]), "label": [1, 0]}, {"huggingface": wrong})
        assert list(ParquetImages(file).names) == ["0", "1"]
    write_names(file.parent, ["Ada", "Bea"])
    assert list(ParquetImages(file).names) == ["Ada", "Bea"]


def test_shards_in_natural_order(tmp_path: Path) -> None:
    for name, label in (("x-10.parquet", 1), ("x-9.parquet", 0)):
        write(tmp_path / name, {"image": [name.encode()] * 3, "label": [label] * 3}, row_group_size=2)
    images = ParquetImages(tmp_path)
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.encoded(5) == b"x-10.parquet"
    with pytest.raises(ImageError, match=r"x-10\.parquet, row 2: not an image"):
        images.read(5)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [1]}, "expected columns `image` .* got label"),
        ({"image": [b""]}, "expected columns"),
        ({"image": ["a.jpg"], "label": ["Anna"]}, "the column `label` must be of type INT64, got BYTE_ARRAY"),
        ({"image": [1], "label": [1]}, "the column `image` must be of type BYTE_ARRAY, got INT64"),
        ({"image": [[b""]], "label": [1]}, "expected columns"),
        (
            {"image": [b""], "label": [None]},
            "the column `label` must be of type INT64, got INT32|the label must be a whole number, got None",
        ),
        ({"image": [b"", b""], "label": [1, None]}, "row 1: the label must be a whole number, got None"),
        ({"image": [b""], "label": [-1]}, "row 0: the label must be a number from 0"),
        ({"image": [b""], "label": [2**40]}, "got 1099511627776"),
        (
            {"image": [b""], "label": arrow.array([5], arrow.date32())},
            "the label must be a whole number, got 1970-01-06",
        ),
        ({"image": [b""], "label": [0], "name": [" "]}, "a name must have 1 to 1000 characters"),
        ({"image": [b""] * 2, "label": [0] * 2, "name": ["a", "b"]}, "label 0 is named 'b' here and 'a' before"),
        ({"image": [b""], "label": [0], "name": [{"first": "a"}]}, None),
    ],
)
def test_invalid_columns(file: Path, columns: dict[str, Any], message: str | None) -> None:
    write(file, columns)
    if message is None:
        assert list(ParquetImages(file).names) == ["0"]
        return
    with pytest.raises(DatasetError, match=rf"train\.parquet: .*({message})") as caught:
        ParquetImages(file)
    assert "\n" not in str(caught.value)


def test_a_row_without_an_image(file: Path) -> None:
    write(file, {"image": structs([picture(0), None]), "label": [0, 0]})
    images = ParquetImages(file)
    assert images.encoded(0) == picture(0)
    with pytest.raises(DatasetError, match=r"train\.parquet, row 1: this row has no image"):
        images.encoded(1)
    write(file, {"image": arrow.array([None, {"bytes": picture(1)}]), "label": [0, 0]})
    images = ParquetImages(file)
    assert images.encoded(1) == picture(1)
    with pytest.raises(DatasetError, match="row 0: this row has no image"):
        images.encoded(0)


def test_an_image_repeated_a_million_times_is_in_memory_once(file: Path) -> None:
    image = random.Random(0).randbytes(1_000_000)
    column = arrow.DictionaryArray.from_arrays(arrow.array([0] * 5000, arrow.int32()), arrow.array([image]))
    write(file, {"image": column, "label": [0] * 5000}, store_schema=False)
    assert file.stat().st_size < 2_000_000
    images = ParquetImages(file)
    before = arrow.total_allocated_bytes()
    assert images.encoded(4999) == image
    assert arrow.total_allocated_bytes() - before < 20_000_000


def test_row_groups_too_large_for_one_image(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(file, {"image": [b""] * 30, "label": [0] * 30})
    monkeypatch.setattr(parquet, "_MAX_GROUP_ROWS", 29)
    with pytest.raises(
        DatasetError, match=r"row group 0 is too large, 30 rows .* write the file again with row_group_size=128"
    ):
        ParquetImages(file)


def test_files_that_are_not_parquet(tmp_path: Path, file: Path) -> None:
    write(file, {"image": PICTURES, "label": [0] * 10})
    whole = file.read_bytes()
    for wrong in (b"", b"PAR1", whole[:-1], whole[10:], whole[:4] + bytes(len(whole) - 12) + whole[-8:]):
        file.write_bytes(wrong)
        with pytest.raises(DatasetError, match=r"train\.parquet: damaged, or not a Parquet file") as caught:
            ParquetImages(file)
        assert "\n" not in str(caught.value)
    with pytest.raises(DatasetError, match="no such file"):
        ParquetImages(tmp_path / "missing.parquet")
    (tmp_path / "none").mkdir()
    with pytest.raises(DatasetError, match="no Parquet files in this folder"):
        ParquetImages(tmp_path / "none")


def test_a_file_that_changed_is_not_read_on(file: Path) -> None:
    write(file, {"image": PICTURES, "label": [0] * 10})
    images = ParquetImages(file)
    write(file, {"image": PICTURES[:5], "label": [0] * 5})
    with pytest.raises(DatasetError, match="has changed since it was opened"):
        images.encoded(0)


def test_without_pyarrow(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(file, {"image": PICTURES, "label": [0] * 10})
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    for opened in (lambda: ParquetImages(file), lambda: ParquetWriter(file.parent)):
        with pytest.raises(
            RuntimeUnavailable, match=r"needs pyarrow; install it with: pip install 'facespace\[data\]'"
        ):
            opened()


# The writer


def test_hugging_face_reads_what_was_written(tmp_path: Path) -> None:
    writer = ParquetWriter(tmp_path, names=["Zoë", "王 小明\n"], shard_images=150)
    for k in range(200):
        writer.write(picture(k), k % 2)
    writer.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.parquet", "00001.parquet"]
    first = arrow_parquet.ParquetFile(tmp_path / "00000.parquet")
    assert [first.metadata.row_group(k).num_rows for k in range(first.num_row_groups)] == [128, 22]
    assert str(first.schema_arrow.field("image").type) == "struct<bytes: binary, path: string>"
    features = json.loads(first.schema_arrow.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert first.read().slice(1, 1).to_pylist() == [
        {"image": {"bytes": picture(1), "path": None}, "label": 1, "name": "王 小明\\n"}
    ]
    images = ParquetImages(tmp_path)
    assert np.array_equal(images.labels, np.arange(200) % 2)
    assert [images.encoded(index) for index in range(200)] == [picture(k) for k in range(200)]


def test_a_changed_byte_of_an_image_is_detected(tmp_path: Path) -> None:
    writer = ParquetWriter(tmp_path)
    writer.write(picture(7), 0)
    writer.close()
    file = tmp_path / "00000.parquet"
    whole = file.read_bytes()
    at = whole.index(picture(7))
    for position in (at, at + len(picture(7)) - 1):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(DatasetError, match="damaged"):
            ParquetImages(file).encoded(0)


def test_groups_and_shards_are_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_GROUP_BYTES", 2000)
    writer = ParquetWriter(tmp_path, shard_bytes=5000)
    for _ in range(8):
        writer.write(bytes(1000), 0)
    writer.close()
    files = [arrow_parquet.ParquetFile(path).metadata for path in sorted(tmp_path.iterdir())]
    assert [[file.row_group(k).num_rows for k in range(file.num_row_groups)] for file in files] == [[2, 2, 1], [2, 1]]


def test_a_writer_resumes_after_its_last_complete_shard(tmp_path: Path) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    for folder in (once, twice):
        folder.mkdir()
        writer = ParquetWriter(folder, shard_images=3)
        places = []
        for k in range(8):
            writer.write(picture(k), 0)
            places.append(writer.sync())
        assert places == [None, None, (1,), None, None, (2,), None, None]
        if folder == twice:
            writer.abandon()
            writer = ParquetWriter(folder, shard_images=3, resume_at=places[5])
            for k in (6, 7):
                writer.write(picture(k), 0)
        writer.close()
    for name in ("00000.parquet", "00001.parquet", "00002.parquet"):
        assert (once / name).read_bytes() == (twice / name).read_bytes()


SWEEP = """
import sys
from pathlib import Path
from facespace.datasets.formats.parquet import ParquetImages
from facespace.errors import DatasetError
file = Path(sys.argv[1])
whole = file.read_bytes()
for at in range(len(whole)):
    for change in (1, 4, 32):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ change]) + whole[at + 1 :])
        try:
            images = ParquetImages(file)
            for index in range(len(images)):
                images.encoded(index)
        except DatasetError:
            pass
"""


def test_no_byte_of_a_file_can_end_the_process(file: Path) -> None:
    """In some damaged files, asking pyarrow for the metadata of columns would abort the process."""
    write(
        file, {"image": [picture(0)] * 2, "label": [0, 1]}, compression="none", use_dictionary=False, store_schema=False
    )
    done = subprocess.run([sys.executable, "-c", SWEEP, str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def whole_file() -> bytes:
    stream = io.BytesIO()
    columns = {"image": structs(PICTURES), "label": list(range(10)), "name": list("abcdefghij")}
    arrow_parquet.write_table(arrow.table(columns), stream, row_group_size=4, write_page_checksum=True)
    return stream.getvalue()


@given(st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_are_read_or_refused(file: Path, data: st.DataObject) -> None:
    body = bytearray(whole_file())
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(1, 2))] = data.draw(st.binary(max_size=2))
    file.write_bytes(bytes(body))
    try:
        images = ParquetImages(file)
        for index in range(len(images)):
            images.encoded(index)
    except FacespaceError as error:
        assert "\n" not in str(error)
