"""The public surface, in full."""

from __future__ import annotations

import subprocess
import sys

import pytest

import facespace

PUBLIC = [
    "AnalyzedFace",
    "AssumptionWarning",
    "Calibration",
    "Classifier",
    "ClassifierError",
    "Client",
    "CropRecord",
    "DatasetError",
    "Detector",
    "Embedder",
    "Face",
    "FaceAnalyzer",
    "FacespaceError",
    "Gallery",
    "GalleryError",
    "ImageError",
    "InputSpec",
    "MTCNN",
    "Match",
    "ModelError",
    "Photo",
    "Prediction",
    "RuntimeUnavailable",
    "ServiceError",
    "UnknownPerson",
    "VideoError",
    "__version__",
    "align",
    "align_dataset",
    "annotate",
    "cluster",
    "create_detector",
    "evaluate",
    "find_images",
    "open_dataset",
    "open_model",
    "process",
    "read",
    "verify",
]


def test_the_surface_is_this_list():
    assert sorted(facespace.__all__) == sorted(PUBLIC)
    assert sorted(dir(facespace)) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_name_can_be_imported(name):
    value = getattr(facespace, name)
    if name != "__version__":
        assert value.__name__ == name
        assert value.__module__.startswith("facespace.")
        assert value.__doc__


def test_a_star_import_imports_all_names():
    names: dict[str, object] = {}
    exec("from facespace import *", names)
    assert set(PUBLIC) <= set(names)


@pytest.mark.parametrize("name", ["detector", "_private", "load_model", "numpy", ""])
def test_other_names_are_an_attribute_error(name):
    with pytest.raises(AttributeError, match=f"module 'facespace' has no attribute {name!r}"):
        getattr(facespace, name)
    assert not hasattr(facespace, name)


def test_importing_loads_nothing_else():
    code = """
import sys
before = set(sys.modules)
import facespace
new = {name for name in set(sys.modules) - before if name.startswith(("facespace", "numpy", "PIL", "onnxruntime"))}
assert new == {"facespace", "facespace._lazy"}, new
facespace.Face
assert "onnxruntime" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_help_shows_the_public_names():
    done = subprocess.run(
        [sys.executable, "-c", "import facespace; help(facespace)"],
        check=True,
        timeout=120,
        capture_output=True,
        text=True,
    )
    for name in PUBLIC:
        if name != "__version__":
            assert name in done.stdout
    assert "attach" not in done.stdout and "TYPE_CHECKING" not in done.stdout
