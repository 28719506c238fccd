"""Galleries encrypted with a key: which data is readable in the file, and errors without the key."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest

from facespace.errors import GalleryError
from facespace.identification import edits
from facespace.identification.stores.protocol import Entry
from facespace.identification.stores.sealing import VARIABLE, Encrypted, Plain, new_sealing, sealing_of
from facespace.identification.stores.sqlite import SQLiteStore

KEY = "a key that is hard to guess"


def entry(seed: int) -> Entry:
    vector = np.random.default_rng(seed).standard_normal(64).astype(np.float32)
    return Entry(
        vector / np.linalg.norm(vector), f"{seed + 10**9:064x}", f"holiday-{seed}.jpg", "onnxruntime float32", 0.5,
        {"camera": "kitchen"}, b"\x89PNG the crop of somebody",
    )  # fmt: skip


def fill(store: SQLiteStore) -> None:
    for seed, name in enumerate(["Zoë", "Anna", "Anna", "王小明"]):
        assert store.add(name, entry(seed))
    edits.edit(store, "Anna", external_id="employee-4711", metadata={"team": "blue team"})
    edits.rename(store, "Zoë", "Zoe Miller")
    number = store.photos(edits.person_called(store, "Anna").id)[0].id
    edits.move(store, "Anna", [number], "Berta", reject=True)


def told(store: SQLiteStore) -> object:
    """Return all data of a store except times."""
    people = [(one.id, one.state, one.n_photos) for one in store.people()]
    photos = [
        (p.id, p.person, p.digest, p.source, p.quality, p.metadata, p.has_crop)
        for one in people
        for p in store.photos(one[0])
    ]
    vectors = store.vectors(64)
    nearest = store.nearest(vectors.embeddings, 3)
    log = [(one.kind, one.text, one.change) for one in store.log()]
    return (
        people, photos, log, vectors.names, vectors.owners.tolist(), vectors.embeddings.tolist(), nearest.people.tolist(),
        [store.crop(p[0]) for p in photos], store.find_digest(photos[0][2]), store.people(after="B", limit=1)[0].state.name,
        getattr(store.find_external("employee-4711"), "id", None), store.embeddings([photos[0][0]]).tolist(),
    )  # fmt: skip


def test_it_answers_as_a_plain_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = []
    for name, key in (("plain", ""), ("sealed", KEY)):
        monkeypatch.setenv(VARIABLE, key)
        store = SQLiteStore(tmp_path / name, create=True)
        fill(store)
        answers.append(told(store))
        store.close()
        again = SQLiteStore(tmp_path / name)
        assert told(again) == answers[-1], "the same after opening it again"
        with pytest.raises(GalleryError, match="somebody said that this photo does not show Anna"):
            again.add("Anna", entry(1))
        assert not again.add("王小明", entry(3)), "a photo counts once"
        edits.undo(again)
        assert [one.state.name for one in again.people()] == ["Anna", "Zoe Miller", "王小明"]
        again.close()
    plain, sealed = answers
    assert plain == sealed


def test_nothing_of_people_is_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for name, key in (("plain", ""), ("sealed", KEY)):
        monkeypatch.setenv(VARIABLE, key)
        store = SQLiteStore(tmp_path / name, create=True)
        fill(store)
        store.close()
        data = b"".join(file.read_bytes() for file in tmp_path.iterdir() if file.name.startswith(name))
        secrets = ["Zoë", "Zoe", "Anna", "Berta", "王小明", "holiday", "employee", "blue", "kitchen"]
        texts = [text.encode() for text in secrets] + [b"the crop of", bytes.fromhex(entry(1).digest)[-8:]]
        texts += [entry(1).digest[-16:].encode(), entry(2).embedding.astype("<f2").tobytes()[:16]]
        found.append([text for text in texts if text in data])
    assert len(found[0]) >= 12, "the test searches for data that exists"
    assert found[1] == []


def test_the_key_is_required(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "people.gallery"
    monkeypatch.setenv(VARIABLE, KEY)
    store = SQLiteStore(path, create=True)
    store.add("Anna", entry(1))
    store.close()
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(GalleryError, match=f"encrypted; set the variable {VARIABLE} to its key"):
        SQLiteStore(path)
    monkeypatch.setenv(VARIABLE, KEY + ".")
    with pytest.raises(GalleryError, match="encrypted with another key"):
        SQLiteStore(path)
    monkeypatch.setenv(VARIABLE, "short")
    with pytest.raises(GalleryError, match="at least 16 characters, got 5"):
        SQLiteStore(path)
    with pytest.raises(GalleryError, match="at least 16 characters, got 5"):
        SQLiteStore(tmp_path / "new.gallery", create=True)


def test_a_plain_gallery_stays_plain_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "people.gallery"
    SQLiteStore(path, create=True).close()
    monkeypatch.setenv(VARIABLE, KEY)
    store = SQLiteStore(path)
    assert "not encrypted although FACESPACE_GALLERY_KEY is set" in store.remarks[0]
    store.close()


@pytest.mark.parametrize("column", ["vector", "source", "extra"])
def test_a_changed_value_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str) -> None:
    path = tmp_path / "people.gallery"
    monkeypatch.setenv(VARIABLE, KEY)
    store = SQLiteStore(path, create=True)
    store.add("Anna", entry(1))
    store.close()
    connection = sqlite3.connect(path)
    ((value,),) = connection.execute(f"SELECT {column} FROM face").fetchall()
    other = value[:-8] + (b"AAAAAAA=" if isinstance(value, bytes) else "AAAAAAA=")
    connection.execute(f"UPDATE face SET {column} = ?", (other,))
    connection.commit()
    connection.close()
    store = SQLiteStore(path)
    with pytest.raises(
        GalleryError, match=r"damaged \(an encrypted value was altered, or encrypted with another key\)"
    ):
        store.vectors(64), store.photos(1)
    store.close()


@pytest.mark.parametrize("stored", [[], {"salt": 1, "check": ""}, {"salt": "zz", "check": ""}, {}])
def test_encryption_parameters_are_checked(stored: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY)
    with pytest.raises(GalleryError, match="people: damaged"):
        sealing_of(stored, "people")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(GalleryError, match=r"pip install 'facespace\[encryption\]'"):
        Encrypted(KEY, bytes(16))


def test_new_galleries_follow_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert isinstance(new_sealing()[0], Plain) and new_sealing()[1] is None
    monkeypatch.setenv(VARIABLE, KEY)
    sealing, stored = new_sealing()
    again = sealing_of(stored, "people")
    assert again.open(sealing.seal(b"x")) == b"x" and again.key_of(b"x") == sealing.key_of(b"x")
    assert new_sealing()[1] != stored, "every file has its own salt"
