"""Export and import of a gallery: round trip, known people, different models, and damaged files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from facespace.errors import GalleryError
from facespace.identification import edits, exchange
from facespace.identification.exchange import export_gallery, import_gallery, stored_model
from facespace.identification.exchange_file import PeopleFile
from facespace.identification.gallery import Gallery
from facespace.identification.stores.bulk import people_of
from facespace.identification.stores.records import Counts
from facespace.identification.stores.sqlite import SQLiteStore
from support.gallery_people import MODEL, everybody, open_people, person, photo, told

CALIBRATION = {"rate": 0.01, "offset": 0.1, "evidence": {"n_known": 3}}


@pytest.fixture
def store(tmp_path: Path) -> SQLiteStore:
    return open_people(tmp_path / "people.gallery")


@pytest.fixture
def path(tmp_path: Path, store: SQLiteStore) -> Path:
    target = tmp_path / "people.facespace"
    export_gallery(store, target)
    return target


def empty(path: Path, **options: Any) -> SQLiteStore:
    return SQLiteStore(path, create=True, **options)


def test_the_round_trip(store: SQLiteStore, tmp_path: Path) -> None:
    store.set("calibration", CALIBRATION)
    store.set("templates", "best")
    path = tmp_path / "people.facespace"
    header = export_gallery(store, path)
    other = empty(tmp_path / "other.gallery", collection="friends")
    counts = import_gallery(other, path)
    assert counts == Counts(header.n_people, 0, header.n_photos) == Counts(17, 0, 33)
    assert told(other) == told(store) == told(everybody())
    assert [other.setting(key) for key in ("embedder", "calibration", "templates")] == [MODEL, CALIBRATION, "best"]
    again = tmp_path / "again.facespace"
    export_gallery(other, again)
    with PeopleFile(path) as first, PeopleFile(again) as second:
        assert told(list(first.people())) == told(list(second.people()))


def test_removed_people_are_not_exported(tmp_path: Path) -> None:
    store = open_people(tmp_path / "a.gallery", [person("Ada", 1, 2), person("Bob", 3)])
    edits.remove(store, "Bob")
    edits.remove_photos(store, "Ada", [store.photos(1)[0].id], reject=True)
    path = tmp_path / "a.facespace"
    assert export_gallery(store, path).n_photos == 1
    data = path.read_bytes()
    assert b"Bob" not in data and photo(1).entry.embedding.astype("<f2").tobytes() not in data
    other = empty(tmp_path / "b.gallery")
    import_gallery(other, path)
    assert told(other) == told(store)
    assert other.people()[0].state.rejected == (photo(1).entry.digest,), "rejected photos stay rejected"


def test_importing_twice_changes_nothing(store: SQLiteStore, path: Path) -> None:
    version = store.version()
    counts = import_gallery(store, path)
    assert (counts.new_people, counts.new_photos, counts.known_people) == (0, 0, len(everybody()))
    assert store.version() == version and told(store) == told(everybody())


def test_known_people_get_new_photos(tmp_path: Path) -> None:
    path = tmp_path / "a.facespace"
    export_gallery(open_people(tmp_path / "a.gallery", [person("Ada", 1, 2), person("Bob", 3)]), path)
    store = open_people(tmp_path / "b.gallery", [person("Ada", 2, 4, metadata={"x": 1}), person("Eve", 5)])
    assert import_gallery(store, path, skip_known=True) == Counts(1, 1, 1, 0)
    assert import_gallery(store, path) == Counts(0, 2, 1, 2)
    assert {one.state.name: one.n_photos for one in store.people()} == {"Ada": 3, "Bob": 1, "Eve": 1}
    assert store.people()[0].state.metadata == {"x": 1}
    edits.undo(store)
    assert {one.state.name: one.n_photos for one in store.people()} == {"Ada": 2, "Bob": 1, "Eve": 1}


def test_settings_are_those_of_the_people_who_are_there(store: SQLiteStore, tmp_path: Path) -> None:
    store.set("calibration", CALIBRATION)
    path = tmp_path / "people.facespace"
    export_gallery(store, path)
    other = open_people(tmp_path / "other.gallery", [person("Somebody", 99)])
    import_gallery(other, path)
    assert other.setting("calibration") is None, "the thresholds were chosen for other people"


def test_another_model_is_refused_naming_both(path: Path, tmp_path: Path) -> None:
    other = empty(tmp_path / "other.gallery")
    other.set("embedder", MODEL | {"model": "sface", "fingerprint": "0" * 64})
    before = (other.version(), (tmp_path / "other.gallery").read_bytes())
    with pytest.raises(
        GalleryError, match=r"people.facespace: its vectors were made by the model 'stub' .* 'sface', which .*/other"
    ):
        import_gallery(other, path)
    other.set("embedder", {"model": "casia (not whole yet)", "unfinished": MODEL})
    with pytest.raises(GalleryError, match="'stub' and cannot be compared with those of 'casia"):
        import_gallery(other, path)
    assert other.version() == before[0] and other.count() == 0


def test_a_gallery_of_the_other_name_for_the_same_weights(path: Path, tmp_path: Path) -> None:
    other = empty(tmp_path / "other.gallery")
    other.set("embedder", MODEL | {"model": "/home/ann/stub.onnx"})
    import_gallery(other, path)
    assert other.count() == len(everybody())


def test_what_cannot_be_exported(tmp_path: Path, store: SQLiteStore) -> None:
    target = tmp_path / "a.facespace"
    no_people = empty(tmp_path / "empty.gallery")
    with pytest.raises(GalleryError, match="no people are enrolled in the collection 'default'"):
        export_gallery(no_people, target)
    for wrong, said in (
        ({"model": "x", "unfinished": {}}, "incomplete; run the command that was filling it again"),
        ({"model": "x"}, "damaged .the description of its model is not complete"),
        (MODEL | {"dimension": 9}, "damaged .a vector of .* has the wrong length"),
    ):
        store.set("embedder", wrong)
        with pytest.raises(GalleryError, match=said):
            export_gallery(store, target)
    store.set("embedder", MODEL)
    store.set("calibration", {"offset": -5})
    with pytest.raises(GalleryError, match=r"damaged .its calibration"):
        export_gallery(store, target)
    assert not target.exists()


def test_only_an_older_export_is_replaced(store: SQLiteStore, path: Path, tmp_path: Path) -> None:
    edits.remove(store, "Ada")
    assert export_gallery(store, path).n_people == len(everybody()) - 1
    for other in (store.path, tmp_path / "photo.jpg"):
        if not other.exists():
            other.write_bytes(b"\xff\xd8 a photo")
        before = other.read_bytes()
        with pytest.raises(GalleryError, match=f"{other}: already exists and is not an export"):
            export_gallery(store, other)
        assert other.read_bytes() == before


def test_a_damaged_file_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last vector is damaged; none of the people before it are imported either."""
    monkeypatch.setattr(exchange, "BATCH", 10)
    path = tmp_path / "a.facespace"
    export_gallery(open_people(tmp_path / "a.gallery", [person(f"{k:03d}", k) for k in range(400)]), path)
    data = bytearray(path.read_bytes())
    data[data.rindex(photo(399).entry.embedding.astype("<f2").tobytes())] ^= 1
    path.write_bytes(data)
    other = empty(tmp_path / "other.gallery")
    with pytest.raises(GalleryError, match="damaged"):
        import_gallery(other, path)
    assert (other.count(), other.setting("embedder"), other.version()) == (0, None, 0)


