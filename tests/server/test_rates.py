from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi import FastAPI

from facespace.server.access import address_of
from facespace.server.rates import Rates
from support.small_service import client, new_key, small_app


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_bucket_fills_at_its_rate(clock: Clock):
    rates = Rates(2.0, burst=4, clock=clock)
    assert [rates.take("a") for _ in range(6)] == [0, 0, 0, 0, 0.5, 0.5]
    clock.now += 1.0
    assert [rates.take("a") for _ in range(3)] == [0, 0, 0.5]
    clock.now += 1000
    assert [rates.take("a") for _ in range(5)] == [0, 0, 0, 0, 0.5]


def test_over_time_a_caller_gets_the_rate_and_no_more(clock: Clock):
    rates = Rates(10.0, burst=5, clock=clock)
    n_allowed = 0
    for _ in range(10_000):
        clock.now += 0.01
        n_allowed += rates.take("a") == 0
    assert 1000 <= n_allowed <= 1005


def test_callers_do_not_take_from_each_other(clock: Clock):
    rates = Rates(1.0, burst=1, clock=clock)
    assert [rates.take(one) for one in ("a", "b", "a", "b")] == [0, 0, 1, 1]


def test_a_large_cost_is_paid_back(clock: Clock):
    rates = Rates(1.0, burst=2, clock=clock)
    assert rates.take("a", 10) == 0
    assert rates.take("a") == 9
    clock.now += 9
    assert rates.take("a") == 0


def test_without_a_rate_there_is_no_limit():
    rates = Rates(None, burst=1)
    assert {rates.take("a") for _ in range(100)} == {0}


def test_threads_take_no_token_twice(clock: Clock):
    rates = Rates(1.0, burst=1000, clock=clock)
    counts = [0] * 4

    def take(k: int) -> None:
        for _ in range(1000):
            counts[k] += rates.take("a") == 0

    threads = [threading.Thread(target=take, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 1000


@pytest.mark.parametrize(
    ("host", "counted"),
    [("192.0.2.1", "192.0.2.1"), ("2001:db8:0:1::7", "2001:db8:0:1::/64"), ("fe80::1%eth0", "fe80::/64"), ("a", "a")],
)
def test_an_address_and_an_ipv6_network_are_one_caller(host: str, counted: str):
    assert address_of(SimpleNamespace(client=SimpleNamespace(host=host))) == counted


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FastAPI]:
    made = small_app(tmp_path, rate_per_second=0.01, burst=2)
    yield made
    made.state.service.close()


def test_one_key_too_often_is_429_and_another_is_not(app: FastAPI):
    first, second = client(app, new_key(app, "read")), client(app, new_key(app, "read"))
    answers = [first.get("/v1/try") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json()["code"] == "too_many_requests"
    assert 1 <= int(answers[2].headers["Retry-After"]) <= 100
    assert second.get("/v1/try").status_code == 200


def test_wrong_keys_count_for_their_address(app: FastAPI):
    good = client(app, new_key(app, "read"))
    answers = [client(app, f"fsk_{n}").get("/v1/try").status_code for n in range(4)]
    assert answers == [401, 401, 429, 429]
    assert good.get("/v1/try").status_code == 200


def test_callers_of_an_open_service_are_limited_too(app: FastAPI):
    assert [client(app).get("/v1/try").status_code for _ in range(3)] == [200, 200, 429]
