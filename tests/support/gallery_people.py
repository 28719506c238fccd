"""Galleries of generated people, and a store that does not use SQL."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from facespace.identification.stores.bulk import add_people, people_of
from facespace.identification.stores.protocol import Entry, PersonState, Store
from facespace.identification.stores.records import PersonRecord, PhotoRecord
from facespace.identification.stores.sqlite import SQLiteStore
from facespace.io.png import encode_png

D = 8
MODEL: dict[str, Any] = {
    "model": "stub", "fingerprint": "f" * 64, "dimension": D, "centered": True,
    "input_spec": {"size": 16, "template": "box", "crop_margin": 0, "channel_order": "RGB",
                   "standardization": "fixed", "mean": 127.5, "std": 128.0},
}  # fmt: skip
# All kinds of allowed names, in order of code points.
NAMES = sorted(
    ["Ada", "ada", "Zoë", "王小明", "محمد", "O'Brien; DROP TABLE person", "a,b", "😀", "x" * 200, "-rf", "../etc",
     "Robert \"Bob\"", "NULL", "1", "<b>bold</b>", "line\\n", "Ĳssel"]
)  # fmt: skip


def photo(k: int, *, crop: bool | bytes = False, **changes: Any) -> PhotoRecord:
    rng = np.random.default_rng(k)
    vector = rng.standard_normal(D)
    pixels = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    told: dict[str, Any] = {
        "embedding": (vector / np.linalg.norm(vector)).astype(np.float16).astype(np.float32),
        "digest": hashlib.sha256(pixels.tobytes()).hexdigest(),
        "source": f"photos/{k}.jpg",
        "made_by": "onnxruntime float32",
        "quality": None if k % 3 == 0 else (k % 100) / 100,
        "metadata": {"k": k, "deep": [{"é": None}]} if k % 4 == 0 else {},
        "crop": encode_png(pixels) if crop is True else crop or None,
    }
    return PhotoRecord(Entry(**(told | changes)), f"2026-01-02T03:04:{k % 60:02d}Z", ("ann", "bob")[k % 2])


def person(name: str, *numbers: int, crop: bool = False, **state: Any) -> PersonRecord:
    return PersonRecord(PersonState(name, **state), "2025-12-31T23:59:59Z", tuple(photo(k, crop=crop) for k in numbers))


def everybody() -> list[PersonRecord]:
    """Return people with all kinds of names, with one to three photos, crops and details."""
    found = []
    for n, name in enumerate(NAMES):
        details: dict[str, Any] = {}
        if n % 3 == 0:
            details = {"external_id": f"id-{n}", "metadata": {"team": name, "n": [1.5, None, True]}}
        if n % 4 == 1:
            details |= {"rejected": (f"{n:064x}",), "templates": "best"}
        found.append(person(name, *range(10 * n, 10 * n + 1 + n % 3), crop=n % 2 == 0, **details))
    return found


def open_people(path: Path, people: list[PersonRecord] | None = None, **options: Any) -> SQLiteStore:
    """Open a gallery of these people, or of `everybody`."""
    store = SQLiteStore(path, create=True, **options)
    store.set("embedder", MODEL)
    add_people(store, everybody() if people is None else people, text="test")
    return store


def told(store: Store | list[PersonRecord]) -> list[Any]:
    """Return everything stored about all people, comparable by ==."""
    people = store if isinstance(store, list) else people_of(store)
    return [
        (one.state, one.added, [
            (photo.entry.digest, photo.entry.embedding.astype(np.float16).tobytes(), photo.entry.source, photo.entry.made_by,
             photo.entry.quality, photo.entry.metadata, photo.entry.crop, photo.added,
             photo.actor)
            for photo in one.photos
        ])
        for one in people
    ]  # fmt: skip


class OtherStore:
    """A store without bulk reads and writes; `calls` records the calls that change it.

    After `stop_after` of these it fails, like a killed server.
    """

    def __init__(self, store: SQLiteStore, stop_after: int | None = None) -> None:
        self._inner = store
        self.stop_after = stop_after
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._inner, name)
        if name not in ("add", "apply"):
            return inner

        def call(*arguments: Any, **options: Any) -> Any:
            if self.stop_after is not None and self.calls >= self.stop_after:
                raise ConnectionError
            self.calls += 1
            return inner(*arguments, **options)

        return call
