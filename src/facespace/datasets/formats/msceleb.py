"""MS-Celeb-1M's tables: one image a line, tab-separated, the identity (Freebase MID) first, the image in Base64 last.

Tables were published with six columns (MID, query, rank, two addresses, image) and with seven (MID, rank, two addresses,
face number, rectangle, image). Only the first and the last column are read.
"""

from __future__ import annotations

import binascii
import os
from array import array
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from facespace.datasets.names import MAX_NAME, LabelScan, Names
from facespace.datasets.shards import Pieces, ShardFiles, find_shards
from facespace.errors import DatasetError
from facespace.io.image import decode
from facespace.io.text import plain_text

_MAX_LINE = 2**26  # bytes
_COLUMNS = (6, 7)


class MSCelebImages:
    """A `.tsv` table, or a folder of such tables in natural order, as `LabelledImages`.

    An identity is named by its MID, the first column. Its label is the position of the MID among all MIDs in sorted
    order, as if the FaceNet program of 2018 had made class folders of the table. Opening reads every line once and
    stores the position of its image. A `DatasetError` names the file and the line.
    """

    labels: npt.NDArray[np.int64]
    names: Names

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._files = ShardFiles(find_shards(path, r"\.tsv", "tables of MS-Celeb-1M (.tsv)"))
        self._pieces, self._lines = Pieces(), array("q")
        scan = LabelScan()
        identities: dict[str, int] = {}
        for shard in range(len(self._files.paths)):
            self._scan(shard, identities, scan)
            self._pieces.end_shard()
        met, _ = scan.finish("")
        mids = sorted(identities)
        order = np.empty(len(mids), np.int64)
        order[[identities[mid] for mid in mids]] = np.arange(len(mids))
        self.labels = order[met]
        self.names = Names(len(mids), dict(enumerate(mids)))

    def __len__(self) -> int:
        return len(self._pieces)

    def encoded(self, index: int) -> bytes:
        """Return one image, decoded from Base64."""
        piece = self._pieces.find(index)
        text = self._files.read(piece.shard, piece.offset, piece.length)
        try:
            data = binascii.a2b_base64(text)
        except binascii.Error:
            data = b""
        padding = text[-2:].count(b"=")
        if not data or len(data) != len(text) // 4 * 3 - padding:  # `a2b_base64` skips invalid characters
            raise DatasetError(f"{self._where(piece.shard, index)}: the last column is not an image in Base64")
        return data

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        """Return one image, (H,W,3) uint8 RGB."""
        return decode(self.encoded(index), self._where(self._pieces.find(index).shard, index))

    def _where(self, shard: int, index: int) -> str:
        return f"{self._files.name(shard)}, line {self._lines[index]}"

    def _scan(self, shard: int, identities: dict[str, int], scan: LabelScan) -> None:
        number = 0
        try:
            with open(self._files.paths[shard], "rb", buffering=2**20) as file:
                for number, offset, line in _lines(file):
                    if len(line) > _MAX_LINE:
                        raise DatasetError(f"a line must have at most {_MAX_LINE:,} bytes, got more")  # noqa: TRY301
                    if not line.endswith(b"\n"):
                        reason = "the last line has no line break: the file is cut short, or a line break must be added"
                        raise DatasetError(reason)  # noqa: TRY301
                    text = line.rstrip(b"\r\n")
                    if not text:
                        continue
                    n_columns = text.count(b"\t") + 1
                    if n_columns not in _COLUMNS:
                        expected = f"{_COLUMNS[0]} or {_COLUMNS[1]} columns separated by tabs"
                        raise DatasetError(f"expected {expected}, got {n_columns}")  # noqa: TRY301
                    name = plain_text(text[: text.find(b"\t")].decode("utf-8", "surrogateescape"))
                    start = text.rfind(b"\t") + 1
                    if not 0 < len(name.strip()) <= MAX_NAME or start == len(text):
                        reason = (
                            "expected an MID first and an image last, got an empty column or an MID that is too long"
                        )
                        raise DatasetError(reason)  # noqa: TRY301
                    scan.add(identities.setdefault(name, len(identities)))
                    self._pieces.add(offset + start, len(text) - start)
                    self._lines.append(number)
        except DatasetError as error:
            raise DatasetError(f"{self._files.name(shard)}, line {number}: {error}") from None
        except OSError as error:
            raise DatasetError(f"{self._files.name(shard)}: cannot be read ({error.strerror})") from None


def _lines(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Yield number (from 1), offset and bytes of every line. A line is split after every `_MAX_LINE` + 1 bytes."""
    number, offset = 0, 0
    while line := file.readline(_MAX_LINE + 1):
        number += 1
        yield number, offset, line
        offset += len(line)
