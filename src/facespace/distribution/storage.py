"""Folders that are local or in a store that fsspec supports (`s3://`, `gs://`, …): they list, read and write objects.

A place is a local path or a URL. Credentials of URLs are kept out of messages and results, but a plan contains the URLs
unchanged.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facespace.errors import DatasetError, ImageError, RuntimeUnavailable
from facespace.io.file_kinds import IMAGE_ENDINGS, START, VIDEO_ENDINGS, Kind, photo_format, video_start
from facespace.io.files import TEMPORARY, atomic_path, named_in_errors, sync_file, sync_folder
from facespace.io.image import MAX_RECORD
from facespace.io.photo_files import PhotoFiles
from facespace.io.text import first_line, one_line
from facespace.pipeline.photos import find_images

MAX_PART = 2**32  # bytes of one result; a part with the largest group photos has a hundredth of this

_PASSWORD = re.compile(r"://[^/@]*:[^/]*@")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_CREDENTIALS = re.compile(r"(?<=://)[^/]*@")
_CREDENTIALS_IN_TEXT = re.compile(r"(?<=://)[^/\s'\"]*@")
_QUERY = re.compile(r"(https?://[^\s?'\"]*)\?[^\s'\"]*")
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def is_url(place: str) -> bool:
    """Return whether a place is a URL, not a local path.

    >>> is_url("s3://bucket/photos"), is_url("photos"), is_url("C:/photos")
    (True, False, False)
    """
    return _URL.match(place) is not None


def shown(place: str) -> str:
    """Return a path or URL as messages and results show it: without user and password, for http(s) also without query.

    >>> shown("ftp://ann:secret@host/a.jpg"), shown("https://host/a.jpg?signature=1"), shown("a@b.jpg")
    ('ftp://host/a.jpg', 'https://host/a.jpg', 'a@b.jpg')
    """
    if not is_url(place):
        return place
    place = _CREDENTIALS.sub("", place, count=1)
    return place.partition("?")[0] if place.lower().startswith("http") else place


def check_no_password(place: str) -> str:
    """Return a path or URL unchanged. Raises `ValueError` for a URL with a password, which other users could see.

    >>> check_no_password("s3://bucket/photos")
    's3://bucket/photos'
    """
    if is_url(place) and _PASSWORD.search(place):
        protocol = place.partition("://")[0]
        raise ValueError(
            f"{one_line(shown(place))}: the URL must not have a password; put it into the variable "
            f"FSSPEC_{protocol.upper()}_PASSWORD, or where the store's own tools look for it"
        )
    return place


def find_photos(places: Iterable[str]) -> Iterator[str]:
    """Yield the photos in local paths, as `pipeline.photos.find_images` does, and those in URLs by the same rules.

    The URL of a file is yielded unchanged. For the URL of a folder, all photos below it are yielded: the files of a
    folder, sorted, before those of its subfolders. Hidden names are skipped. Raises `DatasetError` if a folder has no
    photos or its store cannot be listed.
    """
    for place in places:
        yield from _find_in_store(place) if is_url(place) else find_images([place])


def find_class_photos(url: str) -> Iterator[str]:
    """Yield `NAME/file` of every photo in a store's class folders, sorted, by the rules of `alignment.aligner.find_photos`.

    Raises `DatasetError` if there are no photos or the store cannot be listed.
    """
    name, photos, found = shown(url), PhotoFiles(), False
    with _store_errors(name, url):
        store, root = _open_store(url)
        folders = {one["name"].rstrip("/") for one in store.ls(root, detail=True) if one["type"] == "directory"}
    folders.discard(str(root).rstrip("/"))  # an object `folder//name` is in a folder without a name
    for folder in sorted(folders):
        person = folder.rpartition("/")[2]
        if person.startswith("."):
            continue
        with _store_errors(f"{name}/{person}", url):
            files = sorted(one["name"] for one in store.ls(folder, detail=True) if one["type"] == "file")
        for file in files:
            photo = f"{person}/{file.rpartition('/')[2]}"
            if photo.endswith("/") or file.rpartition("/")[2].startswith("."):
                continue
            with _store_errors(f"{name}/{photo}", url):
                kind = _kind(store, file)
            if photos.takes(photo, photo, kind=kind):
                found = True
                yield photo
    photos.warn(name)
    if not found:
        raise DatasetError(
            f"{one_line(name)}: no photos in class folders; they must be one folder a person, like NAME/photo.jpg"
        )


@dataclass(frozen=True)
class StoredPhoto:
    """Represents a photo in a store as a file object for `facespace.read`; its bytes are fetched when read."""

    url: str

    @property
    def name(self) -> str:
        """The URL without credentials."""
        return shown(self.url)

    def seekable(self) -> bool:
        """Return False, because the photo is read once from its beginning."""
        return False

    def read(self) -> bytes:
        """Return all bytes. Raises `ImageError` if they cannot be read or are more than `io.image.MAX_RECORD`."""
        try:
            store, path = _open_store(self.url)
            size = int(store.info(path)["size"])
            if size <= MAX_RECORD:
                return bytes(store.cat_file(path))
        except RuntimeUnavailable:
            raise
        except FileNotFoundError:
            raise ImageError(self.name, "no such file") from None
        except Exception as error:  # the libraries of stores raise their own errors
            raise ImageError(self.name, f"cannot be read ({_text(error, self.url)})") from None
        raise ImageError(self.name, f"{size:,} bytes; no image has more than {MAX_RECORD:,}")


@dataclass(frozen=True)
class Folder:
    """Represents a folder of results at a `place`. Names of objects have `/` between their parts.

    Objects are written atomically, except in stores that write in place, such as `sftp://`. A method that fails raises
    `OSError` for a local folder and `DatasetError` for a store, both with the object's name.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     folder = Folder(place)
    ...     folder.create("a/part.txt", b"first"), folder.create("a/part.txt", b"second"), folder.read("a/part.txt")
    (True, False, b'first')
    """

    place: str = field(repr=False)

    @property
    def name(self) -> str:
        """The folder's name in messages."""
        return one_line(shown(self.place))

    def inside(self, name: str) -> Folder:
        """Return a folder in this one."""
        return Folder(f"{self.place.rstrip('/')}/{name}")

    def is_empty(self, *, apart_from: str = "") -> bool:
        """Return whether the folder does not exist or contains nothing, or nothing but `apart_from`."""
        if not is_url(self.place):
            return not os.path.isdir(self.place) or set(os.listdir(self.place)) <= {apart_from}
        with self._errors(""):
            store, path = _open_store(self.place)
            if not store.exists(path):
                return True
            found = (one["name"].rstrip("/").rpartition("/")[2] for one in store.ls(path, detail=True))
            return set(found) <= {apart_from}

    def create(self, name: str, data: bytes) -> bool:
        """Write an object unless it exists, and return whether it was written; only one of several writers gets True."""
        if not is_url(self.place):
            return _create_file(self._path(name), data)
        with self._errors(name):
            store, path = _open_store(self._url(name))
            try:
                store.pipe_file(path, data, mode="create")
            except FileExistsError:
                return False
            return True

    def write(self, name: str, data: bytes) -> None:
        """Write an object, replacing an existing one."""
        if not is_url(self.place):
            target = self._path(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(target) as path:
                path.write_bytes(data)
            return
        with self._errors(name):
            store, path = _open_store(self._url(name))
            store.pipe_file(path, data)

    def read(self, name: str) -> bytes:
        """Read all bytes of an object. Raises `DatasetError` above `MAX_PART` bytes."""
        if not is_url(self.place):
            size = self._path(name).stat().st_size
            self._check(name, size)
            return self._path(name).read_bytes()
        with self._errors(name):
            store, path = _open_store(self._url(name))
            self._check(name, int(store.info(path)["size"]))
            return bytes(store.cat_file(path))

    def exists(self, name: str) -> bool:
        """Return whether an object exists."""
        if not is_url(self.place):
            return self._path(name).is_file()
        with self._errors(name):
            store, path = _open_store(self._url(name))
            return bool(store.isfile(path))

    def names(self) -> list[str]:
        """Return the names of the objects directly in this folder, sorted; empty if there is no such folder."""
        if not is_url(self.place):
            with contextlib.suppress(FileNotFoundError), os.scandir(self.place) as entries:
                return sorted(entry.name for entry in entries if entry.is_file())
            return []
        with self._errors(""):
            store, path = _open_store(self.place)
            try:
                found = store.ls(path, detail=True)
            except FileNotFoundError:
                return []
            return sorted(one["name"].rpartition("/")[2] for one in found if one["type"] == "file")

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects if they exist, and then local folders that are empty."""
        if is_url(self.place):
            for name in names:
                with self._errors(name), contextlib.suppress(FileNotFoundError):
                    store, path = _open_store(self._url(name))
                    store.rm_file(path)
            return
        folders = {Path(self.place)}
        for name in names:
            self._path(name).unlink(missing_ok=True)
            folders.add(self._path(name).parent)
        for folder in sorted(folders, key=lambda path: -len(path.parts)):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def remove_unfinished(self) -> None:
        """Remove files that killed writers left directly in a local folder; a store has no unfinished objects."""
        if not is_url(self.place):
            for name in self.names():
                if name.startswith(TEMPORARY):
                    self._path(name).unlink(missing_ok=True)

    def _check(self, name: str, size: int) -> None:
        if size > MAX_PART:
            raise DatasetError(f"{self.name}/{name}: {size:,} bytes; no result has more than {MAX_PART:,}")

    def _path(self, name: str) -> Path:
        inside = Path(name)
        if inside.anchor or ".." in inside.parts:  # a name from a store may be an absolute path on this system
            raise DatasetError(f"{self.name}: {one_line(name)} leads out of the folder")
        return Path(self.place, inside)

    def _url(self, name: str) -> str:
        return f"{self.place.rstrip('/')}/{name}"

    @contextlib.contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        with _store_errors(f"{self.name.rstrip('/')}/{name}", self.place):
            yield


def _find_in_store(url: str) -> Iterator[str]:
    name, photos, found = shown(url), PhotoFiles(), False
    with _store_errors(name, url):
        store, root = _open_store(url)
        if store.isfile(root):
            yield url
            return
        if not store.exists(root):
            raise FileNotFoundError(name)
    walking = store.walk(root, detail=True, on_error="raise")
    begin = url.rstrip("/")
    while True:
        with _store_errors(name, url):
            step = next(walking, None)
        if step is None:
            break
        folder, folders, files = step
        for hidden in [one for one in folders if one.startswith(".")]:
            del folders[hidden]
        for one in sorted(folders):  # `walk` visits them in the order of this dictionary
            folders[one] = folders.pop(one)
        inside = str(folder)[len(str(root).rstrip("/")) :].strip("/")
        for file in sorted(files):
            if not file or file.startswith("."):
                continue
            with _store_errors(name, url):
                kind = _kind(store, str(files[file]["name"]))
            photo = "/".join(part for part in (begin, inside, file) if part)
            if photos.takes(photo, shown(photo), kind=kind):
                found = True
                yield photo
    photos.warn(name)
    if not found:
        raise DatasetError(f"{one_line(name)}: no images in this folder")


def _kind(store: Any, path: str) -> Kind:
    """Return whether a stored file is a photo, a video or neither, by the rules of `io.file_kinds.kind_in_folder`."""
    ending = os.path.splitext(path)[1].lower()
    if ending in IMAGE_ENDINGS:
        return Kind.PHOTO
    if ending in VIDEO_ENDINGS:
        return Kind.VIDEO
    start = bytes(store.cat_file(path, start=0, end=START))
    if video_start(start):
        return Kind.VIDEO
    return Kind.PHOTO if photo_format(start) else Kind.OTHER


def _open_store(url: str) -> tuple[Any, Any]:
    """Return the file system of a URL and the path in it. Raises `RuntimeUnavailable` if a package for it is missing."""
    protocol = url.partition("://")[0]
    try:
        fsspec = importlib.import_module("fsspec.core")
    except ImportError:
        raise RuntimeUnavailable(f"{protocol}:// needs fsspec; install it with: pip install 'facespace[ray]'") from None
    try:
        # fsspec takes the text after `::` for a second URL, but an object's name may contain `::`. Listings are not cached,
        # because others write to the store meanwhile.
        first, colons, rest = url.partition("::")
        store, path = fsspec.url_to_fs(first, use_listings_cache=False)
        return store, f"{path}{'/' if first.endswith('/') else ''}{colons}{rest}" if colons else path
    except ImportError as error:
        raise RuntimeUnavailable(f"{protocol}:// needs another package ({first_line(error)})") from None


@contextlib.contextmanager
def _store_errors(name: str, url: str) -> Iterator[None]:
    """Turn errors of a store's library into a one-line `DatasetError` with the object's name and without secrets."""
    try:
        yield
    except (DatasetError, ImageError, RuntimeUnavailable, FileExistsError, GeneratorExit):
        raise
    except FileNotFoundError:
        raise DatasetError(f"{one_line(name)}: no such file or folder") from None
    except Exception as error:
        raise DatasetError(f"{one_line(name)}: {_text(error, url)}") from None


def _text(error: Exception, url: str) -> str:
    """Return an error's first line without signatures in URLs, and without credentials inside or outside URLs."""
    text = _QUERY.sub(r"\1", _CREDENTIALS_IN_TEXT.sub("", str(error)))
    if secret := _CREDENTIALS.search(url):
        user_and_password = secret[0].removesuffix("@")
        for part in (user_and_password, *user_and_password.split(":", 1)[::-1]):
            text = text.replace(part, "***") if part else text
    return one_line(first_line(Exception(text or type(error).__name__)))


def _create_file(target: Path, data: bytes) -> bool:
    if target.exists():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.parent / f"{TEMPORARY}{secrets.token_hex(8)}{target.suffix}"
    try:
        with named_in_errors(target):
            with unfinished.open("xb") as file:
                file.write(data)
            sync_file(unfinished)
            try:
                os.link(unfinished, target)  # fails if the target exists
            except (FileExistsError, FileNotFoundError):
                if not target.exists():  # another process removed the unfinished file, but the target does not exist
                    raise
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                unfinished.replace(target)  # other writers write the same content
            sync_folder(target.parent)
    finally:
        unfinished.unlink(missing_ok=True)
    return True
