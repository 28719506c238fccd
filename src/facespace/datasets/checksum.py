"""The checksum of a whole dataset: a chain of SHA-256 over its names and image bytes, in order.

c₀ = 0, cₖ = SHA-256(cₖ₋₁ ‖ n ‖ name ‖ SHA-256(image)), where n is the length of the name in bytes (u32, little-endian).
A name that is a number loses its leading zeros, because only folder names have them. A dataset therefore has the same
checksum in every format. The state after any image is 32 bytes.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

from facespace.datasets.protocol import LabelledImages
from facespace.io.prefetch import map_ahead
from facespace.io.text import plain_text

_CHUNK = 8  # images that a thread reads at a time
_AHEAD = 6  # chunks that are read in advance


class Chain:
    """The checksum of a dataset, updated image by image: `value` is the checksum of the images added so far.

    `names` gives the name of each label.

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
        """Add the next image by its label and the SHA-256 of its bytes."""
        name = self._encoded.get(label)
        if name is None:
            text = plain_text(self._names[label]).encode("utf-8")
            if text.isdigit():
                text = text.lstrip(b"0") or b"0"
            name = self._encoded[label] = len(text).to_bytes(4, "little") + text
        self.value = hashlib.sha256(self.value + name + digest).digest()


def read_ahead(images: LabelledImages, start: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield (label, encoded image, its SHA-256) for the images from `start` to before `end`; threads read ahead."""
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
    """Return the checksum of a dataset in hexadecimal. `progress(done)` is called after every 100 images."""
    chain = Chain(images.names)
    for done, (label, _, digest) in enumerate(read_ahead(images), 1):
        chain.add(label, digest)
        if progress is not None and done % 100 == 0:
            progress(done)
    return chain.value.hex()
