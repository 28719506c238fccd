from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from facespace.server.idempotency import keeps_answers
from facespace.server.state import StateError
from support.small_service import client, new_key, small_app


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FastAPI]:
    made = small_app(tmp_path)
    yield made
    made.state.service.close()


def key(text: str) -> dict[str, str]:
    return {"Idempotency-Key": text}


def test_a_request_that_is_sent_again_gets_the_first_answer(app: FastAPI):
    caller = client(app, new_key(app, "enroll"))
    first = caller.post("/v1/try", content=b"abc", headers=key("one"))
    again = caller.post("/v1/try", content=b"abc", headers=key("one"))
    assert (first.status_code, first.json()) == (201, {"n": 1, "n_bytes": 3})
    assert (again.status_code, again.json()) == (201, {"n": 1, "n_bytes": 3})
    assert again.headers["content-type"] == first.headers["content-type"]
    assert (again.headers.get("Idempotency-Replayed"), first.headers.get("Idempotency-Replayed")) == ("true", None)
    assert caller.post("/v1/try", content=b"abc", headers=key("two")).json()["n"] == 2
    assert caller.post("/v1/try", content=b"abc").json()["n"] == 3


def test_another_body_path_or_query_is_refused(app: FastAPI):
    caller = client(app, new_key(app, "enroll"))
    caller.post("/v1/try", content=b"abc", headers=key("one"))
    for path, body in (("/v1/try", b"abcd"), ("/v1/try?collection=default", b"abc"), ("/v1/nothing", b"abc")):
        answer = caller.post(path, content=body, headers=key("one"))
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


def test_the_boundary_of_a_form_does_not_count(app: FastAPI):
    caller = client(app, new_key(app, "enroll"))
    answers = [caller.post("/v1/try", files={"photo": b"abc"}, headers=key("one")) for _ in range(2)]
    boundaries = {answer.request.headers["content-type"] for answer in answers}
    assert len(boundaries) == 2
    assert answers[0].json() == answers[1].json()
    other = caller.post("/v1/try", files={"photo": b"abd"}, headers=key("one"))
    assert other.json()["code"] == "idempotency_key_reused"


def test_a_key_of_another_caller_is_another_key(app: FastAPI):
    first, second = client(app, new_key(app, "enroll")), client(app, new_key(app, "enroll"))
    assert first.post("/v1/try", headers=key("one")).json()["n"] == 1
    assert second.post("/v1/try", headers=key("one")).json()["n"] == 2


def test_replay_checks_the_key_again(app: FastAPI):
    text = new_key(app, "enroll")
    caller = client(app, text)
    assert caller.post("/v1/try", headers=key("one")).status_code == 201
    assert client(app).post("/v1/try", headers=key("one")).status_code == 401
    assert client(app, new_key(app, "read")).post("/v1/try", headers=key("one")).status_code == 403
    app.state.service.keys.revoke(text.split("_")[1])
    assert caller.post("/v1/try", headers=key("one")).status_code == 401


def test_an_error_is_not_kept(app: FastAPI):
    caller = client(app, new_key(app, "enroll"))
    assert caller.post("/v1/try?fail=503", headers=key("one")).status_code == 503
    assert caller.post("/v1/try", headers=key("one")).status_code == 201


def test_a_request_that_still_runs_is_409(app: FastAPI):
    caller = client(app, new_key(app, "enroll"))
    begun, go = asyncio.Event(), asyncio.Event()

    @app.post("/v1/slow")
    async def slow() -> dict[str, bool]:
        begun.set()
        await go.wait()
        return {"done": True}

    async def both() -> list[httpx.Response]:
        first = asyncio.create_task(caller.send("POST", "/v1/slow", headers=key("one")))
        await asyncio.wait_for(begun.wait(), 10)
        second = await caller.send("POST", "/v1/slow", headers=key("one"))
        go.set()
        return [await first, second]

    first, second = asyncio.run(both())
    assert first.json() == {"done": True}
    assert (second.status_code, second.json()["code"]) == (409, "in_progress")
    assert "Retry-After" in second.headers


def test_a_long_request_keeps_its_lease(app: FastAPI):
    app.state.service.answers.lease_seconds = 0.3
    caller = client(app, new_key(app, "enroll"))
    renewed = asyncio.Event()
    renew = app.state.service.answers.renew
    count = []

    def counted(owner: str) -> None:
        renew(owner)
        count.append(owner)

    app.state.service.answers.renew = counted

    @app.post("/v1/slow")
    async def slow() -> dict[str, bool]:
        while len(count) < 5:  # longer than the lease
            await asyncio.sleep(0.01)
        renewed.set()
        answer = await caller.send("POST", "/v1/slow", headers=key("one"))
        return {"done": answer.status_code == 409}

    assert caller.post("/v1/slow", headers=key("one")).json() == {"done": True}
    assert renewed.is_set()


