"""Sending requests to one service, repeating them if that is safe, and limiting the size and time of answers.

The key is only sent to the host it was given for: redirects are not followed, certificates are verified, and proxies from
the environment are only used for https, where they cannot see the key.
"""

from __future__ import annotations

import email.utils
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from facespace._version import __version__
from facespace.client.fields import Fields, read_json
from facespace.client.forms import Form
from facespace.client.pictures import Picture
from facespace.errors import ServiceError
from facespace.io.text import one_line

if TYPE_CHECKING:
    import httpx

MAX_ANSWER = 2**26  # bytes of a JSON answer; 100 photos of 100 faces with embeddings take a third of it
MAX_FILE = 2**34  # bytes of an export, which is streamed to a file
_MAX_PROBLEM = 2**16  # bytes of an error answer
_DETAIL = 500  # characters of an error answer's text that a message shows
_LOCAL = ("localhost", "127.0.0.1", "::1")
_CONNECT_SECONDS = 10.0
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 30.0  # seconds before a request is repeated
_FILE_SECONDS = 86_400.0  # longest time for an export, as long as data keeps coming
_BUSY = (429, 503)  # the service has not started on the request
_PROXY_FAILED = (502, 504)  # the service may have started on the request


class PlainTextWarning(UserWarning):
    """A key is sent unencrypted."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request: a method, a path below the service's URL, and what is sent with it.

    `repeatable` means that the request can be sent twice without harm, because it changes nothing, or because the service
    recognises it by its `Idempotency-Key`.
    """

    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    form: Form | None = None
    picture: Picture | None = None
    repeatable: bool = False


