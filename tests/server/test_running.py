"""The service as processes: started, called, ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from facespace.server.running import address, bind, config
from facespace.server.settings import Settings
from support.service import served
from support.waiting import wait_until

JPEG = {"content-type": "image/jpeg"}


def test_it_serves_until_sigterm(tmp_path, hopper_file):
    with served(tmp_path) as service, service.client() as client:
        answer = client.post("/v1/identify", content=hopper_file.read_bytes(), headers=JPEG)
        assert answer.json()["faces"][0]["unknown"] == {"reason": "nobody_enrolled"}
        assert "server" not in answer.headers
        answers: list[int] = []

        def ask() -> None:
            with service.client() as another, suppress(httpx.TransportError):  # some requests come too late
                answers.append(another.post("/v1/identify", content=hopper_file.read_bytes(), headers=JPEG).status_code)

        asking = [threading.Thread(target=ask) for _ in range(6)]
        for one in asking:
            one.start()
        wait_until(
            lambda: "facespace_photos_waiting 0.0" not in client.get("/metrics").text or answers, "nothing waits"
        )
        assert service.end() == 0
        for one in asking:
            one.join()
        assert 200 in answers
        assert set(answers) <= {200, 503}  # accepted requests are finished, and the rest are refused
        assert "Traceback" not in service.log
    assert oct((tmp_path / "people.gallery.service").stat().st_mode)[-3:] == "700"


def test_workers_share_one_gallery_and_end_with_their_parent(tmp_path, hopper_file):
    with served(tmp_path, "--workers", "2") as service:
        children = _children(service.process.pid)
        for _ in range(12):
            with service.client() as client:  # each on its own connection
                assert client.post("/v1/detect", content=hopper_file.read_bytes(), headers=JPEG).status_code == 200
        figures = httpx.get(f"{service.url}/metrics", trust_env=False).text
        assert "facespace_photos_total 12.0" in figures
        service.kill()
        wait_until(lambda: not any(_is_alive(child) for child in children), "workers are left behind")
    with served(tmp_path, "--workers", "2", port=_port(service.url)) as again:
        assert httpx.get(f"{again.url}/readyz", trust_env=False).status_code == 200
        assert again.end() == 0


def test_errors_are_one_line(tmp_path):
    (tmp_path / "broken.gallery").write_bytes(b"no gallery at all" * 100)
    line = _failed(tmp_path, "--gallery", str(tmp_path / "broken.gallery"))
    assert line.count("\n") == 1
    assert "broken.gallery" in line


def test_a_port_that_is_taken(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        line = _failed(tmp_path, "--gallery", str(tmp_path / "g"), "--port", str(taken.getsockname()[1]))
    assert "cannot listen" in line.splitlines()[-1]


def test_other_machines_need_a_key(tmp_path):
    line = _failed(tmp_path, "--gallery", str(tmp_path / "g"), "--host", "0.0.0.0")
    assert "facespace serve key create" in line


def test_a_missing_model_is_reported_without_a_traceback(tmp_path):
    command = [
        sys.executable,
        "-m",
        "facespace",
        "serve",
        "--gallery",
        "new.gallery",
        "--port",
        "0",
        "--model",
        "none.onnx",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode != 0
    assert "none.onnx: neither a model's name" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_the_address_has_the_real_port(host, shown):
    settings = Settings("x", host=host, port=0, root_path="/faces")
    try:
        listener = bind(settings)
    except OSError:
        pytest.skip("this machine has no such address")
    with listener:
        port = listener.getsockname()[1]
        assert port
        assert address(settings, listener) == f"http://{shown}:{port}/faces/"


def test_forwarded_headers_are_trusted_only_from_named_proxies():
    assert not config(Settings("x")).proxy_headers
    options = config(Settings("x", forwarded_from=("10.0.0.1",)))
    assert options.proxy_headers
    assert options.forwarded_allow_ips == ["10.0.0.1"]


def _failed(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "facespace", "serve", *arguments], capture_output=True, text=True, timeout=60, cwd=folder
    )
    assert done.returncode == 1, done.stderr
    return "".join(line for line in done.stderr.splitlines(keepends=True) if "everyone on this machine" not in line)


def _children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(line) for line in found.split()]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])
