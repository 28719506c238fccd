"""One number for a whole dataset: a chain of SHA-256 over its names and image bytes, in order.

c₀ = 0, cₖ = SHA-256(cₖ₋₁ ‖ n ‖ name ‖ SHA-256(image)), with n the number of the name's bytes (u32, little-endian), and
a name that is a number without zeros in front, which only folders have. It is the same for one dataset in every format,
and its state after any image is 32 bytes.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

from facespace.datasets.protocol import LabelledImages
from facespace.io.prefetch import map_ahead
from facespace.io.text import plain_text

_CHUNK = 8  # images read by a thread in one go
_AHEAD = 6  # chunks read and not yet taken


class Chain:
    """The checksum of the images added so far, `value`; `names` are those of the labels.

    >>> chain = Chain(["Anna", "Ben"])
    >>> for label, image in ((1, b"jpeg"), (0, b"png")):
    ...     chain.add(label, hashlib.sha256(image).digest())
    >>> chain.value.hex()[:16]
    '9388f95dd7d72973'
    """

    def __init__(self, names: Sequence[str] | Mapping[int, str], value: bytes = bytes(32)) -> None:
        self.value = value
        self._names = names
        self._encoded: dict[int, bytes] = {}

    def add(self, label: int, digest: bytes) -> None:
        """Take in the next image by its label and the SHA-256 of its bytes."""
        name = self._encoded.get(label)
        if name is None:
            text = plain_text(self._names[label]).encode("utf-8")
            if text.isdigit():
                text = text.lstrip(b"0") or b"0"
            name = self._encoded[label] = len(text).to_bytes(4, "little") + text
        self.value = hashlib.sha256(self.value + name + digest).digest()


def read_ahead(images: LabelledImages, start: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes, bytes]]:
    """Label, encoded image and its SHA-256, in order from image `start` up to `end`; read in threads, a few images ahead."""
    n = len(images) if end is None else end

    def read(first: int) -> list[tuple[bytes, bytes]]:
        chunk = [images.encoded(index) for index in range(first, min(first + _CHUNK, n))]
        return [(encoded, hashlib.sha256(encoded).digest()) for encoded in chunk]

    threads = min(4, (os.cpu_count() or 1) + 1)
    chunks = map_ahead(read, range(start, n, _CHUNK), threads=threads, ahead=_AHEAD)
    labels = itertools.islice(images.labels, start, n)
    for label, (encoded, digest) in zip(labels, itertools.chain.from_iterable(chunks), strict=True):
        yield int(label), encoded, digest


def dataset_checksum(images: LabelledImages, *, progress: Callable[[int], None] | None = None) -> str:
    """The checksum of a dataset, hexadecimal. `progress(done)` is called now and then."""
    chain = Chain(images.names)
    for done, (label, _, digest) in enumerate(read_ahead(images), 1):
        chain.add(label, digest)
        if progress is not None and done % 100 == 0:
            progress(done)
    return chain.value.hex()
