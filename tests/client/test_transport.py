"""Requests that are sent and repeated, and one clear line for every way in which a server can misbehave."""

from __future__ import annotations

import gzip
import subprocess
import sys
import time
import warnings

import pytest

from facespace.client.forms import Form
from facespace.client.pictures import Picture
from facespace.client.transport import Call, PlainTextWarning, Transport, checked_url
from facespace.errors import ServiceError
from support.fake_service import FakeService, Handler, Request, answering, fake_service, problem, sending

KEY = "fsk_abc_0123456789"
READ = Call("GET", "/v1/people", repeatable=True)
CHANGE = Call("DELETE", "/v1/people/1")


def transport(service: FakeService, *, timeout: float = 5, retries: int = 3, key: str | None = KEY) -> Transport:
    made = Transport(service.url, key, timeout=timeout, retries=retries)
    made._sleep = lambda seconds: None
    return made


def refusal(service: FakeService, call: Call = READ, **options: float) -> ServiceError:
    made = transport(service, **options)  # type: ignore[arg-type]
    with pytest.raises(ServiceError) as caught:
        made.fields(call)
    made.close()
    text = str(caught.value)
    assert text.startswith(f"{service.url}: ")
    assert "\n" not in text
    assert len(text) < 900
    assert KEY not in text
    return caught.value


def test_a_request_carries_key_and_query_and_no_cookies() -> None:
    with fake_service(answering(200, {"n": 1}, headers={"Set-Cookie": "a=b"})) as service:
        made = transport(service)
        call = Call("GET", "/v1/log", {"collection": "a&b", "limit": 3, "flag": True, "not": None}, repeatable=True)
        assert made.fields(call).whole("n") == 1
        made.close()
        (request,) = service.requests
    assert request.path == "/v1/log?collection=a%26b&limit=3&flag=true"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["user-agent"].startswith("facespace/")
    assert "cookie" not in request.headers


def test_a_form_is_the_same_bytes_whenever_it_is_sent() -> None:
    form = Form([("name", "Zoë")], [("photo", Picture(b"\xff\xd8\xff1", 'a"b.jpg', "image/jpeg"))])
    with fake_service(answering()) as service:
        made = transport(service)
        for _ in range(2):
            made.fields(Call("POST", "/v1/enroll", form=form))
        made.close()
    first, second = service.requests
    assert first.body == second.body
    assert first.headers["content-type"] == second.headers["content-type"]
    assert b"Zo\xc3\xab" in first.body
    assert b"\xff\xd8\xff1" in first.body


@pytest.mark.parametrize(
    ("body", "media_type", "expected"),
    [
        (b"<html>welcome</html>", "text/html", "expected an answer of type application/json, got text/html"),
        (b"{", "application/json", "the answer is not JSON"),
        (b"[1]", "application/json", "the answer must be a JSON object, got a list of 1"),
        (b'{"a": NaN}', "application/json", "the answer is not JSON"),
        (b"[" * 200_000, "application/json", "the answer is not JSON"),
        (b"\xff\xfe\x00", "application/json", "the answer is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "application/json", "the answer is not JSON"),
    ],
    ids=["html", "cut", "list", "nan", "deep", "binary", "long number"],
)
def test_an_answer_that_is_not_a_json_object(body: bytes, media_type: str, expected: str) -> None:
    with fake_service(answering(200, body, media_type=media_type)) as service:
        error = refusal(service)
    assert expected in str(error)
    assert error.code == "unexpected_answer"


def test_an_answer_that_is_too_large_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facespace.client.transport.MAX_ANSWER", 10_000)
    sent = 0

    def endless(handler: Handler, request: Request) -> None:
        nonlocal sent
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")
        for _ in range(10_000):
            handler.wfile.write(b" " * 65_536)
            sent += 65_536

    with fake_service(endless) as service:
        error = refusal(service)
    assert "more than 10,000 bytes" in str(error)
    assert sent < 300_000_000
    assert len(service.requests) == 1


def test_a_compressed_answer_is_not_decompressed() -> None:
    bomb = gzip.compress(b" " * 10_000_000)
    with fake_service(answering(200, bomb, headers={"Content-Encoding": "gzip"})) as service:
        error = refusal(service)
        assert service.requests[0].headers["accept-encoding"] == "identity"
    assert "compressed (gzip)" in str(error)


def test_a_redirect_is_not_followed() -> None:
    with fake_service(answering()) as other:
        with fake_service(answering(307, headers={"Location": f"{other.url}/v1/people"})) as service:
            error = refusal(service)
            assert len(service.requests) == 1
        assert other.requests == []
    assert (error.status, error.code) == (307, "redirected")
    assert other.url in str(error)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 413, 415, 422, 428, 500])
