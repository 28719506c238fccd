"""Shared fixtures: the research data next to the clone, pictures from packages, loaded networks."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import facespace
from support.commands import Outcome
from support.postgres_fixture import postgres as postgres
from support.real_service import client as client, service as service

# Keep optimised networks out of the user's home; the processes of one test run share them.
_HOME = None if "FACESPACE_HOME" in os.environ else tempfile.mkdtemp(prefix="facespace-tests-")
os.environ.setdefault("FACESPACE_HOME", _HOME or "")

collect_ignore = ["support/contract/hooks.py"]  # a plugin for schemathesis, which loads it

SHARED = Path(os.environ.get("FACESPACE_SHARED", Path(__file__).parents[2] / "shared"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `shared` if the data is absent; under CI that is a failure instead."""
    if (SHARED / "golden").is_dir():
        return
    for item in items:
        if item.get_closest_marker("shared"):
            if os.environ.get("CI") == "true":
                item.add_marker(pytest.mark.usefixtures("shared_data_missing"))
            else:
                item.add_marker(pytest.mark.skip(reason=f"no research data at {SHARED}"))


def pytest_unconfigure() -> None:
    if _HOME:
        shutil.rmtree(_HOME, ignore_errors=True)


def pytest_collection_finish() -> None:
    """Limit torch to one thread: tests run in parallel, and waiting threads cost most then.

    The modules and tests collected so far live until the end, so exclude them from garbage collection.
    """
    gc.freeze()
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture
def shared_data_missing() -> None:
    pytest.fail(f"CI needs the research data, but it is missing at {SHARED}")


@pytest.fixture(scope="session")
def shared() -> Path:
    return SHARED


def _sample(package: str, name: str) -> Path:
    for file in importlib.metadata.distribution(package).files or []:
        if file.name == name:
            return Path(str(file.locate()))
    raise FileNotFoundError(name)


@pytest.fixture(scope="session")
def hopper_file() -> Path:
    """Grace Hopper, one face, 600 x 512 JPEG."""
    return _sample("matplotlib", "grace_hopper.jpg")


@pytest.fixture(scope="session")
def collins_file() -> Path:
    """Eileen Collins, one face, 512 x 512 PNG."""
    return _sample("scikit-image", "astronaut.png")


@pytest.fixture(scope="session")
def stranger_file() -> Path:
    """A photographer, one face, gray."""
    return _sample("scikit-image", "camera.png")


@pytest.fixture(scope="session")
def cat_file() -> Path:
    """A cat: no face according to the detector."""
    return _sample("scikit-image", "chelsea.png")


@pytest.fixture(scope="session")
def hopper(hopper_file: Path) -> np.ndarray:
    return facespace.read(hopper_file)


@pytest.fixture(scope="session")
def detector() -> facespace.MTCNN:
    return facespace.MTCNN()


@pytest.fixture(scope="session")
def embedder() -> facespace.Embedder:
    """The default model in float32, for comparisons with fixed numbers."""
    return facespace.Embedder.load("casia-webface", precision="float32")


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    detector: facespace.MTCNN,
    embedder: facespace.Embedder,
) -> Callable[..., Outcome]:
    """The command `facespace` run in this process through `main`, with networks that are already loaded."""
    from facespace.cli.main import main
    from support.networks_once import load_and_compute_once

    load_and_compute_once(monkeypatch)
    monkeypatch.delenv("FACESPACE_GALLERY", raising=False)
    load = facespace.Embedder.load

    def detector_with(*, min_size: float = 20.0, device: str = "auto") -> facespace.MTCNN:
        usual = min_size == 20.0 and device == "auto"
        return detector if usual else type(detector)(min_size=min_size, device=device)

    def load_once(model: str, **options: Any) -> facespace.Embedder:
        usual = model == embedder.name and options.get("device", "auto") == "auto"
        return embedder if usual else load(model, **options)

    monkeypatch.setattr("facespace.detection.mtcnn.detector.MTCNN", detector_with)
    monkeypatch.setattr("facespace.embedding.embedder.Embedder.load", load_once)

    def run(*arguments: str | os.PathLike[str]) -> Outcome:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["facespace", *map(os.fspath, arguments)])
        code = 0
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run
