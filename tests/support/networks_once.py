"""Loads networks once and computes each input once, for tests of code that uses them.

Commands and services load the same two networks and use the same few photos hundreds of times. The outputs of a network
are cached and returned for equal inputs; tests of `runtime`, `detection` and `embedding` do not use this.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from facespace.defaults import DEFAULT_MODEL
from facespace.detection.yunet import YuNet
from facespace.embedding.embedder import Embedder
from facespace.models.zoo import MODELS
from facespace.runtime.onnx_network import OnnxNetwork

_CHOSEN_BY = ("FACESPACE_RUNTIME", "FACESPACE_PRECISION", "FACESPACE_CORES")
_NETWORKS_OF_YUNET: dict[tuple[Any, ...], OnnxNetwork] = {}
_make_network_of_yunet = YuNet._network
_load, _run, _run_parts = Embedder.load, OnnxNetwork.run, OnnxNetwork.run_parts

Arrays = list[npt.NDArray[np.float32]]


def load_and_compute_once(patch: pytest.MonkeyPatch) -> None:
    """Load named models and YuNet once, and compute equal calls once, until `patch` is undone."""
    patch.setattr(Embedder, "load", _embedder)
    patch.setattr(YuNet, "_network", _network_of_yunet)
    patch.setattr(OnnxNetwork, "run", _run_once)
    patch.setattr(OnnxNetwork, "run_parts", _run_parts_once)


def _embedder(model: Any = DEFAULT_MODEL, **options: Any) -> Embedder:
    if model not in MODELS:  # a file, which the next test may overwrite
        return _load(model, **options)
    return _named_embedder(_chosen(), model, **options)


def _network_of_yunet(detector: YuNet, *, side_by_side: bool) -> OnnxNetwork:
    key = (*_chosen(), detector._device, side_by_side)
    if key not in _NETWORKS_OF_YUNET:
        _NETWORKS_OF_YUNET[key] = _make_network_of_yunet(detector, side_by_side=side_by_side)
    return _NETWORKS_OF_YUNET[key]


def _chosen() -> tuple[str | None, ...]:
    return tuple(os.environ.get(name) for name in _CHOSEN_BY)


@functools.cache
def _named_embedder(chosen: tuple[str | None, ...], model: str, **options: Any) -> Embedder:
    return _load(model, **options)


def _run_once(network: OnnxNetwork, *inputs: npt.NDArray[Any]) -> Arrays:
    return _once(network, "run", inputs, lambda: _run(network, *inputs))


def _run_parts_once(network: OnnxNetwork, parts: Iterable[npt.NDArray[Any]]) -> Arrays:
    parts = list(parts)  # an iterator, which is used twice here
    return _once(network, "run_parts", parts, lambda: _run_parts(network, parts))


def _once(network: OnnxNetwork, call: str, inputs: Sequence[npt.NDArray[Any]], compute: Callable[[], Arrays]) -> Arrays:
    digest = hashlib.blake2b(call.encode())
    for one in inputs:
        digest.update(f"{one.dtype.str} {one.shape} {one.flags.f_contiguous}".encode())
        digest.update(np.ascontiguousarray(one))
    computed: dict[bytes, Arrays] = network.__dict__.setdefault("_computed_in_tests", {})
    key = digest.digest()
    if key not in computed:
        computed[key] = compute()
    return [one.copy() for one in computed[key]]
