"""Keys, rates and Idempotency-Key with two processes: a change in one takes effect in the other at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from facespace.server.keys import Keys
from facespace.server.state import State
from support.service import Served, served

BURST = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def state(folder: Path) -> Iterator[State]:
    opened = State(folder / "state")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def admin(state: State) -> str:
    return Keys(state).create("admin").text


@pytest.fixture(scope="module")
def service(folder: Path, state: State, admin: str) -> Iterator[Served]:
    options = ("--workers", "2", "--state", str(state.folder), "--rate", "0.001", "--burst", str(BURST))
    with served(folder, *options) as there:
        yield there


def requests(service: Served, n: int, method: str, path: str, key: str, **headers: str) -> list[httpx.Response]:
    """Return the answers to n requests, each over its own connection, so that both workers get some."""

    def one(_: int) -> httpx.Response:
        with service.client(headers={"Authorization": f"Bearer {key}", **headers}, verify=False) as client:
            return client.request(method, path, json={"name": "visitors"} if method == "POST" else None)

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, range(n)))


def test_a_key_is_valid_and_revoked_in_both(service: Served, state: State, admin: str):
    new = Keys(state).create("read")
    assert {answer.status_code for answer in requests(service, 16, "GET", "/v1/caller", new.text)} == {200}
    with service.client(headers={"Authorization": f"Bearer {admin}"}) as client:
        assert client.delete(f"/v1/keys/{new.id}").status_code == 204
    assert {answer.status_code for answer in requests(service, 32, "GET", "/v1/caller", new.text)} == {401}


def test_a_request_sent_to_both_is_carried_out_once(service: Served, state: State, admin: str):
    answers = requests(service, 12, "POST", "/v1/collections", admin, **{"Idempotency-Key": "one"})
    outcomes = [(answer.status_code, answer.json().get("code")) for answer in answers]
    assert set(outcomes) <= {(201, None), (409, "in_progress")}, outcomes
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers if answer.status_code == 201) == 1
    again = requests(service, 8, "POST", "/v1/collections", admin, **{"Idempotency-Key": "one"})
    assert {answer.headers.get("Idempotency-Replayed") for answer in again} == {"true"}
    assert len({answer.text for answer in again}) == 1


def test_both_together_allow_one_burst(service: Served, state: State):
    text = Keys(state).create("identify").text
    statuses = [answer.status_code for answer in requests(service, BURST + 20, "GET", "/v1/caller", text)]
    assert (statuses.count(200), statuses.count(429)) == (BURST, 20)
