"""What several tests share: the research data beside the clone, pictures that packages carry, loaded networks."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import numpy as np
import pytest

import facespace

SHARED = Path(os.environ.get("FACESPACE_SHARED", Path(__file__).parents[2] / "shared"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `shared` are skipped where the data is absent; under CI that is a failure instead."""
    if (SHARED / "golden").is_dir():
        return
    for item in items:
        if item.get_closest_marker("shared"):
            if os.environ.get("CI") == "true":
                item.add_marker(pytest.mark.usefixtures("shared_data_missing"))
            else:
                item.add_marker(pytest.mark.skip(reason=f"no research data at {SHARED}"))


@pytest.fixture
def shared_data_missing() -> None:
    pytest.fail(f"CI runs with the research data, but there is none at {SHARED}")


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
    """No face, says the detector."""
    return _sample("scikit-image", "chelsea.png")


@pytest.fixture(scope="session")
def hopper(hopper_file: Path) -> np.ndarray:
    return facespace.read(hopper_file)


@pytest.fixture(scope="session")
def detector() -> facespace.MTCNN:
    return facespace.MTCNN()


@pytest.fixture(scope="session")
def embedder() -> facespace.Embedder:
    """The default model in float32: what tests compare with numbers."""
    return facespace.Embedder.load(precision="float32")
