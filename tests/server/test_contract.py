"""The API against its own description: schemathesis sends valid and invalid requests to a running service."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

CONTRACT = Path(__file__).parents[1] / "support" / "contract"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="ends the service by SIGTERM")
pytest.importorskip("schemathesis")


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, hopper_file: Path, collins_file: Path
) -> Iterator[tuple[str, dict[str, str]]]:
    """Return (address, environment for schemathesis) of a service with a key and an enrolled person."""
    folder = tmp_path_factory.mktemp("contract")
    gallery = folder / "people.gallery"
    facespace = [sys.executable, "-m", "facespace"]
    subprocess.run(
        [*facespace, "enroll", "--gallery", str(gallery), "Grace Hopper", str(hopper_file), "--keep-crops"],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    made = subprocess.run(
        [*facespace, "serve", "key", "create", "--role", "admin", "--gallery", str(gallery)],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    key = re.search(r"fsk_([A-Za-z0-9]+)_[A-Za-z0-9_-]{43}", made.stdout)
    assert key, made.stdout
    with (folder / "log").open("w+") as log:
        server = subprocess.Popen(
            [*facespace, "serve", "--gallery", str(gallery), "--port", "0", "--no-page", "--allow-private-webhooks"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert server.stdout is not None
        try:
            found = None
            while found is None:
                line = server.stdout.readline()
                if not line:
                    log.seek(0)
                    pytest.fail(f"the service ended:\n{log.read()[-3000:]}")
                found = re.search(r"http://127\.0\.0\.1:\d+", line)
            photos = os.pathsep.join([str(hopper_file), str(collins_file)])
            more = {"FACESPACE_CONTRACT_KEY": key[1], "FACESPACE_CONTRACT_PHOTOS": photos, "KEY": key[0]}
            yield found[0], {**os.environ, **more, "PYTHONPATH": str(CONTRACT)}
        finally:
            server.terminate()
            code = server.wait(30)
            server.stdout.close()
        assert code == 0, "the service did not end normally"


def readable(output: str) -> str:
    """Return the output of schemathesis without the bytes of photos."""
    lines = ("".join(letter for letter in line if letter.isprintable())[:300] for line in output.splitlines())
    return "\n".join(lines)[-8000:]


@pytest.mark.parametrize(("phases", "seconds"), [("examples,coverage", 24), ("stateful", 10)])
def test_answers_match_the_description(
    phases: str, seconds: int, service: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    address, environment = service
    done = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONTRACT / "schemathesis.toml"),
            "run", f"{address}/v1/openapi.json", "--url", address, "--header", f"Authorization: Bearer {environment['KEY']}",
            "--phases", phases, "--max-time", str(seconds), "--seed", "1", "--max-failures", "5", "--no-shrink",
        ],
        env=environment, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, f"{readable(done.stdout)}\n{done.stderr[-2000:]}"


def test_the_key_of_the_run_is_still_good(service: tuple[str, dict[str, str]]) -> None:
    """Otherwise the tests above would have seen only 401."""
    address, environment = service
    asked = urllib.request.Request(f"{address}/v1/people", headers={"Authorization": f"Bearer {environment['KEY']}"})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        assert answer.status == 200
