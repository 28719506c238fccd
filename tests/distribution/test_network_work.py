"""The base of works that embed: a worker loads its model once, the model is checked, the archive has its name."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from facespace.distribution import network_work
from facespace.distribution.network_work import NetworkWork
from facespace.embedding.embedder import Embedder
from facespace.errors import ModelError

LOADED: list[tuple[str, str]] = []


@pytest.fixture(autouse=True)
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stub embedder whose loads are counted; its fingerprint is the model's reversed name."""

    def load(model: str, *, device: str) -> SimpleNamespace:
        LOADED.append((model, device))
        return SimpleNamespace(fingerprint=model[::-1], detector="yunet")

    LOADED.clear()
    network_work._load.cache_clear()
    monkeypatch.setattr(Embedder, "load", load)
    monkeypatch.setattr(network_work, "create_detector", lambda name, **options: (name, options))


def test_networks_are_loaded_once_a_worker() -> None:
    work = NetworkWork(model="abc", fingerprint="cba", device="cpu")
    first, second = work.networks(20), work.networks(20)
    assert first[0] is second[0]
    assert first[1] == ("yunet", {"min_size": 20})
    assert LOADED == [("abc", "cpu")]
    assert work.networks()[1] == ("yunet", {})
    assert len(LOADED) == 2


def test_another_model_by_that_name_is_refused() -> None:
    work = NetworkWork(model="abc", fingerprint="other", device="cpu")
    with pytest.raises(
        ModelError, match=r"^abc: a worker has a different model than the machine where the command was started$"
    ):
        work.networks()


@pytest.mark.parametrize(("device", "gpu"), [("auto", False), ("cpu", False), ("cuda", True), ("mps", False)])
def test_only_cuda_needs_a_gpu_of_the_cluster(device: network_work.Device, gpu: bool) -> None:
    assert NetworkWork(model="", fingerprint="", device=device).gpu is gpu
