"""One file from the web: fetched on from where it broke off, verified, and there whole or not at all."""

from __future__ import annotations

import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import quote, unquote, urlsplit

from filelock import FileLock

from facespace._version import __version__
from facespace.errors import ModelError
from facespace.io.checksums import _CHUNK, MAX_BYTES, copy_file, sha256_of
from facespace.io.files import atomic_path, named_in_errors
from facespace.io.text import plain_text

MIRROR = "FACESPACE_MIRROR"  # a folder, or an address, under which the files lie by their names
_ATTEMPTS = 5  # each of them has brought at least one byte
_SLOWEST = 256  # bytes a second; a server that sends less has stalled

Progress = Callable[[int, int], None]


class _BrokenOff(Exception):
    """The connection ended early; what came of the file is kept."""


def fetch(
    url: str,
    target: Path,
    *,
    sha256: str,
    size: int | None = None,
    max_bytes: int = MAX_BYTES,
    timeout: float = 30.0,
    progress: Progress | None = None,
) -> str:
    """Bring the file at `url` that has this SHA-256 to `target`, and return its SHA-256.

    What a cut connection or a killed process left in `target.part` is completed by an HTTP range request, and taken
    only if the server still has the same file. A `target` that has the SHA-256 already is left alone; processes with
    the same target wait for each other. `FACESPACE_MIRROR` replaces the web by a folder, or by another address, under
    which the file lies by the same name. `size` and `max_bytes` are in bytes; `timeout`, in seconds, bounds every wait
    for the server. `progress` is called with the bytes that came and their total, where the server tells it.

    Raises `ModelError` for everything that the server, the mirror or the way there may do wrong.
    """
    place = _place(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if target.is_file() and sha256_of(target) == sha256:
            return sha256
        if isinstance(place, Path):
            return _copy(place, target, sha256=sha256, size=size, max_bytes=max_bytes)
        transfer = _Transfer(place, target, sha256, size, max_bytes, timeout, progress)
        return transfer.run()


def discard(target: Path) -> None:
    """Remove a fetched file and what an unfinished fetch left of it; the lock file stays."""
    for path in (target, _part(target), _note(target)):
        path.unlink(missing_ok=True)


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _note(target: Path) -> Path:
    return target.with_name(f"{target.name}.part.json")


def _place(url: str) -> str | Path:
    """Where the file is taken from: the address, or what `FACESPACE_MIRROR` has in its place."""
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
        if "@" in parts.netloc:  # urllib would not send them, and errors would show them
            raise ModelError(f"{MIRROR}: wants an address without a user name and password")
        return f"{mirror.rstrip('/')}/{quote(name)}"
    if scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(urllib.request.url2pathname(parts.path), name)
    if "://" in mirror:
        raise ModelError(f"{MIRROR}={plain_text(mirror)}: wants a folder, or an address with http, https or file:///")
    return Path(os.path.expanduser(mirror), name)


def _copy(source: Path, target: Path, *, sha256: str, size: int | None, max_bytes: int) -> str:
    if not source.is_file():
        raise ModelError(f"{source}: no such file on the mirror that {MIRROR} names; put it there or unset {MIRROR}")
    with atomic_path(target) as path:
        digest = copy_file(source, path, max_bytes=max_bytes)
        _check(str(source), path.stat().st_size, digest, sha256=sha256, size=size)
    return digest


def _check(source: str, n_bytes: int, digest: str, *, sha256: str, size: int | None) -> None:
    if size is not None and n_bytes != size:
        raise ModelError(f"{source}: wanted {size} bytes, got {n_bytes}; this is not the published file")
    if digest != sha256:
        raise ModelError(f"{source}: wanted the SHA-256 {sha256}, got {digest}; this is not the published file")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only, and none from https down to http."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        scheme, before = urlsplit(newurl).scheme.lower(), urlsplit(req.full_url).scheme.lower()
        if scheme not in ("http", "https") or (before == "https" and scheme == "http"):
            raise urllib.error.HTTPError(req.full_url, code, msg, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage
    ) -> Any:
        fp.close()  # urllib would read what comes with a redirect into memory, however much that is
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except ValueError:  # what the server calls an address is none
            raise urllib.error.HTTPError(req.full_url, code, msg, headers, fp) from None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _opener() -> urllib.request.OpenerDirector:
    """For http and https alone, through the proxies of the environment; `build_opener` would add file and ftp."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


@dataclass(slots=True)
class _Transfer:
    """One file on its way from `url` to `target`; the caller holds the lock of `target`."""

    url: str
    target: Path
    sha256: str
    size: int | None
    max_bytes: int
    timeout: float
    progress: Progress | None

    @property
    def shown(self) -> str:
        """The address as errors name it."""
        return plain_text(self.url)

    def run(self) -> str:
        """Fetch in as many pieces as it takes, verify, and put into place."""
        part = _part(self.target)
        resumed = False
        for attempt in range(1, _ATTEMPTS + 1):
            start = self._start()
            resumed = resumed or start > 0
            try:
                self._receive(start)
            except _BrokenOff as error:
                n_bytes = part.stat().st_size if part.is_file() else 0
                if n_bytes > start and attempt < _ATTEMPTS:
                    continue
                kept = f"; {n_bytes} bytes are kept, the next try goes on from there" if n_bytes else ""
                raise ModelError(f"{self.shown}: {error}{kept}") from None
            digest = sha256_of(part)
            try:
                _check(self.shown, part.stat().st_size, digest, sha256=self.sha256, size=self.size)
            except ModelError:
                discard(self.target)
                if not resumed or attempt == _ATTEMPTS:
                    raise
                resumed = False  # the pieces may be of two files; once more in one
                continue
            os.replace(part, self.target)
            _note(self.target).unlink(missing_ok=True)
            return digest
        raise AssertionError  # the last attempt returns or raises

    def _start(self) -> int:
        """How many bytes of the file are here and may be completed."""
        note = self._read_note()
        part = _part(self.target)
        n_bytes = part.stat().st_size if part.is_file() else 0
        return n_bytes if note.get("url") == self.url and n_bytes <= self.max_bytes else 0

    def _read_note(self) -> dict[str, Any]:
        try:
            note = json.loads(_note(self.target).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return note if isinstance(note, dict) else {}

    def _receive(self, start: int) -> None:
        """Append to the part what is missing from `start` on, or all of it where the server starts anew."""
        note = self._read_note()
        if start and note.get("total") == start:
            return  # whole, but a process died before it was put into place
        with self._ask(start, note.get("validator")) as answer:
            if answer.status == 200:
                start = 0
            elif answer.status != 206 or not start:
                raise ModelError(f"{self.shown}: the server answered {answer.status} in place of the file")
            elif _first_byte(answer) != start:
                discard(self.target)
                raise _BrokenOff(f"asked for the bytes from {start} on, the server sent others")
            total = None if answer.length is None else start + answer.length
            if total is not None and self.size is not None and total != self.size:
                raise ModelError(f"{self.shown}: wanted {self.size} bytes, the server has {total}")
            if (total or 0) > self.max_bytes:
                raise ModelError(f"{self.shown}: {total} bytes, more than the {self.max_bytes} a model file may have")
            with named_in_errors(self.target), _part(self.target).open("ab" if start else "wb") as part:
                with atomic_path(_note(self.target)) as path:
                    entry = {"url": self.url, "validator": _validator(answer), "total": total}
                    path.write_text(json.dumps(entry), encoding="utf-8")
                self._read(answer, part, start, total)

    def _ask(self, start: int, validator: Any) -> http.client.HTTPResponse:
        """The server's answer to a request for the file from `start` on."""
        headers = {"User-Agent": f"facespace/{__version__}", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if isinstance(validator, str) and validator.isascii() and validator.isprintable():
                headers["If-Range"] = validator
        try:
            request = urllib.request.Request(self.url, headers=headers)  # noqa: S310 (the opener has http(s) alone)
            answer: http.client.HTTPResponse = _opener().open(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and start:  # the file there is shorter than what is here: it is another one
                discard(self.target)
                return self._ask(0, None)
            if 300 <= error.code < 400:
                reason = "redirected in circles, or to an address that is not http or https"
            else:
                reason = f"the server answered {error.code} {plain_text(str(error.reason))[:100]}"
            raise ModelError(f"{self.shown}: {reason}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ModelError(f"{self.shown}: {self._reason(error)}") from None
        return answer

    def _read(self, answer: http.client.HTTPResponse, part: IO[bytes], start: int, total: int | None) -> None:
        n_bytes, in_window = start, 0
        window_ends = time.monotonic() + self.timeout
        while True:
            try:
                piece = answer.read1(_CHUNK)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise _BrokenOff(self._reason(error)) from None
            if not piece:
                break
            n_bytes += len(piece)
            in_window += len(piece)
            if n_bytes > self.max_bytes:
                part.close()
                discard(self.target)
                raise ModelError(f"{self.shown}: more than the {self.max_bytes} bytes a model file may have")
            part.write(piece)
            if self.progress is not None and total is not None:
                self.progress(n_bytes, total)
            if time.monotonic() > window_ends:
                if in_window < _SLOWEST * self.timeout:
                    raise _BrokenOff(f"the server sent {in_window} bytes in {self.timeout:g} s")
                window_ends, in_window = time.monotonic() + self.timeout, 0
        if total is not None and n_bytes < total:
            raise _BrokenOff(f"the connection ended after {n_bytes} of {total} bytes")

    def _reason(self, error: Exception) -> str:
        """What went wrong on the way, in a few words."""
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, TimeoutError):
            return f"no answer within {self.timeout:g} s"
        text = plain_text(str(cause))[:200] or type(cause).__name__
        return f"an answer that is no HTTP ({text})" if isinstance(cause, http.client.HTTPException) else text


def _first_byte(answer: http.client.HTTPResponse) -> int | None:
    found = re.match(r"bytes (\d{1,19})-", answer.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _validator(answer: http.client.HTTPResponse) -> str | None:
    """What `If-Range` wants to know a file again by; a weak entity tag will not do."""
    tag: str | None = answer.headers.get("ETag")
    if tag and not tag.startswith("W/"):
        return tag
    date: str | None = answer.headers.get("Last-Modified")
    return date