@pytest.mark.parametrize(
    "headers",
    [
        [("Idempotency-Key", "")],
        [("Idempotency-Key", "a" * 201)],
        [("Idempotency-Key", "a b")],
        [("Idempotency-Key", "a"), ("Idempotency-Key", "b")],
    ],
)
def test_an_invalid_key_is_refused(app: FastAPI, headers: list[tuple[str, str]]):
    answer = client(app, new_key(app, "enroll")).post("/v1/try", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


@pytest.mark.parametrize(
    "path", ["/v1/identify", "/v1/identify/batch", "/v1/keys", "/v1/webhooks", "/v1/unknowns/search"]
)
def test_reads_and_answers_with_secrets_are_not_kept(app: FastAPI, path: str):
    client(app, new_key(app, "admin")).post(path, json={"role": "read"}, headers=key("one"))
    assert app.state.service.state.rows("SELECT * FROM answer") == []


def test_a_body_that_is_too_large_is_413(tmp_path: Path):
    app = small_app(tmp_path, max_body=1000)
    answer = client(app, new_key(app, "enroll")).post("/v1/try", content=b"a" * 1001, headers=key("one"))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    app.state.service.close()


def test_an_answer_that_cannot_be_kept_is_still_given(app: FastAPI, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise StateError("disk full")

    monkeypatch.setattr(app.state.service.answers, "finish", full)
    assert client(app, new_key(app, "enroll")).post("/v1/try", headers=key("one")).status_code == 201
    monkeypatch.setattr(app.state.service.answers, "begin", full)
    answer = client(app, new_key(app, "enroll")).post("/v1/try", headers=key("two"))
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")


def test_an_erasure_erases_answers_too(app: FastAPI):
    caller = client(app, new_key(app, "admin"))
    caller.post("/v1/try", headers=key("one"))
    assert caller.post("/v1/try/7/erase").status_code == 200
    answer = caller.post("/v1/try", headers=key("one"))
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    other = client(app, new_key(app, "read"))
    assert other.post("/v1/try/7/erase").status_code == 403


SERVER = """
    import asyncio, socket, sys
    from pathlib import Path
    import uvicorn
    from support.small_service import small_app

    folder, listener = Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
    app = small_app(folder)
    app.state.service.answers.lease_seconds = 1.0

    @app.post("/v1/enroll-slowly")
    async def enroll() -> dict:
        with open(folder / "enrolled", "a") as file:  # what a gallery has acknowledged
            file.write("one\\n")
        while (folder / "hang").exists():
            await asyncio.sleep(0.01)
        return {"enrolled": True}

    uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning")).run(sockets=[listener])
"""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a real server on the folder; yield its process and port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        command = [sys.executable, "-c", textwrap.dedent(SERVER), str(folder), str(listener.fileno())]
        paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        process = subprocess.Popen(command, pass_fds=[listener.fileno()], env={**os.environ, "PYTHONPATH": paths})
    try:
        assert httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=20).status_code == 200
        yield process, port
    finally:
        process.kill()
        process.wait()


def test_a_request_whose_server_was_killed_before_it_answered_can_be_sent_again(tmp_path: Path):
    """The server is killed after the store has acknowledged the change, before the answer is sent."""
    app = small_app(tmp_path)
    text = new_key(app, "enroll")
    app.state.service.close()
    (tmp_path / "hang").touch()
    headers = {"Authorization": f"Bearer {text}", **key("one")}

    def enroll(port: int) -> httpx.Response:
        return httpx.post(f"http://127.0.0.1:{port}/v1/enroll-slowly", headers=headers, content=b"photo", timeout=20)

    with served(tmp_path) as (process, port), ThreadPoolExecutor(1) as pool:
        running = pool.submit(enroll, port)
        deadline = time.monotonic() + 20
        enrolled = tmp_path / "enrolled"
        while not (enrolled.exists() and enrolled.read_text()) and time.monotonic() < deadline:
            time.sleep(0.01)  # the file exists before its text is written
        process.kill()
        with pytest.raises(httpx.RequestError):
            running.result()
    (tmp_path / "hang").unlink()
    with served(tmp_path) as (_, port):
        deadline = time.monotonic() + 20
        while (answer := enroll(port)).status_code == 409 and time.monotonic() < deadline:
            assert answer.json()["code"] == "in_progress"
            time.sleep(0.05)
        assert (answer.status_code, answer.json()) == (200, {"enrolled": True})
        assert enroll(port).headers["Idempotency-Replayed"] == "true"
    assert (tmp_path / "enrolled").read_text() == "one\none\n"


def test_a_kept_answer_survives_a_restart(tmp_path: Path):
    app = small_app(tmp_path)
    text = new_key(app, "enroll")
    headers = {"Authorization": f"Bearer {text}", **key("one")}
    app.state.service.close()
    with served(tmp_path) as (process, port):
        url = f"http://127.0.0.1:{port}/v1/enroll-slowly"
        assert httpx.post(url, headers=headers, timeout=20).status_code == 200
        process.kill()
    with served(tmp_path) as (_, port):
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/enroll-slowly", headers=headers, timeout=20)
        assert answer.headers["Idempotency-Replayed"] == "true"
    assert (tmp_path / "enrolled").read_text() == "one\n"


def test_the_description_names_the_header_where_it_is_supported(app: FastAPI):
    paths = app.openapi()["paths"]
    for path, operations in paths.items():
        for method, operation in operations.items():
            names = [one["name"] for one in operation.get("parameters", [])]
            assert ("Idempotency-Key" in names) == keeps_answers(method.upper(), path), path
            assert "Idempotency-Key" not in names or "409" in operation["responses"]
    assert keeps_answers("POST", "/v1/people/{person_id}/merge")
    assert not keeps_answers("POST", "/v1/identify/batch")
    assert not keeps_answers("PATCH", "/v1/settings")
