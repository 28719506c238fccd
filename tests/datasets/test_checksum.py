"""The checksum of a whole dataset."""

from __future__ import annotations

import hashlib
import struct
from types import SimpleNamespace

import numpy as np
import pytest

from facespace.datasets.checksum import Chain, dataset_checksum


def dataset(names: list[str], images: list[tuple[int, bytes]]) -> SimpleNamespace:
    class Images(SimpleNamespace):
        def __len__(self) -> int:
            return len(images)

        def encoded(self, index: int) -> bytes:
            return images[index][1]

    return Images(names=names, labels=np.array([label for label, _ in images]))


def by_hand(images: list[tuple[bytes, bytes]]) -> str:
    """Compute the checksum by the module's formula; images are (name, bytes)."""
    value = bytes(32)
    for name, image in images:
        value = hashlib.sha256(value + struct.pack("<I", len(name)) + name + hashlib.sha256(image).digest()).digest()
    return value.hex()


def test_the_formula() -> None:
    images = [(k % 2, bytes([k]) * k) for k in range(30)]
    names = ["Zoë", "Ben 7"]
    expected = by_hand([(names[label].encode(), image) for label, image in images])
    assert dataset_checksum(dataset(names, images)) == expected
    assert dataset_checksum(dataset(names[::-1], [(1 - label, image) for label, image in images])) == expected
    told: list[int] = []
    dataset_checksum(dataset(names, images * 10), progress=told.append)
    assert told == [100, 200, 300]


@pytest.mark.parametrize(
    ("name", "counts_as"),
    [("007", b"7"), ("7", b"7"), ("000", b"0"), ("0", b"0"), ("07a", b"07a"), ("٠٧", "٠٧".encode())],
)
def test_leading_zeros_of_a_number_do_not_count(name: str, counts_as: bytes) -> None:
    assert dataset_checksum(dataset([name], [(0, b"image")])) == by_hand([(counts_as, b"image")])


def test_it_can_be_resumed_at_any_image() -> None:
    digests = [(k % 3, hashlib.sha256(bytes([k])).digest()) for k in range(9)]
    whole, first = Chain("abc"), Chain("abc")
    for label, digest in digests:
        whole.add(label, digest)
    for label, digest in digests[:4]:
        first.add(label, digest)
    rest = Chain({0: "a", 1: "b", 2: "c"}, first.value)
    for label, digest in digests[4:]:
        rest.add(label, digest)
    assert rest.value == whole.value != first.value
