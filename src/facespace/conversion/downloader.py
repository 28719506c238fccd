"""Download one file from the web or a mirror.

pooch checks the SHA-256 of a file before it moves the file to its target. This module gives pooch the bytes. It follows
redirects only to http and https, and stops when the server sends too much or too slowly.
"""

from __future__ import annotations

import http.client
import logging
import os
import shutil
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urljoin, urlsplit

from filelock import FileLock

from facespace._version import __version__
from facespace.errors import ModelError
from facespace.io.checksums import _CHUNK, MAX_BYTES, copy_file, sha256_of
from facespace.io.files import TEMPORARY, named_in_errors
from facespace.io.text import plain_text

if TYPE_CHECKING:
    import requests

MIRROR = "FACESPACE_MIRROR"  # environment variable: a folder or address that has copies of the files, by file name
_REDIRECTS = 10
_SLOWEST = 256  # bytes a second; a slower server has stalled

Progress = Callable[[int, int], None]


def fetch(
    url: str,
    target: Path,
    *,
    sha256: str,
    size: int | None = None,
    max_bytes: int = MAX_BYTES,
    timeout: float = 30.0,
    progress: Progress | None = None,
) -> None:
    """Download the file at `url` to `target` and check its SHA-256.

    If `target` already has this SHA-256, nothing is downloaded. Processes with the same target wait for each other. If
    the environment variable `FACESPACE_MIRROR` is set to a folder or an address, the file is taken from there; it must
    have the same name as the file at `url`. The file must have `size` bytes, if given, and at most `max_bytes`; this is
    checked before the download if the server announces the length, and again during it. `timeout`, in seconds, limits
    every wait for the server. `progress` is called with the number of bytes received and the total number; it is not
    called if the server does not announce the total, or if the mirror is a folder.

    Raises `ModelError` if the server or the mirror fails, or sends a file with another SHA-256 or size.
    """
    place = _place(url)
    shown = plain_text(str(place))

    def receive(_url: str, file: str, _pooch: object) -> None:
        if isinstance(place, Path):
            _copy(place, Path(file), size=size, max_bytes=max_bytes)
        else:
            _download(place, Path(file), size=size, max_bytes=max_bytes, timeout=timeout, progress=progress)

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if target.is_file() and sha256_of(target) == sha256:
            return
        import pooch

        pooch.get_logger().setLevel(logging.WARNING)  # it would print the address
        unfinished = _unfinished(target)
        shutil.rmtree(unfinished, ignore_errors=True)  # a killed process may have left it
        try:
            with named_in_errors(target):
                pooch.retrieve(shown, sha256, fname=target.name, path=unfinished, downloader=receive)
                os.replace(unfinished / target.name, target)
        except ValueError as error:
            mismatch = str(error).partition(". ")[0]
            raise ModelError(f"{shown}: {mismatch}; this is not the published file") from None
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def discard(target: Path) -> None:
    """Remove a downloaded file and the leftovers of an unfinished download; the lock file stays."""
    target.unlink(missing_ok=True)
    shutil.rmtree(_unfinished(target), ignore_errors=True)


def _unfinished(target: Path) -> Path:
    """Return the folder in which pooch writes the file before it moves it to `target`."""
    return target.absolute().with_name(f"{TEMPORARY}{target.name}")


def _place(url: str) -> str | Path:
    """Return where to take the file from: `url`, or the file's address or path on the mirror if there is one."""
    mirror = os.environ.get(MIRROR)
    if not mirror:
        return url
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    try:
        parts = urlsplit(mirror)
    except ValueError as error:
        raise ModelError(f"{MIRROR}: {error}") from None
    scheme = parts.scheme.lower()
    if scheme in ("http", "https"):
        if "@" in parts.netloc:  # error messages would show them
            raise ModelError(f"{MIRROR} must be an address without a user name and password")
        return f"{mirror.rstrip('/')}/{quote(name)}"
    if scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(urllib.request.url2pathname(parts.path), name)
    if "://" in mirror:
        raise ModelError(
            f"{MIRROR} must be a folder or an address with http, https or file:///, got {plain_text(mirror)}"
        )
    return Path(os.path.expanduser(mirror), name)


