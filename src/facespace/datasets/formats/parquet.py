"""Parquet files of images as on Hugging Face's hub: columns `image`, `label` and, optionally, `name`.

An image is bytes, or a struct of `bytes` and `path`. A label is a whole number; the names may be in the
file's Hugging Face metadata instead of a column.
"""

from __future__ import annotations

import bisect
import contextlib
import importlib
import json
import operator
import os
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.datasets.names import LabelScan, Names
from facespace.datasets.shards import ShardFiles, find_shards
from facespace.errors import DatasetError, RuntimeUnavailable
from facespace.io.image import decode
from facespace.io.text import plain_text

_GROUP_IMAGES = 128  # rows of a row group; reading one image reads its whole group
_GROUP_BYTES = 2**25
_MAX_GROUP_ROWS = 2**20
_MAX_GROUP_BYTES = 2**31
_N_OPEN = 16  # files open at once
_N_CACHED = 4  # row groups in memory
_MAX_CACHED = 2**29  # bytes of row groups in memory


class ParquetImages:
    """A Parquet file, or a folder of `.parquet` shards in natural order, as `LabelledImages`.

    Opening reads the labels and names. Reading an image reads its whole row group and keeps it in memory. Reading in
    order is therefore fast, and reading at random is faster with smaller row groups. Raises `DatasetError`, which names
    the file, and `RuntimeUnavailable` if pyarrow is not installed.
    """

    labels: npt.NDArray[np.int64]
    names: Names

    def __init__(self, path: str | os.PathLike[str]) -> None:
        _pyarrow()
        self._files = ShardFiles(find_shards(path, r"\.parquet", "Parquet files"))
        scan, starts, shards, groups = LabelScan(), [0], array("q"), array("q")
        columns = []
        for shard in range(len(self._files.paths)):
            with self._reading(shard):
                file = _open(self._files.paths[shard])
                column, has_names = _columns(file)
                columns.append(column)
                for group, n_rows in enumerate(_row_groups(file, self._files.sizes[shard])):
                    starts.append(starts[-1] + n_rows)
                    shards.append(shard)
                    groups.append(group)
                _scan(file, has_names, scan, starts[-1])
        self.labels, self.names = scan.finish(os.path.dirname(self._files.paths[0]))
        self._columns = columns  # the image column of each file
        self._starts = starts  # the first image of every row group
        self._shards, self._groups = shards, groups  # the file of every row group, and its number in that file
        self._make_cache()

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, index: int) -> bytes:
        """Return one image as the file stores it."""
        group, row = self._place(index)
        with self._reading(self._shards[group]):
            value = self._images(group)[row].as_py()
        if not isinstance(value, bytes):
            raise DatasetError(f"{self._where(index)}: this row has no image")
        return value

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        """Return one image, (H,W,3) uint8 RGB."""
        return decode(self.encoded(index), self._where(index))

    def _place(self, index: int) -> tuple[int, int]:
        """Return the row group of an image and its row there; raises `IndexError` if the index is out of range."""
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        group = bisect.bisect_right(self._starts, index) - 1
        return group, index - self._starts[group]

    def _where(self, index: int) -> str:
        shard = self._shards[self._place(index)[0]]
        first = bisect.bisect_left(self._shards, shard)  # the file's first row group
        return f"{self._files.name(shard)}, row {index - self._starts[first]}"

    def _images(self, group: int) -> Any:
        """Return the images of a row group as an Arrow array. Threads take turns, as they often need the same group."""
        with self._turn:
            if group in self._cache:
                self._cache.move_to_end(group)
                return self._cache[group]
            shard = self._shards[group]
            if shard not in self._open:
                self._files.check(shard)
                if len(self._open) >= _N_OPEN:
                    self._open.clear()
                self._open[shard] = _open(self._files.paths[shard])
            n_rows = self._starts[group + 1] - self._starts[group]
            images = _read_images(self._open[shard], self._groups[group], self._columns[shard], n_rows)
            self._cache[group] = images
            while len(self._cache) > 1 and (
                len(self._cache) > _N_CACHED or sum(kept.nbytes for kept in self._cache.values()) > _MAX_CACHED
            ):
                self._cache.popitem(last=False)
            return images

    @contextlib.contextmanager
    def _reading(self, shard: int) -> Iterator[None]:
        try:
            yield
        except DatasetError as error:
            name = self._files.name(shard)
            raise (error if str(error).startswith(name) else DatasetError(f"{name}: {error}")) from None
        except Exception as error:  # pyarrow raises anything on damaged data
            reason = plain_text(" ".join(str(error).split())[:200]) or type(error).__name__
            raise DatasetError(f"{self._files.name(shard)}: damaged, or not a Parquet file ({reason})") from None

    def _make_cache(self) -> None:
        self._turn = threading.Lock()
        self._open: dict[int, Any] = {}
        self._cache: OrderedDict[int, Any] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_turn", "_open", "_cache")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._make_cache()