def test_a_problem_is_reported_with_its_code_and_request_and_not_repeated(status: int) -> None:
    answer = problem(status, "some_code", "the reason\nin words", X_Request_Id="req-1")
    with fake_service(answer) as service:
        error = refusal(service)
        assert len(service.requests) == 1
    assert (error.status, error.code, error.request_id) == (status, "some_code", "req-1")
    assert str(error) == f"{service.url}: the reason in words (code some_code, request req-1)"


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (b"<html>" + b"x" * 1_000_000, "text/html"),
        (b"{" * 100_000, "application/problem+json"),
        (b'{"code": 7, "detail": ["a"]}', "application/problem+json"),
        (b'"text"', "application/json"),
        (b" " * 1_000_000, "application/json"),
    ],
    ids=["html", "deep", "types", "text", "long"],
)
def test_an_error_that_is_not_a_problem_document_has_its_status(body: bytes, media_type: str) -> None:
    with fake_service(answering(500, body, media_type=media_type)) as service:
        error = refusal(service)
    assert error.status == 500
    assert str(error).endswith("answered 500 Internal Server Error")


def test_control_characters_from_a_server_are_escaped() -> None:
    with fake_service(problem(422, "in\x1bvalid", "a\x1b[2Jb\u202ec" + "x" * 10_000)) as service:
        error = refusal(service)
    assert str(error).isprintable()


# Repeated or not


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("call", [READ, CHANGE], ids=["read", "change"])
def test_requests_to_a_busy_service_are_repeated_after_its_pause(status: int, call: Call) -> None:
    busy = problem(status, "busy", "wait", Retry_After="7")
    with fake_service(busy, busy, answering(200, {"n": 1})) as service:
        made = transport(service)
        waits: list[float] = []
        made._sleep = waits.append
        assert made.fields(call).whole("n") == 1
        made.close()
    assert waits == [7, 7]


def test_the_number_of_repetitions_is_limited() -> None:
    with fake_service(problem(503, "busy", "wait", Retry_After="0")) as service:
        error = refusal(service, retries=3)
        assert len(service.requests) == 4
    assert (error.status, error.code) == (503, "busy")


def test_a_pause_of_hours_is_not_waited_for() -> None:
    with fake_service(problem(429, "too_many_requests", "wait", Retry_After="86400")) as service:
        assert refusal(service).status == 429
        assert len(service.requests) == 1


@pytest.mark.parametrize("status", [502, 504])
def test_a_request_that_a_proxy_failed_at_is_repeated_if_that_is_safe(status: int) -> None:
    failed = answering(status, b"<html>", media_type="text/html")
    with fake_service(failed, answering(200, {"n": 1})) as service:
        made = transport(service)
        assert made.fields(READ).whole("n") == 1
        made.close()
    with fake_service(failed, answering()) as service:
        assert refusal(service, CHANGE).status == status
        assert len(service.requests) == 1


def test_a_request_that_is_still_running_is_waited_for() -> None:
    running = problem(409, "in_progress", "the same request is still running")
    with fake_service(running, answering(200, {"n": 1})) as service:
        made = transport(service)
        assert made.fields(READ).whole("n") == 1
        made.close()


