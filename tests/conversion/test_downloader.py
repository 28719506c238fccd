"""Tests downloading a file, from a server in this process that can misbehave in every way."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from hypothesis import HealthCheck, given, settings, strategies as st

from facespace.conversion.downloader import _open, discard, fetch
from facespace.errors import ModelError
from facespace.io.checksums import copy_file, sha256_of

CONTENT = bytes(range(256)) * 4096  # 1 MiB
OTHER = CONTENT[::-1]
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Site(http.server.ThreadingHTTPServer):
    """The server's files and behaviour, and the requests it received."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.length = True
        self.chunked = False
        self.status = 200
        self.location = ""
        self.cut: int | None = None  # bytes to send before the connection is cut
        self.pause_after: int | None = None
        self.drip = False
        self.asked: list[dict[str, str]] = []
        self.go_on = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1/weights.pt"

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Site

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        site = self.server
        site.asked.append({"path": self.path, **self.headers})
        self.close_connection = True
        status = 200 if self.path == "/elsewhere" else site.status
        if status != 200:
            self.send_response(status)
            if site.location:
                self.send_header("Location", site.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        body = site.content
        if site.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif site.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if site.cut is not None:
            body = body[: site.cut]
        if site.chunked:
            body = b"%x\r\n%s" % (len(site.content), body) + (b"" if site.cut else b"\r\n0\r\n\r\n")
        if site.pause_after is not None:
            self.wfile.write(body[: site.pause_after])
            self.wfile.flush()
            site.go_on.wait(60)
            body = body[site.pause_after :]
        if site.drip:
            for _ in range(100):
                site.go_on.wait(0.05)
                self.wfile.write(b"x")
            return
        self.wfile.write(body)


@pytest.fixture(autouse=True)
def no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name == "FACESPACE_MIRROR":
            monkeypatch.delenv(name)


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.go_on.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "weights.pt"


def left(target: Path) -> list[str]:
    return sorted(name for name in os.listdir(target.parent) if not name.endswith(".lock"))


def fetched(url: str, target: Path) -> str:
    """Download a file and return its SHA-256."""
    fetch(url, target, sha256=SHA256)
    return sha256_of(target)


def one_line(error: pytest.ExceptionInfo[ModelError]) -> str:
    assert str(error.value).splitlines() == [str(error.value)]
    return str(error.value)


# Whole files


def test_a_file_comes_whole(site: Site, target: Path) -> None:
    seen: list[tuple[int, int]] = []
    fetch(site.url, target, sha256=SHA256, size=len(CONTENT), progress=lambda *state: seen.append(state))
    assert target.read_bytes() == CONTENT
    assert left(target) == ["weights.pt"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert sorted(seen) == seen
    (asked,) = site.asked
    assert asked["path"] == "/v1/weights.pt"
    assert "Range" not in asked
    assert asked["Accept-Encoding"] == "identity"


def test_an_existing_file_is_not_downloaded(site: Site, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    assert fetched(site.url, target) == SHA256
    assert site.asked == []


def test_another_existing_file_is_replaced(site: Site, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(OTHER)
    assert fetched(site.url, target) == SHA256
    assert target.read_bytes() == CONTENT


def test_a_body_in_chunks(site: Site, target: Path) -> None:
    site.chunked = True
    assert fetched(site.url, target) == SHA256


def test_a_body_without_an_end(site: Site, target: Path) -> None:
    site.length = False
    assert fetched(site.url, target) == SHA256


# Broken off


def test_a_cut_connection(site: Site, target: Path) -> None:
    site.cut = 300_000
    with pytest.raises(ModelError) as error:
        fetch(site.url, target, sha256=SHA256)
    assert one_line(error) == f"{site.url}: the connection ended before the file did; try again"
    assert left(target) == []
    site.cut = None
    fetch(site.url, target, sha256=SHA256)
    assert left(target) == ["weights.pt"]


def test_a_cut_connection_in_chunks(site: Site, target: Path) -> None:
    site.chunked, site.cut = True, 300_000
    with pytest.raises(ModelError) as error:
        fetch(site.url, target, sha256=SHA256)
    assert one_line(error) == f"{site.url}: the connection ended before the file did; try again"
    assert left(target) == []


# Wrong files


def test_a_wrong_hash(site: Site, target: Path) -> None:
    site.content = OTHER
    with pytest.raises(ModelError) as error:
        fetch(site.url, target, sha256=SHA256)
    got = hashlib.sha256(OTHER).hexdigest()
    assert one_line(error) == (
        f"{site.url}: SHA256 hash of downloaded file (weights.pt) does not match the known hash: "
        f"expected {SHA256} but got {got}; this is not the published file"
    )
    assert left(target) == []
    assert len(site.asked) == 1


def test_a_wrong_announced_size_is_noticed_before_the_download(site: Site, target: Path) -> None:
    with pytest.raises(ModelError, match=f"the file must have 5 bytes, got {len(CONTENT)}; this is not"):
        fetch(site.url, target, sha256=SHA256, size=5)
    assert left(target) == []


def test_a_wrong_size_that_was_not_announced(site: Site, target: Path) -> None:
    site.length = False
    with pytest.raises(ModelError, match=r"the file must have 5 bytes, got \d+; this is not"):
        fetch(site.url, target, sha256=SHA256, size=5)
    assert left(target) == []


def test_a_file_announced_as_too_large(site: Site, target: Path) -> None:
    with pytest.raises(ModelError, match=f"a model file must have at most 1000 bytes, got {len(CONTENT)}$"):
        fetch(site.url, target, sha256=SHA256, max_bytes=1000)
    assert left(target) == []


def test_a_file_that_turns_out_too_large(site: Site, target: Path) -> None:
    site.chunked = True
    with pytest.raises(ModelError, match=r"a model file must have at most 1000 bytes, got \d+$"):
        fetch(site.url, target, sha256=SHA256, max_bytes=1000)
    assert left(target) == []


# Servers that send no file


@pytest.mark.parametrize(
    ("status", "reason"), [(404, "404 Not Found"), (500, "500 Internal Server Error"), (429, "429 Too Many Requests")]
)
def test_an_error_of_the_server(site: Site, target: Path, status: int, reason: str) -> None:
    site.status = status
    with pytest.raises(ModelError) as error:
        fetch(site.url, target, sha256=SHA256)
    assert one_line(error) == f"{site.url}: the server answered {reason}"


@pytest.mark.parametrize("status", [204, 206])
def test_an_answer_that_is_not_a_file(site: Site, target: Path, status: int) -> None:
    site.status = status
    with pytest.raises(ModelError, match=f"the server answered {status} "):
        fetch(site.url, target, sha256=SHA256)


def test_a_redirect_is_followed(site: Site, target: Path) -> None:
    site.status, site.location = 302, "/elsewhere"
    assert fetched(site.url, target) == SHA256
    assert [asked["path"] for asked in site.asked] == ["/v1/weights.pt", "/elsewhere"]


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "/v1/weights.pt", "http://["])
def test_redirects_to_other_schemes_or_in_circles(site: Site, target: Path, place: str) -> None:
    site.status, site.location = 302, place
    with pytest.raises(ModelError) as error:
        fetch(site.url, target, sha256=SHA256)
    expected = "redirected in circles, or to an address that is not http or https"
    assert one_line(error) == f"{site.url}: {expected}"
    assert left(target) == []


class Web(requests.adapters.BaseAdapter):
    """Answers a request for `/x` with a redirect, and any other with 200."""

    def __init__(self, location: str) -> None:
        super().__init__()
        self.location = location

    def send(self, request, stream=False, timeout=None, verify=True, cert=None, proxies=None):
        answer = requests.Response()
        answer.url, answer.raw = request.url, io.BytesIO()
        answer.status_code = 302 if request.url.endswith("/x") else 200
        answer.headers["Location"] = self.location
        return answer

    def close(self) -> None:
        pass


def test_no_redirect_leads_from_https_down_to_http() -> None:
    def redirected(old: str, new: str) -> str:
        with requests.Session() as session:
            for scheme in ("https://", "http://"):
                session.mount(scheme, Web(new))
            return str(_open(session, old, 1.0).url)

    with pytest.raises(ModelError, match=r"^https://a/x: redirected in circles, or to an address that is not http or"):
        redirected("https://a/x", "http://a/y")
    for old, new in (("https://a/x", "https://b/y"), ("http://a/x", "https://b/y"), ("http://a/x", "http://b/y")):
        assert redirected(old, new) == new


def test_passwords_of_netrc_are_not_sent(
    site: Site, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert fetched(site.url, target) == SHA256
    assert "Authorization" not in site.asked[0]


def test_no_server_at_the_address(target: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ModelError, match=r"^http://127\.0\.0\.1:\d+/x: .*refused"):
        fetch(f"http://127.0.0.1:{port}/x", target, sha256=SHA256)


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "weights.pt", "http://", "http://a b/", "http://127.0.0.1:x/"]
)
def test_an_address_that_is_not_http(target: Path, url: str) -> None:
    with pytest.raises(ModelError) as error:
        fetch(url, target, sha256=SHA256)
    assert one_line(error).startswith(f"{url}: ")


@pytest.mark.parametrize("mirror", ["http://me:secret@127.0.0.1/x", "https://me:secret@host:8/", "http://secret["])
def test_a_password_is_not_printed(target: Path, monkeypatch: pytest.MonkeyPatch, mirror: str) -> None:
    monkeypatch.setenv("FACESPACE_MIRROR", mirror)
    with pytest.raises(ModelError, match=r"^FACESPACE_MIRROR") as error:
        fetch("https://no.such.host.invalid/x", target, sha256=SHA256)
    assert "secret" not in str(error.value)


def test_a_server_that_never_answers(target: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        with pytest.raises(ModelError) as error:
            fetch(url, target, sha256=SHA256, timeout=0.1)
    assert one_line(error) == f"{url}: no answer within 0.1 s"


def test_a_server_that_stalls(site: Site, target: Path) -> None:
    site.pause_after = 300_000
    with pytest.raises(ModelError, match=r": no answer within 0\.2 s$"):
        fetch(site.url, target, sha256=SHA256, timeout=0.2)
    assert left(target) == []


def test_a_server_that_drips(site: Site, target: Path) -> None:
    site.drip = True
    with pytest.raises(ModelError, match=r": too slow, the server sent \d+ bytes in 0\.2 s$"):
        fetch(site.url, target, sha256=SHA256, timeout=0.2)
    assert left(target) == []


# A mirror


def test_a_mirror_in_a_folder(tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = tmp_path / "mir ror"
    mirror.mkdir()
    (mirror / "weights.pt").write_bytes(CONTENT)
    for place in (str(mirror), mirror.as_uri()):
        monkeypatch.setenv("FACESPACE_MIRROR", place)
        assert fetched("https://no.such.host.invalid/v1/weights.pt", target) == SHA256
        assert target.read_bytes() == CONTENT
        assert left(target) == ["weights.pt"]
        discard(target)
        with pytest.raises(ModelError, match=r"weights\.pt: SHA256 hash .*: expected 0+ but got"):
            fetch("https://no.such.host.invalid/v1/weights.pt", target, sha256="0" * 64)
        with pytest.raises(ModelError, match=r"weights\.pt: a model file must have at most 1000 bytes"):
            fetch("https://no.such.host.invalid/v1/weights.pt", target, sha256=SHA256, max_bytes=1000)
        assert left(target) == []
        with pytest.raises(ModelError, match=r"other\.pt: no such file on the mirror that FACESPACE_MIRROR names"):
            fetch("https://no.such.host.invalid/v1/other.pt", target, sha256=SHA256)


def test_a_mirror_on_the_web(site: Site, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for slash in ("", "/"):
        monkeypatch.setenv("FACESPACE_MIRROR", site.url.removesuffix("/v1/weights.pt") + f"/ours{slash}")
        assert fetched("https://no.such.host.invalid/v1/weights.pt?x=1", target) == SHA256
        discard(target)
    assert [asked["path"] for asked in site.asked] == ["/ours/weights.pt"] * 2


@pytest.mark.parametrize("mirror", ["ftp://there/models", "file://elsewhere/models", "s3://bucket"])
def test_an_unreadable_mirror(target: Path, mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACESPACE_MIRROR", mirror)
    with pytest.raises(ModelError, match=r"^FACESPACE_MIRROR must be a folder or an address with"):
        fetch("https://no.such.host.invalid/weights.pt", target, sha256=SHA256)


def test_proxies_of_the_environment_are_used(site: Site, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", site.url.removesuffix("/v1/weights.pt"))
    assert fetched("http://no.such.host.invalid/weights.pt", target) == SHA256
    assert site.asked[0]["path"] == "http://no.such.host.invalid/weights.pt"


# Several processes

FETCH = "import sys; from pathlib import Path; from facespace.conversion.downloader import fetch; fetch(sys.argv[1], Path(sys.argv[2]), sha256=sys.argv[3])"


def fetching(site: Site, target: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "error", "-c", FETCH, site.url, str(target), SHA256]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_processes_fetch_once(site: Site, target: Path) -> None:
    site.pause_after = 300_000
    first, second = fetching(site, target), fetching(site, target)
    wait_for(lambda: site.asked)
    time.sleep(0.3)  # so that the other process reaches the lock
    site.go_on.set()
    for process in (first, second):
        _, error = process.communicate(timeout=60)
        assert (process.returncode, error) == (0, b"")
    assert len(site.asked) == 1
    assert target.read_bytes() == CONTENT
    assert left(target) == ["weights.pt"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_leftovers_of_a_killed_process_are_removed_by_the_next(site: Site, target: Path) -> None:
    site.pause_after = 600_000
    process = fetching(site, target)
    unfinished = target.with_name(".facespace-weights.pt")
    wait_for(lambda: any(path.stat().st_size > 100_000 for path in unfinished.glob("*")))
    process.kill()
    process.communicate(timeout=60)
    assert not target.exists()
    site.pause_after = None
    assert fetched(site.url, target) == SHA256
    assert left(target) == ["weights.pt"]


# Small functions, and arbitrary bytes


def test_hash_copy_discard(tmp_path: Path) -> None:
    source, copy = tmp_path / "a", tmp_path / "b"
    source.write_bytes(CONTENT)
    assert sha256_of(source) == copy_file(source, copy, max_bytes=len(CONTENT)) == SHA256
    assert copy.read_bytes() == CONTENT
    with pytest.raises(ModelError, match="more than 5 bytes"):
        copy_file(source, copy, max_bytes=5)
    discard(copy)
    discard(copy)
    assert os.listdir(tmp_path) == ["a"]


def test_the_body_of_a_redirect_is_not_read(target: Path, babbler: tuple[str, list[bytes]]) -> None:
    url, says = babbler
    says[0] = b"HTTP/1.1 302 Found\r\nLocation: ftp://x/\r\nContent-Length: 999999999999\r\n\r\n"
    with pytest.raises(ModelError, match="redirected in circles"):
        fetch(url, target, sha256=SHA256)
    says[0] = says[0].replace(b"ftp://x/", url.encode())
    with pytest.raises(ModelError, match="redirected in circles"):
        fetch(url, target, sha256=SHA256)


@pytest.fixture(scope="module")
def babbler() -> Iterator[tuple[str, list[bytes]]]:
    """A server that sends the bytes in the list, and then hangs up."""
    says = [b""]
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    request = connection.recv(65536)
                    if request == b"stop":
                        return
                    connection.sendall(says[0])

        thread = threading.Thread(target=serve)
        thread.start()
        port = listening.getsockname()[1]
        yield f"http://127.0.0.1:{port}/weights.pt", says
        with socket.create_connection(("127.0.0.1", port)) as last:
            last.sendall(b"stop")
        thread.join()


HEADERS = st.lists(
    st.one_of(
        st.sampled_from([
            b"Content-Length: 5", b"Content-Length: -5", b"Content-Length: 99999999999999999999", b"Content-Length: x",
            b"Transfer-Encoding: chunked", b"Content-Range: bytes 3-9/10", b"Content-Range: bytes */1", b"ETag: \xff",
            b"ETag: \"a\"", b"Location: file:///etc/passwd", b"Location: \x00", b"Location: http://[::", b"Content-Encoding: gzip",
        ]),
        st.binary(max_size=20),
    ),
    max_size=4,
)  # fmt: skip
ANSWERS = st.one_of(
    st.binary(max_size=100),
    st.builds(
        lambda status, headers, body: b"\r\n".join([b"HTTP/1.1 " + status, *headers, b"", body]),
        st.sampled_from(
            [b"200 OK", b"206 Partial", b"302 Found", b"416 No", b"404 \x1b[31m", b"000 ", b"99999 x", b"100 Continue"]
        ),
        HEADERS,
        st.binary(max_size=40),
    ),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings(
    "ignore:unclosed <socket:ResourceWarning"
)  # urllib3 leaves closing it to the garbage collector
@given(answer=ANSWERS)
def test_any_answer_of_a_server_gives_one_error(
    babbler: tuple[str, list[bytes]], tmp_path: Path, answer: bytes
) -> None:
    url, says = babbler
    says[0] = answer
    target = tmp_path / "weights.pt"
    with pytest.raises(ModelError) as caught:
        fetch(url, target, sha256=SHA256, timeout=2, max_bytes=1000)
    assert str(caught.value).splitlines() == [str(caught.value)]
    assert not target.exists()
