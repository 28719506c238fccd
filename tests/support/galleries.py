"""Photos and people for gallery tests, and comparable summaries of a store's contents."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facespace.errors import GalleryError
from facespace.identification.stores.protocol import Entry, Store
from facespace.identification.stores.sqlite import SQLiteStore

DIMENSION = 8


def vector(seed: int, dimension: int = DIMENSION) -> np.ndarray:
    """Return a unit vector: the axis of that number, or a random vector if there is no such axis."""
    if seed < dimension:
        return np.eye(dimension, dtype=np.float32)[seed]
    drawn = np.random.default_rng(seed).standard_normal(dimension).astype(np.float32)
    return drawn / np.float32(np.linalg.norm(drawn))


def entry(seed: int, dimension: int = DIMENSION, **changes: Any) -> Entry:
    """Return the photo with that number, which is also its digest."""
    given: dict[str, Any] = {
        "digest": f"{seed + 10**9:064x}",
        "source": f"photo {seed}.jpg",
        "made_by": "onnxruntime float32",
    }
    return Entry(vector(seed, dimension), **(given | changes))


def random_entry(seed: int, dimension: int) -> Entry:
    """Return a photo with a random vector, also for small numbers."""
    drawn = np.random.default_rng(seed).standard_normal(dimension).astype(np.float32)
    return Entry(
        drawn / np.float32(np.linalg.norm(drawn)), f"{seed + 10**9:064x}", f"photo {seed}.jpg", "onnxruntime float32"
    )


def held(store: Store) -> dict[str, Any]:
    """Return everything a store contains, by name and without times: states, photos, vectors, search results."""
    people = store.people()
    photos = {one.state.name: store.photos(one.id) for one in people}
    return {
        "states": {one.state.name: (one.id, one.state, one.n_photos) for one in people},
        "photos": {
            name: [(p.id, p.person, p.digest, p.source, p.made_by, p.quality, p.metadata, p.has_crop) for p in some]
            for name, some in photos.items()
        },
        "vectors": {
            name: store.embeddings([photo.id for photo in some]).round(3).tolist() for name, some in photos.items()
        },
        "count": store.count(),
    }


def damage(path: Path, *statements: str) -> None:
    """Change a file as another program might, including triggers and NULL."""
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def made_null(path: Path, table: str, column: str, kind: str) -> None:
    """Set a column that forbids NULL to NULL in all rows."""
    there = f"{column} {kind} NOT NULL"
    for old, new, then in (
        (there, f"{column} {kind}", f"UPDATE {table} SET {column} = NULL"),
        (f"{column} {kind}", there, ""),
    ):
        damage(
            path,
            "PRAGMA writable_schema = ON",
            f"UPDATE sqlite_master SET sql = replace(sql, '{old}', '{new}') WHERE name = '{table}'",
        )
        if then:
            damage(path, then)


def integrity(path: Path) -> str:
    """Return SQLite's integrity report for a file."""
    connection = sqlite3.connect(path)
    try:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        connection.close()


def read_everything(path: Path, dimension: int = DIMENSION) -> dict[str, Any]:
    """Call every method that reads."""
    store = SQLiteStore(path)
    try:
        found = store.nearest(np.stack([vector(k, dimension) for k in range(3)]), 2)
        seen = held(store)
        log = [(one.kind, one.text, one.actor, one.change, one.undone) for one in store.log(100)]
        vectors = store.vectors(dimension)
        store.setting("embedder"), store.version(), store.collections(), store.find_digest("0" * 64), store.find("Ada")
        crops = [store.crop(photo[0]) for some in seen["photos"].values() for photo in some]
        return seen | {
            "people": store.people(), "nearest": found.people.tolist(), "log": log, "names": vectors.names, "crops": crops,
        }  # fmt: skip
    finally:
        store.close()


def refused(path: Path, match: str, *, create: bool = False) -> None:
    """Check that opening and reading raise one line that names the file, and leave file and folder unchanged."""
    before = path.read_bytes() if path.is_file() else None
    beside = sorted(os.listdir(path.parent))
    with pytest.raises(GalleryError, match=match) as caught:
        if create:
            SQLiteStore(path, create=True).close()
        else:
            read_everything(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert (path.read_bytes() if path.is_file() else None) == before
    assert sorted(os.listdir(path.parent)) == beside


def spawned(script: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start a Python process that prints lines."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip
