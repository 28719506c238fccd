"""Aligns a batch of photos to crops and table rows, independent of where photos and crops are stored."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from facespace.alignment.face_table import Row
from facespace.detection.protocol import Detector
from facespace.errors import ImageError
from facespace.faces.alignment import align
from facespace.faces.crops import CropRecord
from facespace.faces.face import Face, central_face
from facespace.io import pictures
from facespace.io.png import encode_png
from facespace.io.prefetch import map_ahead
from facespace.io.text import plain_text
from facespace.pipeline.face_batches import in_chunks
from facespace.runtime.cores import usable_cores

_ENDINGS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
_SAVE: dict[str, dict[str, object]] = {
    "jpeg": {"quality": 95, "subsampling": 0},
    "webp": {"lossless": True, "method": 0},
}


class Read(NamedTuple):
    """A photo and its pixels; for a photo that cannot be read, `pixels` is None and `reason` says why."""

    photo: str
    pixels: npt.NDArray[np.uint8] | None
    reason: str = ""

    @property
    def n_pixels(self) -> int:
        """The number of pixels in memory."""
        return 0 if self.pixels is None else self.pixels.size // 3


def outputs(photos: Sequence[str], record: CropRecord) -> dict[str, str]:
    """Return the name of every photo's crop file: the photo's name with the ending of the crop format.

    If photos of a folder differ only in their ending, the crops of the later photos keep the photo's ending as well.

    >>> outputs(["A/1.jpg", "A/1.png"], CropRecord(160, 32, "box"))
    {'A/1.jpg': 'A/1.png', 'A/1.png': 'A/1.png.png'}
    """
    ending = _ENDINGS[record.format]
    taken: set[str] = set()
    result = {}
    for photo in photos:
        output = os.path.splitext(photo)[0] + ending
        if output in taken:
            output = photo + ending
        taken.add(output)
        result[photo] = output
    return result


class BatchAligner:
    """Aligns batches with the settings of `record`; several threads may align batches at the same time.

    `read` returns the pixels of a photo, or raises `ImageError`. `target` maps each photo to the name of its crop file
    (see `outputs`); if all faces are cropped, each name gets the face's number. `write` is called with the name and the
    bytes of every crop file. `n_pixels` is the number of pixels in memory now.
    """

    def __init__(
        self,
        record: CropRecord,
        detector: Detector,
        target: Mapping[str, str],
        *,
        read: Callable[[str], npt.NDArray[np.uint8]],
        write: Callable[[str, bytes], object],
    ) -> None:
        self.n_pixels = 0
        self._counting = threading.Lock()
        self._record = record
        self._spec = record.input_spec()
        self._detector = detector
        self._target = target
        self._read_photo = read
        self._write_crop = write

    def _read(self, photo: str) -> Read:
        try:
            pixels = self._read_photo(photo)
        except ImageError as error:
            return Read(photo, None, plain_text(error.reason))
        self._count(pixels.size // 3)
        return Read(photo, pixels)

    def _count(self, pixels: int) -> None:
        with self._counting:
            self.n_pixels += pixels

    def align(self, photos: Sequence[str], files: ThreadPoolExecutor) -> list[Row]:
        """Detect the faces in a batch of photos, write a crop of each face, and return the rows of the face table.

        The threads of the pool `files` write the crops. Large photos are read and processed one by one.
        """
        rows = []
        reading = map_ahead(self._read, photos, threads=usable_cores(), ahead=len(photos))
        for chunk in in_chunks(reading, lambda read: read.n_pixels):
            rows += self._align_chunk(chunk, files)
            del chunk  # free it before the next photo is decoded
        return rows

    def _align_chunk(self, read: Sequence[Read], files: ThreadPoolExecutor) -> list[Row]:
        found = iter(self._detector.detect_many(one.pixels for one in read if one.pixels is not None))
        rows: list[Row] = []
        writing = []
        for photo, pixels, reason in read:
            name = plain_text(photo)
            if pixels is None:
                rows.append(Row(name, "", "unreadable", reason))
                continue
            height, width = pixels.shape[:2]
            faces = self._chosen(next(found), width, height)
            if not faces:
                rows.append(Row(name, "", "no face", "no face found", width, height))
            for face, output in zip(faces, self._crop_files(photo, len(faces)), strict=True):
                rows.append(Row.of_face(name, plain_text(output), (width, height), face))
                writing.append(files.submit(self._write, pixels, face, output))
        for future in writing:
            future.result()
        self._count(-sum(one.n_pixels for one in read))
        return rows

    def _chosen(self, faces: list[Face], width: int, height: int) -> list[Face]:
        # Round as in the table, so that the crops can be reproduced from the table.
        faces = [
            Face(
                tuple(round(float(value), 3) for value in face.box),  # type: ignore[arg-type]
                face.score,
                tuple((round(float(x), 3), round(float(y), 3)) for x, y in face.landmarks),
            )
            for face in faces
        ]
        if self._record.faces == "all" or not faces:
            return faces
        if self._record.faces == "central":
            return [central_face(faces, width, height)]
        return [max(faces, key=lambda face: face.score)]

    def _crop_files(self, photo: str, n: int) -> list[str]:
        output = self._target[photo]
        if self._record.faces != "all":
            return [output] * n
        stem, ending = os.path.splitext(output)
        return [f"{stem}_{k}{ending}" for k in range(n)]

    def _write(self, pixels: npt.NDArray[np.uint8], face: Face, name: str) -> None:
        crop, kind = align(pixels, face, self._spec), self._record.format
        if kind == "png":
            self._write_crop(name, encode_png(crop))
            return
        self._write_crop(name, pictures.encode(Image.fromarray(crop), kind.upper(), **_SAVE[kind]))
