"""Serves a video by HTTP on loopback, as a file or as a stream that breaks off and comes back."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class FilmServer:
    """`/film.mp4` is a file with a Content-Length; `/live` is a stream without one, which sends `live` over about
    `seconds`.

    Each connection to the stream uses the next item of `plan`: the share of the video after which it breaks off, 0 to
    refuse, None to hang. After the last item all connections are refused.
    """

    port: int = 0
    film: bytes = b""
    live: bytes = b""
    seconds: float = 3.0
    plan: list[float | None] = field(default_factory=list)
    n_connections: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def film_server(film: bytes, live: bytes, *, seconds: float = 3.0) -> Iterator[FilmServer]:
    """Run a server until the block ends."""
    found = FilmServer(film=film, live=live, seconds=seconds)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/film"):
                self._film()
            elif self.path.startswith("/live"):
                self._live()
            elif self.path.startswith("/text"):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"<html>no film</html>" * 100)
            elif self.path.startswith("/playlist"):
                self.send_response(200)
                self.send_header("Content-Type", "application/vnd.apple.mpegurl")
                self.end_headers()
                self.wfile.write(f"#EXTM3U\n#EXTINF:3,\n{found.url}/film.mp4\n#EXT-X-ENDLIST\n".encode())
            else:
                self.send_error(404)

        def _film(self) -> None:
            data, start = found.film, 0
            if given := self.headers.get("Range"):
                start = int(given.removeprefix("bytes=").partition("-")[0])
            self.send_response(206 if given else 200)
            self.send_header("Accept-Ranges", "bytes")
            if given:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(data[start:])

        def _live(self) -> None:
            found.n_connections += 1
            share = found.plan.pop(0) if found.plan else 0
            if share == 0:
                self.send_error(503)
                return
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            n_sent = len(found.live) if share is None else int(share * len(found.live))
            part = max(1, int(len(found.live) / (found.seconds * 20)))
            with contextlib.suppress(OSError):
                for begin in range(0, n_sent, part):
                    self.wfile.write(found.live[begin : min(begin + part, n_sent)])
                    self.wfile.flush()
                    time.sleep(0.05)
                if share is None:
                    found.stop.wait(60)

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    found.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.stop.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