class Transport:
    """A connection to the service at `url`. Threads may share it.

    `timeout` is the number of seconds for each step of a request, and for a whole answer once it has begun (except in
    `write_to`). `retries` is how many times a request is repeated at most. Raises `ValueError` for an invalid URL or
    key.
    """

    def __init__(self, url: str, key: str | None, *, timeout: float, retries: int) -> None:
        if not 0 < timeout < 86_400:
            raise ValueError(f"timeout must be above 0 and below 86,400 seconds, got {timeout}")
        if not 0 <= retries <= 100:
            raise ValueError(f"retries must be from 0 to 100, got {retries}")
        self.url = checked_url(url)
        self._timeout = timeout
        self._retries = retries
        self._sleep: Callable[[float], object] = time.sleep
        self._httpx = _load_httpx()
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": f"facespace/{__version__}",
        }
        parts = urlsplit(self.url)
        if key is not None:
            headers["Authorization"] = f"Bearer {_checked_key(key)}"
            if parts.scheme == "http" and parts.hostname not in _LOCAL:
                warnings.warn(
                    f"{self.url}: the key is sent over the network unencrypted; use https://",
                    PlainTextWarning,
                    stacklevel=4,
                )
        self._http: httpx.Client = self._httpx.Client(
            headers=headers,
            timeout=self._httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
            follow_redirects=False,
            trust_env=parts.scheme == "https",
        )

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def fields(self, call: Call) -> Fields:
        """Send a request; return the JSON object of the answer."""
        answer = self._send(call, lambda response: self._whole(response, "application/json", MAX_ANSWER))
        return read_json(answer, self.url)

    def content(self, call: Call, media_type: str, most: int) -> bytes:
        """Send a request; return the answer's body, which must have this media type and at most `most` bytes."""
        return self._send(call, lambda response: self._whole(response, media_type, most))

    def nothing(self, call: Call) -> None:
        """Send a request, and ignore the content of the answer."""
        self._send(call, lambda response: self._whole(response, None, MAX_ANSWER))

    def write_to(self, call: Call, write: Callable[[bytes], object]) -> None:
        """Send a request, and pass the answer to `write` in parts. It is not repeated once a part has arrived."""
        begun = False

        def pass_on(response: httpx.Response) -> bytes:
            nonlocal begun
            for part in self._parts(response, MAX_FILE, seconds=_FILE_SECONDS):
                begun = True
                write(part)
            return b""

        self._send(call, pass_on, lambda: not begun)

    def _send(
        self, call: Call, take: Callable[[httpx.Response], bytes], may_repeat: Callable[[], bool] = lambda: True
    ) -> bytes:
        for n_failed in range(self._retries + 1):
            try:
                return self._once(call, take)
            except _Again as again:
                wait = again.seconds
                if wait is None:
                    wait = min(_FIRST_WAIT * 2**n_failed, _LONGEST_WAIT) * random.uniform(0.75, 1.25)  # noqa: S311
                if n_failed == self._retries or wait > 2 * _LONGEST_WAIT or not may_repeat():
                    raise again.error from None
                self._sleep(wait)
        raise AssertionError  # the last attempt returns or raises

    def _once(self, call: Call, take: Callable[[httpx.Response], bytes]) -> bytes:
        """Send a request once. Raises `_Again` if it may be repeated."""
        httpx = self._httpx
        try:
            response = self._http.send(self._request(call), stream=True)
            try:
                if 200 <= response.status_code < 300:
                    return take(response)
                self._refuse(call, response)
            finally:
                response.close()
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:  # nothing was sent
            raise _Again(self._unreachable(error)) from None
        except (httpx.TransportError, httpx.StreamError) as error:
            failure = self._unreachable(error)
            raise (_Again(failure) if call.repeatable else failure) from None
        except (httpx.InvalidURL, UnicodeError) as error:
            raise ServiceError(f"{self.url}: the request is invalid ({_message(error)})") from None
        raise AssertionError  # `_refuse` has raised

    def _request(self, call: Call) -> httpx.Request:
        headers = dict(call.headers)
        body: dict[str, Any] = {}
        if call.form is not None:
            headers["Content-Type"] = f"multipart/form-data; boundary=facespace-{call.form.digest()[:48]}"
            texts: dict[str, list[str]] = {}
            for name, text in call.form.texts:
                texts.setdefault(name, []).append(text)
            photos = [(name, (photo.filename, photo.data, photo.media_type)) for name, photo in call.form.photos]
            body = {"data": texts, "files": photos}
        elif call.picture is not None:
            headers["Content-Type"] = call.picture.media_type
            body = {"content": call.picture.data}
        elif call.json is not None:
            body = {"json": call.json}
        query = {name: _query_value(value) for name, value in call.query.items() if value is not None}
        return self._http.build_request(call.method, f"{self.url}{call.path}", params=query, headers=headers, **body)

    def _refuse(self, call: Call, response: httpx.Response) -> None:
        """Raise the error for an answer with an error status."""
        status = response.status_code
        if 300 <= status < 400:
            target = one_line(response.headers.get("Location", "nowhere"))[:_DETAIL]
            raise ServiceError(
                f"{self.url}: redirects to {target}, which is not followed to protect photos and key; use that URL if you trust it",
                status=status,
                code="redirected",
            )
        error = self._problem(response, status)
        wait = _retry_after(response.headers.get("Retry-After", ""))
        if status in _BUSY and (wait is not None or call.repeatable):
            raise _Again(error, wait)
        if call.repeatable and (status in _PROXY_FAILED or error.code == "in_progress"):
            raise _Again(error, wait)
        raise error

    def _problem(self, response: httpx.Response, status: int) -> ServiceError:
        """Return the error that an answer describes: in RFC 9457 format from the service, else by its HTTP status."""
        request_id = one_line(response.headers.get("X-Request-Id", ""))[:64]
        code, detail = "", ""
        if "json" in response.headers.get("Content-Type", ""):
            try:
                fields = read_json(self._whole(response, None, _MAX_PROBLEM), self.url)
                code = one_line(fields.text("code", ""))[:64]
                detail = one_line(" ".join(fields.text("detail", "").split()))[:_DETAIL]
                detail = detail or one_line(fields.text("title", ""))[:_DETAIL]
                request_id = request_id or one_line(fields.text("request_id", ""))[:64]
            except ServiceError:  # not from the service, for instance from a proxy; the status is known
                code, detail = "", ""
        what = detail or f"answered {status} {one_line(response.reason_phrase)[:80]}".rstrip()
        known = ", ".join(
            part for part in (code and f"code {code}", request_id and f"request {request_id}") if part and detail
        )
        hint = "; give a key with --key, FACESPACE_KEY or Client(…, key=…)" if code == "unauthorized" else ""
        return ServiceError(
            f"{self.url}: {what}{hint}{f' ({known})' if known else ''}", status=status, code=code, request_id=request_id
        )

    def _whole(self, response: httpx.Response, media_type: str | None, most: int) -> bytes:
        got = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if media_type is not None and got != media_type:
            raise ServiceError(
                f"{self.url}: expected an answer of type {media_type}, got {one_line(got)[:80] or 'no type'}; is this the "
                "URL of a facespace service?",
                status=response.status_code,
                code="unexpected_answer",
            )
        return b"".join(self._parts(response, most, seconds=self._timeout))

    def _parts(self, response: httpx.Response, most: int, *, seconds: float) -> Iterator[bytes]:
        """Yield the body in parts. Raises `ServiceError` above `most` bytes, and `ReadTimeout` after `seconds`."""
        if (encoding := response.headers.get("Content-Encoding", "identity").lower()) != "identity":
            raise ServiceError(
                f"{self.url}: the answer is compressed ({one_line(encoding)[:40]}), which was not requested",
                status=response.status_code,
                code="unexpected_answer",
            )
        end, n_bytes = time.monotonic() + seconds, 0
        for part in response.iter_raw():
            n_bytes += len(part)
            if n_bytes > most:
                raise ServiceError(
                    f"{self.url}: the answer has more than {most:,} bytes; request fewer photos or faces at once",
                    status=response.status_code,
                    code="unexpected_answer",
                )
            if time.monotonic() > end:
                raise self._httpx.ReadTimeout("the answer does not end")
            yield part

    def _unreachable(self, error: Exception) -> ServiceError:
        httpx = self._httpx
        if isinstance(error, httpx.ConnectTimeout):
            reason = f"no connection within {min(self._timeout, _CONNECT_SECONDS):g} s; is the service running?"
        elif isinstance(error, httpx.ConnectError):
            reason = f"cannot be reached ({_message(error)}); is the service running?"
        elif isinstance(error, httpx.TimeoutException):
            reason = f"no answer within {self._timeout:g} s"
        else:
            reason = f"the connection was lost ({_message(error)})"
        return ServiceError(f"{self.url}: {reason}", code="unreachable")


