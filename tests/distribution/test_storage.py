"""Places of photos and results: local folders, fsspec's memory store, and S3 by moto."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

import facespace
from facespace.distribution import storage
from facespace.distribution.storage import Folder, StoredPhoto, find_class_photos, find_photos, is_url, shown
from facespace.errors import DatasetError, ImageError, RuntimeUnavailable
from facespace.io.photo_files import LeftOutWarning
from support.stores import memory_store as memory_store, s3_server as s3_server, s3_store as s3_store


@pytest.fixture(params=["local", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path)
    return str(request.getfixturevalue(f"{request.param}_store"))


def put(place: str, name: str, data: bytes) -> None:
    Folder(place).write(name, data)


def test_an_object_is_written_once(place: str) -> None:
    folder = Folder(f"{place}/results")
    assert folder.names() == []
    assert not folder.exists("a/part.bin")
    assert folder.create("a/part.bin", b"first")
    assert not folder.create("a/part.bin", b"second")
    assert folder.read("a/part.bin") == b"first"
    assert folder.exists("a/part.bin")
    folder.write("a/part.bin", b"third")
    assert folder.read("a/part.bin") == b"third"


def test_names_are_those_of_the_folder_itself(place: str) -> None:
    folder = Folder(f"{place}/results/")
    for name in ("b.bin", "a.bin", ".plan/a.json"):
        folder.create(name, b"x")
    assert folder.names() == ["a.bin", "b.bin"]
    folder.remove(["a.bin", ".plan/a.json", "not there"])
    assert folder.names() == ["b.bin"]


def test_photos_are_found_by_the_rules_of_a_local_folder(place: str, tmp_path: Path, hopper_file: Path) -> None:
    jpeg = hopper_file.read_bytes()
    names = [
        "b.jpg",
        "a.JPG",
        "without ending",
        "notes.txt",
        "film.mp4",
        ".hidden.jpg",
        "z/1.png",
        "c/2.jpg",
        ".d/3.jpg",
    ]
    for name in names:
        put(f"{place}/photos", name, b"no photo" if name == "notes.txt" else jpeg)
    with pytest.warns(LeftOutWarning, match=r"left out 1 video \(.*film.mp4; .*\) and 1 file that is not a photo"):
        found = list(find_photos([f"{place}/photos"]))
    expected = ["a.JPG", "b.jpg", "without ending", "c/2.jpg", "z/1.png"]
    assert found == [f"{place}/photos/{name}" for name in expected]
    assert list(find_photos(found[:1])) == found[:1]


def test_class_photos_are_those_in_folders_with_a_name(s3_store: str) -> None:
    for name in ("Ann/1.jpg", "Ann/.hidden.jpg", ".Bea/1.jpg", "not in a folder.jpg", "/no name.jpg"):
        put(f"{s3_store}/people", name, b"x")
    assert list(find_class_photos(f"{s3_store}/people")) == ["Ann/1.jpg"]


def test_a_stored_photo_is_read_like_a_file(memory_store: str, hopper_file: Path) -> None:
    put(memory_store, "a.jpg", hopper_file.read_bytes())
    photo = StoredPhoto(f"{memory_store}/a.jpg")
    assert (facespace.read(photo) == facespace.read(hopper_file)).all()
    assert pickle.loads(pickle.dumps(photo)) == photo


def test_a_stored_photo_that_is_missing_or_too_large_is_one_error(
    memory_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(memory_store, "a.jpg", b"x" * 20)
    with pytest.raises(ImageError, match=r"b\.jpg: no such file"):
        facespace.read(StoredPhoto(f"{memory_store}/b.jpg"))
    monkeypatch.setattr(storage, "MAX_RECORD", 19)
    with pytest.raises(ImageError, match=r"a\.jpg: 20 bytes; no image has more than 19"):
        facespace.read(StoredPhoto(f"{memory_store}/a.jpg"))


def test_colons_in_a_name_are_not_a_second_url(place: str) -> None:
    folder = Folder(f"{place}/photos")
    for name, data in (("a", b"another"), ("a::b.jpg", b"first"), ("a::c.jpg", b"second")):
        folder.write(name, data)
    assert folder.names() == ["a", "a::b.jpg", "a::c.jpg"]
    assert (folder.read("a::b.jpg"), folder.read("a::c.jpg"), folder.read("a")) == (b"first", b"second", b"another")


@pytest.mark.parametrize("name", ["../evil.png", "Ann/../../evil.png", "/evil.png"])
def test_a_name_that_leads_out_of_a_local_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = Folder(str(tmp_path / "out"))
    with pytest.raises(DatasetError, match=r"evil\.png leads out of the folder$"):
        folder.create(name, b"x")
    assert list(tmp_path.rglob("*")) == []


def test_a_result_above_the_limit_is_not_read(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put(place, "part.bin", b"x" * 20)
    monkeypatch.setattr(storage, "MAX_PART", 19)
    with pytest.raises(DatasetError, match=r"part\.bin: 20 bytes; no result has more than 19"):
        Folder(place).read("part.bin")


def test_the_error_for_a_missing_object_is_one_line(memory_store: str) -> None:
    with pytest.raises(DatasetError, match=r"memory://.*: no such file or folder$"):
        list(find_photos([f"{memory_store}/nothing"]))
    with pytest.raises(DatasetError, match=r"part\.bin: no such file or folder$"):
        Folder(memory_store).read("part.bin")


def test_credentials_are_never_shown(memory_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "memory://zelda:secret@host/photos"
    assert shown(url) == "memory://host/photos"
    assert "secret" not in repr(Folder(url)) + Folder(url).name

    def refuse(*_: object) -> None:
        raise PermissionError("zelda:secret@host")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.info", refuse)
    with pytest.raises(ImageError) as failed:
        facespace.read(StoredPhoto(f"{url}/a.jpg"))
    with pytest.raises(DatasetError) as refused:
        Folder(url).read("part.bin")
    assert "secret" not in f"{failed.value}{refused.value}"
    assert "zelda" not in f"{failed.value}{refused.value}"


def test_a_signature_is_not_in_messages() -> None:
    url = "https://host/a.jpg?X-Signature=geheim"
    rewritten = f"{'x' * 150} 403, message='Forbidden', url='https://ann:secret@host/a.jpg?X-Signature=geh%65im&more=1'"
    for text in (url, rewritten):
        said = storage._text(ValueError(text), url)
        assert "https://host/a.jpg" in said
        assert "geh" not in said
        assert "secret" not in said


def test_a_password_in_a_url_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^sftp://host/photos: the URL must not have a password; .*FSSPEC_SFTP_PASSWORD"
    ) as refused:
        storage.check_no_password("sftp://zelda:secret@host/photos")
    assert "secret" not in str(refused.value)
    assert storage.check_no_password("sftp://ann@host/photos") == "sftp://ann@host/photos"


def test_a_missing_package_is_named(memory_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def url_to_fs(url: str, **_: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", url_to_fs)
    with pytest.raises(RuntimeUnavailable, match=r"^s3:// needs another package \(Install s3fs to access S3\)$"):
        Folder("s3://bucket/results").read("part.bin")


def test_no_unfinished_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "sync_file", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*part\.bin'"):
        Folder(str(tmp_path)).create("part.bin", b"x")
    assert os.listdir(tmp_path) == []


def test_a_writer_whose_file_was_tidied_up_leaves_that_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(str(tmp_path))

    def another_finishes(path: Path) -> None:
        monkeypatch.undo()
        folder.write("part.bin", b"another")
        folder.remove_unfinished()

    monkeypatch.setattr(storage, "sync_file", another_finishes)
    assert not folder.create("part.bin", b"x")
    assert folder.read("part.bin") == b"another"
    assert folder.names() == ["part.bin"]


def test_a_disk_without_links_gets_the_file_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    assert Folder(str(tmp_path)).create("part.bin", b"x")
    assert os.listdir(tmp_path) == ["part.bin"]


def test_a_path_with_an_at_sign_is_not_a_url() -> None:
    assert not is_url("ann@home/photos")
    assert shown("ann@home/photos") == "ann@home/photos"