def _pyarrow() -> Any:
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError:
        raise RuntimeUnavailable(
            "a Parquet dataset needs pyarrow; install it with: pip install 'facespace[data]'"
        ) from None


def _open(path: str) -> Any:
    parquet = _pyarrow().parquet
    metadata = parquet.read_metadata(path)
    there = {metadata.schema.column(k).path for k in range(len(metadata.schema))}
    # Read as dictionaries, an image that a damaged file repeats a million times is in memory only once.
    once = [name for name in ("image", "image.bytes", "name") if name in there]
    return parquet.ParquetFile(path, metadata=metadata, read_dictionary=once, page_checksum_verification=True)


def _columns(file: Any) -> tuple[str, bool]:
    """Return the name of the column of encoded images, and whether there is a column `name`.

    Raises `DatasetError` if the column of images or `label` is missing, or if one of the columns has a wrong type.
    """
    columns = [file.schema.column(k) for k in range(len(file.schema))]
    kinds = {column.path: (column.physical_type, column.max_repetition_level) for column in columns}
    image = next((name for name in ("image.bytes", "image") if name in kinds), None)
    if image is None or "label" not in kinds:
        there = plain_text(", ".join(list(kinds)[:8])[:200])
        raise DatasetError(f"expected columns `image` (bytes) and `label` (a number), got {there or 'no columns'}")
    accepted = {image: ("BYTE_ARRAY",), "label": ("INT64", "INT32"), "name": ("BYTE_ARRAY",)}
    for name, types in accepted.items():
        if name in kinds and (kinds[name][0] not in types or kinds[name][1]):
            repeated = ", several per row" if kinds[name][1] else ""
            raise DatasetError(f"the column `{name}` must be of type {types[0]}, got {kinds[name][0]}{repeated}")
    return image, "name" in kinds


def _row_groups(file: Any, size: int) -> list[int]:
    """Return the number of rows of every row group, checked against the file's size."""
    n_rows = []
    for number in range(file.num_row_groups):
        # The columns' metadata is not read: in a damaged file pyarrow would abort the process.
        group = file.metadata.row_group(number)
        if not 0 <= group.num_rows <= _MAX_GROUP_ROWS or not 0 <= group.total_byte_size <= _MAX_GROUP_BYTES:
            raise DatasetError(
                f"row group {number} is too large, {group.num_rows:,} rows and {group.total_byte_size:,} bytes, as it is "
                f"read whole for each image; write the file again with row_group_size={_GROUP_IMAGES}"
            )
        n_rows.append(group.num_rows)
    if sum(n_rows) > size or sum(n_rows) != file.metadata.num_rows:
        raise DatasetError(f"damaged: {file.metadata.num_rows:,} rows in {size:,} bytes")
    return n_rows


def _scan(file: Any, has_names: bool, scan: LabelScan, n_expected: int) -> None:
    """Add a file's labels and names to `scan`; raises `DatasetError` unless `scan` then has `n_expected` labels."""
    known = {} if has_names else _class_names(file.schema_arrow.metadata)
    columns = ["label", "name"] if has_names else ["label"]
    for batch in file.iter_batches(batch_size=2**16, columns=columns, use_threads=False):
        labels = batch.column("label").to_pylist()
        names = batch.column("name").to_pylist() if has_names else map(known.get, labels)
        for label, name in zip(labels, names, strict=True):
            if type(label) is not int:
                raise DatasetError(f"row {len(scan)}: the label must be a whole number, got {_shown(label)}")
            if name is not None and not isinstance(name, (str, bytes)):
                raise DatasetError(f"row {len(scan)}: the name must be text, got {_shown(name)}")
            try:
                scan.add(label, name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name)
            except DatasetError as error:
                raise DatasetError(f"row {len(scan)}: {error}") from None
        if len(scan) > n_expected:
            break
    if len(scan) != n_expected:
        raise DatasetError("damaged: the number of rows differs from its metadata")


def _shown(value: Any) -> str:
    return plain_text(str(value)[:40])


