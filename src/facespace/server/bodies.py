"""Reads photos and fields from a request's body: raw bytes, or multipart/form-data.

The whole body is in memory, because its size is limited (`Settings.max_body`). None of it is written to a disk.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from facespace.io.text import plain_text
from facespace.server.problems import Problem
from facespace.server.service import service_of

MAX_FIELDS = 1000  # the parts of a form that are not photos
MAX_FIELD = 2**20  # bytes of one field
MAX_PART_HEADERS = 2**13  # bytes of the headers of one part
_MAX_FILENAME = 255
_AT_ONCE = 2**20  # bytes; smaller forms are parsed without a thread
_CURL_DEFAULT = b"application/x-www-form-urlencoded"  # sent by curl --data-binary
_RAW = ("image/", "application/octet-stream", "binary/octet-stream")


@dataclass(slots=True)
class Upload:
    """One file of a request. `filename` is the client's name for it, shown to people and never opened as a path."""

    data: bytes
    filename: str = ""
    content_type: str = ""


@dataclass(slots=True)
class Form:
    """The parts of a form: the files and the texts of each field, in the order they came."""

    files: dict[str, list[Upload]] = field(default_factory=dict)
    fields: dict[str, list[str]] = field(default_factory=dict)

    def photos(self, name: str = "photo") -> list[Upload]:
        """Return the files of one field."""
        return self.files.get(name, [])

    def text(self, name: str, default: str | None = None) -> str | None:
        """Return the value of a field, or `default`. Raise `Problem` 422 if the field is given more than once."""
        values = self.fields.get(name, [])
        if len(values) > 1:
            raise Problem(422, "invalid", f"the field {name!r} must be given once, got {len(values)} times")
        return values[0] if values else default


async def read_photos(request: Request, *, field: str = "photo", most: int | None = None) -> list[Upload]:
    """Return the photos of a request, at least one: the raw body, or the files in the form's field `field`.

    Raise `Problem` 415 for any other type of body, 413 for more than `most` photos (by default `Settings.max_photos`), 422
    `photo_needed` if there is no photo, 400 for a broken form.
    """
    form = await read_form(request, raw_as=field)
    photos = form.photos(field)
    most = service_of(request).settings.max_photos if most is None else most
    if not photos:
        raise Problem(
            422, "photo_needed", f"a photo is needed: send it as the body, or as the file {field!r} of a form"
        )
    if len(photos) > most:
        raise Problem(413, "too_large", f"a request may have at most {most} photos, got {len(photos)}")
    return photos


async def read_form(request: Request, *, raw_as: str | None = None) -> Form:
    """Return the form of a request. A body that is a raw image is accepted as the only file of the field `raw_as`."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    kind = kind.lower()
    if kind == b"multipart/form-data":
        boundary = options.get(b"boundary", b"")
        if not 0 < len(boundary) <= 200:
            raise Problem(400, "malformed", "the Content-Type of a form must have a boundary of 1 to 200 characters")
        service, body = service_of(request), await request.body()
        if len(body) <= _AT_ONCE:
            return parse_form(body, boundary, max_files=service.settings.max_photos)
        return await service.engine.run(parse_form, body, boundary, max_files=service.settings.max_photos)
    if raw_as is not None and kind.decode("latin-1").startswith(_RAW):
        data = await request.body()
        return Form({raw_as: [Upload(data, "", kind.decode("latin-1"))]} if data else {})
    expected = "multipart/form-data" + ("" if raw_as is None else ", image/* or application/octet-stream")
    got = plain_text(kind.decode("latin-1"))[:100]
    hint = "; with curl, add -H 'Content-Type: image/jpeg'" if raw_as and kind == _CURL_DEFAULT else ""
    raise Problem(415, "unsupported_media_type", f"the body must be {expected}, got {got or 'no Content-Type'}{hint}")


def parse_form(body: bytes, boundary: bytes, *, max_files: int) -> Form:
    """Return the parts of a whole multipart body. Raise `Problem` 400 if it is malformed, 413 if a limit is exceeded.

    >>> body = b'--x\\r\\nContent-Disposition: form-data; name="a"\\r\\n\\r\\n1\\r\\n--x--\\r\\n'
    >>> parse_form(body, b"x", max_files=1).fields
    {'a': ['1']}
    """
    parts = _Parts(max_files)
    try:
        parser = MultipartParser(boundary, parts.callbacks())  # type: ignore[arg-type]
        parser.write(body)
        parser.finalize()
    except (FormParserError, UnicodeDecodeError) as error:
        raise Problem(400, "malformed", f"the form cannot be read ({plain_text(str(error))[:100]})") from None
    if not parts.ended:
        raise Problem(400, "malformed", "the form ends before its last boundary")
    return parts.form


class _Parts:
    """Collects the parts while the parser reads the body."""

    def __init__(self, max_files: int) -> None:
        self.form = Form()
        self.ended = False
        self._max_files = max_files
        self._n_files = self._n_fields = 0
        self._begin()

    def callbacks(self) -> dict[str, Any]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._all,
        }

    def _begin(self) -> None:
        self._name, self._value, self._n_header_bytes = b"", b"", 0
        self._headers: dict[bytes, bytes] = {}
        self._chunks: list[bytes] = []
        self._size = 0
        self._is_file = False

    def _count(self, n: int) -> None:
        self._n_header_bytes += n
        if self._n_header_bytes > MAX_PART_HEADERS:
            raise Problem(413, "too_large", f"the headers of a part may have at most {MAX_PART_HEADERS} bytes")

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name, self._value = b"", b""

    def _headers_finished(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if kind.lower() != b"form-data" or b"name" not in options:
            raise Problem(400, "malformed", "each part must have a Content-Disposition: form-data with a name")
        self._field = options[b"name"].decode("utf-8")
        self._filename = options.get(b"filename", b"").decode("utf-8", "replace")
        content_type = self._headers.get(b"content-type", b"").decode("latin-1").lower()
        self._is_file = b"filename" in options or content_type.startswith(_RAW)
        self._n_files += self._is_file
        self._n_fields += not self._is_file
        if self._n_files > self._max_files:
            raise Problem(413, "too_large", f"a request may have at most {self._max_files} files")
        if self._n_fields > MAX_FIELDS:
            raise Problem(413, "too_large", f"a request may have at most {MAX_FIELDS} fields")

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        if not self._is_file and self._size > MAX_FIELD:
            raise Problem(413, "too_large", f"a field may have at most {MAX_FIELD} bytes")
        self._chunks.append(data[start:end])

    def _end(self) -> None:
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks = []
        if self._is_file:
            content_type = self._headers.get(b"content-type", b"").decode("latin-1")
            upload = Upload(data, plain_text(self._filename)[:_MAX_FILENAME], content_type[:100])
            self.form.files.setdefault(self._field, []).append(upload)
        else:
            self.form.fields.setdefault(self._field, []).append(data.decode("utf-8"))

    def _all(self) -> None:
        self.ended = True