def _copy(source: Path, file: Path, *, size: int | None, max_bytes: int) -> None:
    if not source.is_file():
        raise ModelError(f"{source}: no such file on the mirror that {MIRROR} names; put it there or unset {MIRROR}")
    _check_size(str(source), source.stat().st_size, size, max_bytes)
    copy_file(source, file, max_bytes=max_bytes)


def _check_size(shown: str, n_bytes: int, size: int | None, max_bytes: int) -> None:
    if size is not None and n_bytes != size:
        raise ModelError(f"{shown}: the file must have {size} bytes, got {n_bytes}; this is not the published file")
    if n_bytes > max_bytes:
        raise ModelError(f"{shown}: a model file must have at most {max_bytes} bytes, got {n_bytes}")


def _download(
    url: str, file: Path, *, size: int | None, max_bytes: int, timeout: float, progress: Progress | None
) -> None:
    """Write the answer of a web server to `file`; raise `ModelError` if it has a wrong size or arrives too slowly."""
    import requests
    import urllib3

    shown = plain_text(url)
    limit = max_bytes if size is None else min(size, max_bytes)
    try:
        with requests.Session() as session, _open(session, url, timeout) as response:
            if response.status_code != 200:
                reason = plain_text(response.reason or "")[:100]
                raise ModelError(f"{shown}: the server answered {response.status_code} {reason}".rstrip())
            total = response.raw.length_remaining
            if total is not None:
                _check_size(shown, total, size, max_bytes)
            n_bytes, in_window, window_ends = 0, 0, time.monotonic() + timeout
            with file.open("wb") as out:
                # Not `iter_content`, which waits for whole pieces: a slow server could keep it waiting for ever.
                while piece := response.raw.read1(_CHUNK, decode_content=False):
                    n_bytes += len(piece)
                    in_window += len(piece)
                    if n_bytes > limit:
                        _check_size(shown, n_bytes, size, max_bytes)
                    out.write(piece)
                    if progress is not None and total is not None:
                        progress(n_bytes, total)
                    if time.monotonic() > window_ends:
                        if in_window < _SLOWEST * timeout:
                            raise ModelError(f"{shown}: too slow, the server sent {in_window} bytes in {timeout:g} s")
                        in_window, window_ends = 0, time.monotonic() + timeout
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
        raise ModelError(f"{shown}: {_reason(error, timeout)}") from None
    _check_size(shown, n_bytes, size, max_bytes)


def _open(session: requests.Session, url: str, timeout: float) -> requests.Response:
    """Return the answer to a request for `url`. Follows fewer than `_REDIRECTS` redirects, none from https to http."""
    import requests

    session.auth = lambda request: request  # otherwise requests sends the passwords in ~/.netrc
    session.headers.update({"User-Agent": f"facespace/{__version__}", "Accept-Encoding": "identity"})
    place = url
    for _ in range(_REDIRECTS):
        request = session.prepare_request(requests.Request("GET", place))
        settings = session.merge_environment_settings(place, {}, True, None, None)
        # Not `session.get`, which reads the body of a redirect into memory, however long it is.
        response = session.get_adapter(place).send(request, timeout=timeout, **settings)
        if not response.is_redirect:
            return response
        response.close()
        before = urlsplit(place).scheme.lower()
        try:
            place = urljoin(place, response.headers["Location"])
            allowed = ("https",) if before == "https" else ("http", "https")
            if urlsplit(place).scheme.lower() not in allowed:
                break
        except ValueError:  # not an address
            break
    raise ModelError(f"{plain_text(url)}: redirected in circles, or to an address that is not http or https")


def _reason(error: Exception, timeout: float) -> str:
    """Return the first cause of a failed request in a few words."""
    cause: BaseException = error
    while cause.__context__ is not None:  # requests and urllib3 wrap it in long texts
        cause = cause.__context__
    if isinstance(cause, TimeoutError):
        return f"no answer within {timeout:g} s"
    if isinstance(cause, http.client.IncompleteRead):
        return "the connection ended before the file did; try again"
    return plain_text(str(cause))[:200] or type(cause).__name__