def _class_names(metadata: Any) -> dict[int, str]:
    """Return names by label from the schema's metadata, where Hugging Face stores them; empty if there are none."""
    try:
        names = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]["label"]["names"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    if not isinstance(names, list):
        return {}
    return {label: name for label, name in enumerate(names) if isinstance(name, str) and name.strip()}


def _read_images(file: Any, group: int, column: str, n_expected: int) -> Any:
    """Return the images of a row group of `n_expected` rows, an Arrow array."""
    # Batches take memory for the expected rows, not for the number that a damaged column states.
    batches, n_rows = [], 0
    for batch in file.iter_batches(batch_size=n_expected, row_groups=[group], columns=[column], use_threads=False):
        batches.append(batch)
        n_rows += len(batch)
        if n_rows > n_expected:
            break
    if n_rows != n_expected:
        raise DatasetError("damaged: the number of rows in a row group differs from its metadata")
    images = _pyarrow().Table.from_batches(batches).column("image").combine_chunks()
    return images if column == "image" else images.flatten()[0]


class ParquetWriter:
    """Writes shards `00000.parquet`, `00001.parquet`, … into an existing folder.

    A shard is finished as soon as it has `shard_images` images or `shard_bytes` bytes of images. Images are stored as
    Hugging Face does, so that its library shows them as pictures. If `names` (indexed by label) is given, a column of
    names is added. A Parquet file cannot be appended to, so `sync` returns a position for `resume_at` only between two
    shards.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        names: Sequence[str] | None = None,
        shard_images: int = 10_000,
        shard_bytes: int = 1_000_000_000,
        resume_at: tuple[int] = (0,),
    ) -> None:
        arrow = _pyarrow()
        self._folder, self._names = os.fspath(folder), names
        self._shard_images, self._shard_bytes = shard_images, shard_bytes
        (self._shard,) = resume_at
        image = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
        features: dict[str, Any] = {"image": {"_type": "Image"}, "label": {"dtype": "int64", "_type": "Value"}}
        fields = [("image", image), ("label", arrow.int64())]
        if names is not None:
            fields.append(("name", arrow.string()))
            features["name"] = {"dtype": "string", "_type": "Value"}
        self._schema = arrow.schema(fields, {"huggingface": json.dumps({"info": {"features": features}})})
        self._writer: Any = None
        self._rows: list[tuple[bytes, int]] = []
        self._n_bytes = self._n_in_shard = self._n_shard_bytes = 0

    def write(self, encoded: bytes, label: int) -> None:
        """Append one image, its label and its name."""
        if self._writer is None:
            self._writer = _pyarrow().parquet.ParquetWriter(
                self._path(), self._schema, compression="none", use_dictionary=["label", "name"],
                write_statistics=["label"], write_page_checksum=True,
            )  # fmt: skip
        self._rows.append((encoded, label))
        self._n_bytes += len(encoded)
        self._n_shard_bytes += len(encoded)
        self._n_in_shard += 1
        if len(self._rows) >= _GROUP_IMAGES or self._n_bytes >= _GROUP_BYTES:
            self._write_group()
        if self._n_in_shard >= self._shard_images or self._n_shard_bytes >= self._shard_bytes:
            self.close()
            self._shard += 1
            self._n_in_shard = self._n_shard_bytes = 0

    def sync(self) -> tuple[int] | None:
        """Return the position to resume at; None inside a shard."""
        return (self._shard,) if self._writer is None else None

    def close(self) -> None:
        """Finish the shard that is being written."""
        if self._writer is None:
            return
        self._write_group()
        self._writer.close()
        self._writer = None
        with open(self._path(), "rb+") as file:
            os.fsync(file.fileno())

    def abandon(self) -> None:
        """Close an unfinished shard and ignore errors."""
        with contextlib.suppress(Exception):
            if self._writer is not None:
                self._writer.close()

    def _write_group(self) -> None:
        if not self._rows:
            return
        arrow = _pyarrow()
        images, labels = zip(*self._rows, strict=True)
        paths = arrow.nulls(len(images), arrow.string())
        columns = [
            arrow.StructArray.from_arrays([arrow.array(images, arrow.binary()), paths], ["bytes", "path"]),
            arrow.array(labels, arrow.int64()),
        ]
        if self._names is not None:
            columns.append(arrow.array([plain_text(self._names[label]) for label in labels], arrow.string()))
        self._writer.write_table(arrow.Table.from_arrays(columns, schema=self._schema), row_group_size=len(images))
        self._rows, self._n_bytes = [], 0

    def _path(self) -> str:
        return os.path.join(self._folder, f"{self._shard:05d}.parquet")