class _Again(Exception):
    """A request failed with `error`, and may be repeated after `seconds`."""

    def __init__(self, error: ServiceError, seconds: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.seconds = seconds


def checked_url(url: str) -> str:
    """Return the URL of a service without a final slash. Raises `ValueError` if it is invalid.

    >>> checked_url("https://faces.example/root/")
    'https://faces.example/root'
    >>> checked_url("faces.example:8000")
    Traceback (most recent call last):
        ...
    ValueError: a service's URL must be like http://127.0.0.1:8000 or https://faces.example, got 'faces.example:8000'
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and url.isascii() and url.isprintable()
        good = good and " " not in url and "\\" not in url and parts.port != 0
    except ValueError:  # for instance an invalid port or an unclosed bracket
        good = False
    if not good:
        raise ValueError(
            f"a service's URL must be like http://127.0.0.1:8000 or https://faces.example, got {one_line(url)[:80]!r}"
        )
    if parts.username is not None or parts.password is not None:
        raise ValueError("a service's URL must not contain a user name or password; give the API key as key")
    if parts.query or parts.fragment:
        raise ValueError(f"a service's URL must not have a query or fragment, got {one_line(url)[:80]!r}")
    return url.rstrip("/")


def _checked_key(key: str) -> str:
    if not (isinstance(key, str) and 8 <= len(key) <= 512 and key.isascii() and key.isprintable() and " " not in key):
        raise ValueError(
            "a key must be 8 to 512 ASCII characters without spaces; use one printed by `facespace serve key create`"
        )
    return key


def _load_httpx() -> Any:
    try:
        import httpx
    except ImportError:
        raise ServiceError("the client needs httpx; install it with: pip install 'facespace[client]'") from None
    return httpx


def _retry_after(text: str) -> float | None:
    """Parse a `Retry-After` header, in seconds or as a date; return the seconds to wait, or None if invalid.

    >>> _retry_after("3"), _retry_after("soon"), _retry_after("Thu, 01 Jan 1970 00:00:00 GMT")
    (3.0, None, 0.0)
    """
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return max(0.0, moment - time.time())


def _query_value(value: Any) -> str | list[str]:
    if isinstance(value, list):
        return [str(one) for one in value]
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _message(error: Exception) -> str:
    return one_line(" ".join(str(error).split()))[:200] or type(error).__name__
