"""Serves Qdrant's in-memory client by HTTP, so that processes share it and connections can fail.

It answers the requests that a gallery sends, from `QdrantClient(":memory:")`; it is not a Qdrant server, and nothing is
stored on disk.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from qdrant_client import QdrantClient, models


class Memory:
    """The stored data of a server; it outlives `serving`, as a disk outlives a restart."""

    def __init__(self) -> None:
        self.client = QdrantClient(":memory:")
        self.lock = threading.Lock()
        self.version = "1.17.0"
        self.key: str | None = None

    def answer(self, method: str, path: str, body: Any) -> Any:
        client, parts = self.client, path.strip("/").split("/")
        if parts == [""]:
            return {"title": "qdrant - vector search engine", "version": self.version}
        if parts == ["collections"]:
            return client.get_collections()
        name, rest = parts[1], "/".join(parts[2:])
        if rest == "exists":
            return {"exists": client.collection_exists(name)}
        if not rest and method == "PUT":
            if client.collection_exists(name):
                raise Refused(409, f"Collection `{name}` already exists!")
            made = models.CreateCollection(**body)
            return client.create_collection(
                name, vectors_config=made.vectors, replication_factor=made.replication_factor
            )
        if not client.collection_exists(name):
            raise Refused(404, f"Not found: Collection `{name}` doesn't exist!")
        if not rest:
            return client.get_collection(name)
        if rest == "index":
            return _done()
        if rest == "points" and method == "POST":
            asked = models.PointRequest(**body)
            return client.retrieve(
                name, asked.ids, with_payload=asked.with_payload, with_vectors=asked.with_vector or False
            )
        if rest == "points":
            given = models.PointsList(**body)
            client.upsert(name, given.points, update_mode=given.update_mode)
            return _done()
        if rest == "points/scroll":
            scrolled = models.ScrollRequest(**body)
            points, offset = client.scroll(
                name, scrolled.filter, limit=scrolled.limit, order_by=scrolled.order_by, offset=scrolled.offset,
                with_payload=scrolled.with_payload, with_vectors=scrolled.with_vector or False,
            )  # fmt: skip
            return {"points": points, "next_page_offset": offset}
        if rest == "points/batch":
            client.batch_update_points(name, models.UpdateOperations(**body).operations)
            return [_done()]
        if rest == "points/query/batch":
            searches = [one.model_copy(update={"params": None}) for one in models.QueryRequestBatch(**body).searches]
            return client.query_batch_points(name, searches)
        raise Refused(404, f"no request {method} {path}")


class Refused(Exception):
    """A refusal with a status and a reason."""


def _done() -> dict[str, Any]:
    return {"operation_id": 0, "status": "completed"}


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)


@contextlib.contextmanager
def serving(memory: Memory, port: int = 0) -> Iterator[str]:
    """Run a server over `memory` and return its address; it stops when the context ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 65536  # one packet per answer: a second one would wait for the first one's acknowledgement

        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = 200, None
            if memory.key is not None and self.headers.get("api-key") != memory.key:
                status, answer = 401, {"status": {"error": "Must provide an API key"}}
            else:
                try:
                    with memory.lock:
                        result = memory.answer(self.command, self.path.partition("?")[0], json.loads(body or "null"))
                        text = json.dumps({"result": result, "status": "ok", "time": 0.0}, default=_plain)
                    answer = json.loads(text)
                    if self.path == "/":
                        answer = answer["result"]
                except Refused as error:
                    status, answer = error.args[0], {"status": {"error": error.args[1]}, "time": 0.0}
            raw = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_PUT = do_POST = handle_one

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"qdrant://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
