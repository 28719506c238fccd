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


def test_current_settings_are_returned(client: TestClient):
    answer = client.get("/v1/settings")
    assert answer.status_code == 200, answer.text
    reply = answer.json()
    assert (reply["collection"], reply["open"], reply["rate"], reply["rate_from"]) == ("default", True, 0.01, "default")
    assert reply["model"]["name"] == "sface"
    assert all(reply["model"].values())
    assert reply["limits"]["max_photos"] == 7
    assert reply["storage"]["gallery"] == (Path(service_behind(client).settings.gallery)).stat().st_size
    assert reply["storage"]["state"] > 0
    assert reply["calibration"]["own"] is None
    assert "photos" in reply["calibration"]["measured_on"]


def test_the_curves_rise_as_fewer_strangers_may_be_named(client: TestClient):
    reply = client.get("/v1/settings").json()
    for curve, name in ((reply["calibration"]["points"], "fmr"), (reply["calibration"]["strangers"], "rate")):
        assert len(curve) >= 15
        rates, thresholds = [point[name] for point in curve], [point["threshold"] for point in curve]
        assert rates == sorted(rates)
        assert thresholds == sorted(thresholds, reverse=True)
        assert thresholds[0] > thresholds[-1]
    at = {point["rate"]: point["threshold"] for point in reply["calibration"]["strangers"]}
    assert reply["threshold"] == at[0.01]
    (collection,) = client.get("/v1/collections").json()["collections"]
    assert reply["threshold"] == collection["threshold"], "both routes give the same threshold"


def test_a_change_takes_effect_and_is_recorded(client: TestClient):
    before = client.get("/v1/settings").json()
    change = {"rate": 0.001, "retention_days": 90, "unknowns_days": 7, "keep_crops": False}
    answer = client.patch("/v1/settings", json=change)
    assert answer.status_code == 200, answer.text
    reply = client.get("/v1/settings").json()
    assert reply == answer.json() | {"storage": reply["storage"]}
    assert {name: reply[name] for name in change} == change
    assert reply["rate_from"] == "setting"
    assert reply["threshold"] > before["threshold"]
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
    assert back["keep_crops"] is False  # settings that were not given stay unchanged


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


def test_a_missing_collection_is_404(client: TestClient):
    for method, path in (("GET", "/v1/settings"), ("PATCH", "/v1/settings"), ("GET", "/v1/check")):
        answer = client.request(method, f"{path}?collection=missing", json={} if method == "PATCH" else None)
        assert (answer.status_code, answer.json()["code"]) == (404, "no_such_collection")


def test_a_check_finds_one_photo_under_two_names(client: TestClient):
    assert client.get("/v1/check").json() == {"collection": "default", "n_people": 0, "findings": [], "complete": True}
    gallery = service_behind(client).galleries.create("twice")
    for name, k in (("Ada", 0), ("Ben", 1)):
        gallery.store.add(name, Entry(np.eye(128, dtype=np.float32)[k], "0" * 64, "a.jpg", "cpu"))
    reply = client.get("/v1/check?collection=twice").json()
    assert (reply["n_people"], reply["complete"]) == (2, True)
    (found,) = reply["findings"]
    assert (found["kind"], sorted(found["people"])) == ("same photo", ["Ada", "Ben"])
