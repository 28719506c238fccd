from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from facespace.identification.stores.protocol import Entry
from support.service import running_service, service_behind


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with running_service(tmp_path_factory.mktemp("settings"), max_photos=7) as client:
        yield client


def test_what_holds_is_told(client: TestClient):
    answer = client.get("/v1/settings")
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["collection"], told["open"], told["rate"], told["rate_from"]) == ("default", True, 0.01, "default")
    assert told["model"]["name"] == "sface"
    assert all(told["model"].values())
    assert told["limits"]["max_photos"] == 7
    assert told["storage"]["gallery"] == (Path(service_behind(client).settings.gallery)).stat().st_size
    assert told["storage"]["state"] > 0
    assert told["calibration"]["own"] is None
    assert "photos" in told["calibration"]["measured_on"]


def test_the_curves_rise_as_fewer_strangers_may_be_named(client: TestClient):
    told = client.get("/v1/settings").json()
    for curve, name in ((told["calibration"]["points"], "fmr"), (told["calibration"]["strangers"], "rate")):
        assert len(curve) >= 15
        rates, thresholds = [point[name] for point in curve], [point["threshold"] for point in curve]
        assert rates == sorted(rates)
        assert thresholds == sorted(thresholds, reverse=True)
        assert thresholds[0] > thresholds[-1]
    at = {point["rate"]: point["threshold"] for point in told["calibration"]["strangers"]}
    assert told["threshold"] == at[0.01]
    (collection,) = client.get("/v1/collections").json()["collections"]
    assert told["threshold"] == collection["threshold"], "two places, one threshold"


def test_what_is_chosen_holds_and_is_recorded(client: TestClient):
    before = client.get("/v1/settings").json()
    change = {"rate": 0.001, "retention_days": 90, "unknowns_days": 7, "keep_crops": False}
    answer = client.patch("/v1/settings", json=change)
    assert answer.status_code == 200, answer.text
    told = client.get("/v1/settings").json()
    assert told == answer.json() | {"storage": told["storage"]}
    assert {name: told[name] for name in change} == change
    assert told["rate_from"] == "setting"
    assert told["threshold"] > before["threshold"]
    assert service_behind(client).galleries.get().store.setting("retention_days") == 90
    entry = client.get("/v1/audit").json()["entries"][0]
    assert (entry["action"], entry["details"], entry["collection"]) == ("change_settings", change, "default")
    back = client.patch("/v1/settings", json={"rate": None, "retention_days": None, "unknowns_days": 0}).json()
    assert (back["rate"], back["rate_from"], back["retention_days"], back["unknowns_days"]) == (
        0.01,
        "default",
        None,
        None,
    )
    assert back["keep_crops"] is False  # what was not named stays


@pytest.mark.parametrize(
    "body",
    [
        {"rate": 0},
        {"rate": 1},
        {"rate": "x"},
        {"retention_days": -1},
        {"unknowns_days": 40_000},
        {"keep_crops": None},
        {"more": 1},
        [],
    ],
)
def test_a_value_out_of_range_is_422(client: TestClient, body: object):
    before = client.get("/v1/settings").json()
    answer = client.patch("/v1/settings", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert client.get("/v1/settings").json() == before | {"storage": client.get("/v1/settings").json()["storage"]}


def test_a_collection_that_is_not_there_is_404(client: TestClient):
    for method, path in (("GET", "/v1/settings"), ("PATCH", "/v1/settings"), ("GET", "/v1/check")):
        answer = client.request(method, f"{path}?collection=nobody", json={} if method == "PATCH" else None)
        assert (answer.status_code, answer.json()["code"]) == (404, "no_such_collection")


def test_a_check_finds_one_photo_under_two_names(client: TestClient):
    assert client.get("/v1/check").json() == {"collection": "default", "n_people": 0, "findings": [], "complete": True}
    gallery = service_behind(client).galleries.create("twice")
    for name, k in (("Ada", 0), ("Ben", 1)):
        gallery.store.add(name, Entry(np.eye(128, dtype=np.float32)[k], "0" * 64, "a.jpg", "cpu"))
    told = client.get("/v1/check?collection=twice").json()
    assert (told["n_people"], told["complete"]) == (2, True)
    (found,) = told["findings"]
    assert (found["kind"], sorted(found["people"])) == ("same photo", ["Ada", "Ben"])