CUT = {
    "nothing": sending(b""),
    "half a status line": sending(b"HTTP/1.1 2"),
    "half the headers": sending(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "half the body": sending(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"n"'),
    "no HTTP": sending(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "two lengths": sending(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}}"
    ),
    "invalid chunks": sending(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n"
    ),
}


@pytest.mark.parametrize("cut", CUT.values(), ids=CUT)
def test_a_request_is_repeated_if_its_answer_is_cut_off(cut: object) -> None:
    with fake_service(cut, answering(200, {"n": 1})) as service:  # type: ignore[arg-type]
        made = transport(service)
        assert made.fields(READ).whole("n") == 1
        made.close()
        assert len(service.requests) == 2


@pytest.mark.parametrize("cut", CUT.values(), ids=CUT)
def test_a_change_whose_answer_is_cut_off_is_not_sent_again(cut: object) -> None:
    with fake_service(cut) as service:  # type: ignore[arg-type]
        error = refusal(service, CHANGE)
        assert len(service.requests) == 1
    assert "the connection was lost" in str(error)
    assert (error.status, error.code) == (None, "unreachable")


def test_a_server_that_never_answers() -> None:
    with fake_service(lambda handler, request: service.closing.wait(20) and None) as service:
        began = time.monotonic()
        error = refusal(service, timeout=0.3, retries=1)
        assert time.monotonic() - began < 5
        assert len(service.requests) == 2
    assert str(error) == f"{service.url}: no answer within 0.3 s"


def test_an_answer_that_comes_byte_by_byte_and_does_not_end() -> None:
    def drip(handler: Handler, request: Request) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
        while not service.closing.wait(0.05):
            handler.wfile.write(b" ")

    with fake_service(drip) as service:
        began = time.monotonic()
        error = refusal(service, timeout=0.5, retries=0)
        assert time.monotonic() - began < 5
    assert "no answer within 0.5 s" in str(error)


def test_a_port_without_a_service() -> None:
    with fake_service(answering()) as service:
        pass
    error = refusal(service, retries=2)
    assert "cannot be reached" in str(error)
    assert "is the service running?" in str(error)
    assert error.status is None


def test_a_change_is_repeated_if_nothing_of_it_was_sent() -> None:
    with fake_service(answering()) as service:
        pass
    made = transport(service, retries=2)
    waits: list[float] = []
    made._sleep = waits.append
    with pytest.raises(ServiceError):
        made.fields(CHANGE)
    made.close()
    assert len(waits) == 2
    assert 0 < waits[0] < waits[1] < 2


# URLs and keys


@pytest.mark.parametrize(
    "url",
    [
        "", "localhost:8000", "ftp://a", "http://", "http://a b", "http://a:99999", "http://[::1", "http://ü.example", "http://a\n",
        "http://a\\b", "file:///etc/passwd",
    ],
)  # fmt: skip
def test_an_invalid_url(url: str) -> None:
    with pytest.raises(ValueError, match="a service's URL must be like"):
        checked_url(url)


def test_a_url_with_secrets_is_refused_and_not_printed() -> None:
    with pytest.raises(ValueError, match="must not contain a user name or password") as caught:
        checked_url("https://ann:secret@faces.example")
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="must not have a query or fragment"):
        checked_url("https://faces.example/?key=1")


@pytest.mark.parametrize("key", ["", "short", "with blank 1234", "line\r\nX-Evil: 1", "ключ-ключ-ключ", "x" * 600])
def test_an_invalid_key_is_refused_and_not_printed(key: str) -> None:
    with pytest.raises(ValueError, match="a key must be") as caught:
        Transport("https://faces.example", key, timeout=5, retries=0)
    assert not key or key not in str(caught.value)


def test_a_key_in_plain_text_is_warned_of() -> None:
    with pytest.warns(PlainTextWarning, match="unencrypted"):
        Transport("http://faces.example", KEY, timeout=5, retries=0).close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for url in ("https://faces.example", "http://127.0.0.1:1", "http://localhost", "http://[::1]:8000"):
            Transport(url, KEY, timeout=5, retries=0).close()


def test_proxies_see_nothing_in_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_service(answering()) as proxy, fake_service(answering(200, {"n": 1})) as service:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        made = transport(service)
        assert made.fields(READ).whole("n") == 1
        made.close()
        assert proxy.requests == []


@pytest.mark.parametrize(("name", "value"), [("timeout", 0), ("timeout", 1e9), ("retries", -1), ("retries", 1000)])
def test_options_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be (from 0 to|above 0)"):
        Transport("http://127.0.0.1:1", None, **{"timeout": 5, "retries": 1, name: value})  # type: ignore[arg-type]


def test_without_httpx_one_line_says_what_to_install() -> None:
    code = """
import sys
sys.modules["httpx"] = None
import facespace
try:
    facespace.Client("http://127.0.0.1:1")
except facespace.ServiceError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "the client needs httpx; install it with: pip install 'facespace[client]'\n"