def test_progress_is_reported(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BATCH", 10)
    seen: list[tuple[int, int]] = []
    other = empty(tmp_path / "other.gallery")
    import_gallery(other, path, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[-1] == (len(everybody()),) * 2 and len(seen) > 2
    assert other.log()[0].text == f"people.facespace, {seen[-1][0]} of {seen[-1][0]} people"
    many = [person(f"{k:03d}", 500 + k) for k in range(250)]
    large = open_people(tmp_path / "large.gallery", many)
    seen.clear()
    export_gallery(large, tmp_path / "large.facespace", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(100, 250), (200, 250)]


_IMPORT = """
import itertools, os, signal, sys
from pathlib import Path
from typing import Any
from facespace.identification import exchange
from facespace.identification.stores import sql_bulk
from facespace.identification.stores.sqlite import SQLiteStore
insert, count = sql_bulk._new_photo, itertools.count(1)
def insert_or_die(*arguments):
    if next(count) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return insert(*arguments)
sql_bulk._new_photo, exchange.BATCH = insert_or_die, 20
exchange.import_gallery(SQLiteStore(sys.argv[1], create=True), Path(sys.argv[2]))
"""


def test_killed_during_an_import_and_started_again(tmp_path: Path) -> None:
    people = [person(f"{k:04d}", 2 * k, 2 * k + 1, crop=k % 5 == 0, metadata={"k": k}) for k in range(100)]
    path, target = tmp_path / "a.facespace", tmp_path / "b.gallery"
    export_gallery(open_people(tmp_path / "a.gallery", people), path)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    n_before = 0
    for n in (1, 55, 20, 70):
        done = subprocess.run([sys.executable, "-c", _IMPORT, target, path, str(n)], env=environment, timeout=60)
        assert done.returncode == -signal.SIGKILL
        store = SQLiteStore(target)
        held = told(store)
        n_before += (n - 1) // 20 * 10
        assert held == told(people)[:n_before], "complete people of the finished batches"
        store.close()
    store = SQLiteStore(target)
    import_gallery(store, path)
    assert told(store) == told(people) and store.setting("embedder") == MODEL


@pytest.mark.shared
def test_real_photos_are_recognised_after_the_round_trip(shared: Path, tmp_path: Path) -> None:
    """People of the album, with names of all kinds, are recognised with the same similarity before and after."""
    from facespace.pipeline.analyzer import FaceAnalyzer

    analyzer = FaceAnalyzer()
    folders = sorted((shared / "data" / "album" / "known").iterdir())[:4]
    names = ["Zoë van der Ĳssel", "王小明", "O'Brien; DROP TABLE person", '"Bob" 😀']
    probes = []
    with Gallery(tmp_path / "a.gallery", analyzer.embedder, create=True) as gallery:
        for name, folder in zip(names, folders, strict=True):
            photos = sorted(folder.iterdir())
            for one in photos[:3]:
                (face, *_) = analyzer(str(one))
                gallery.add(name, face.embedding, face.crop, source=str(one), quality=face.quality, keep_crop=True)
            probes += [face.embedding for one in photos[3:5] for face in analyzer(str(one))]
        expected = gallery.identify(probes, threshold=0.3)
        export_gallery(gallery.store, tmp_path / "a.facespace")
        before = told(gallery.store)
    store = empty(tmp_path / "b.gallery")
    import_gallery(store, tmp_path / "a.facespace")
    assert told(store) == before
    with Gallery(store, analyzer.embedder) as gallery:
        assert {match.name for match in expected} >= set(names)
        assert gallery.identify(probes, threshold=0.3) == expected
        assert [one.name for one in gallery.people()] == sorted(names)


def test_a_header_that_contradicts_the_vectors_is_refused(path: Path, tmp_path: Path) -> None:
    """The header names a model with another dimension than the vectors."""
    from zipfile import ZipFile

    with ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    header = json.loads(contents["gallery.json"])
    header["model"]["dimension"] = 4
    with ZipFile(path, "w") as archive:
        for name, data in (contents | {"gallery.json": json.dumps(header).encode()}).items():
            archive.writestr(name, data)
    other = empty(tmp_path / "other.gallery")
    with pytest.raises(GalleryError, match="must have float16 vectors of shape"):
        import_gallery(other, path)
    assert other.setting("embedder") is None


def test_the_model_of_a_collection(store: SQLiteStore) -> None:
    assert stored_model(store) == MODEL
    assert len(list(exchange.checked_people(store, MODEL))) == len(list(people_of(store))) == len(everybody())
