"""facespace: photographs in, points on a unit sphere out, the same person close together.

    import facespace

    detector, embedder = facespace.MTCNN(), facespace.Embedder.load()
    image = facespace.read("party.jpg")
    faces = detector.detect(image)
    crops = numpy.stack([facespace.align(image, face, embedder.spec) for face in faces])
    embedder.embed(crops)                                # (number of faces, 512)

Importing loads none of it: a name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Calibration": "calibration",
    "Classifier": "classifier",
    "ClassifierError": "errors",
    "CropRecord": "crop_record",
    "DatasetError": "errors",
    "Embedder": "embedder",
    "Face": "face",
    "FacespaceError": "errors",
    "Gallery": "gallery",
    "GalleryError": "errors",
    "ImageError": "errors",
    "InputSpec": "face",
    "MTCNN": "mtcnn",
    "Match": "gallery",
    "ModelError": "errors",
    "Photo": "pipeline",
    "Prediction": "classifier",
    "RuntimeUnavailable": "errors",
    "UnknownPerson": "errors",
    "VideoError": "errors",
    "align": "face",
    "align_dataset": "aligner",
    "annotate": "draw",
    "cluster": "clustering",
    "evaluate": "verification",
    "find_images": "pipeline",
    "open_dataset": "datasets.opening",
    "process": "pipeline",
    "read": "image",
}

__all__ = [
    "MTCNN",
    "Calibration",
    "Classifier",
    "ClassifierError",
    "CropRecord",
    "DatasetError",
    "Embedder",
    "Face",
    "FacespaceError",
    "Gallery",
    "GalleryError",
    "ImageError",
    "InputSpec",
    "Match",
    "ModelError",
    "Photo",
    "Prediction",
    "RuntimeUnavailable",
    "UnknownPerson",
    "VideoError",
    "__version__",
    "align",
    "align_dataset",
    "annotate",
    "cluster",
    "evaluate",
    "find_images",
    "open_dataset",
    "process",
    "read",
]

if TYPE_CHECKING:
    from facespace.aligner import align_dataset
    from facespace.calibration import Calibration
    from facespace.classifier import Classifier, Prediction
    from facespace.clustering import cluster
    from facespace.crop_record import CropRecord
    from facespace.datasets.opening import open_dataset
    from facespace.draw import annotate
    from facespace.embedder import Embedder
    from facespace.errors import (
        ClassifierError,
        DatasetError,
        FacespaceError,
        GalleryError,
        ImageError,
        ModelError,
        RuntimeUnavailable,
        UnknownPerson,
        VideoError,
    )
    from facespace.face import Face, InputSpec, align
    from facespace.gallery import Gallery, Match
    from facespace.image import read
    from facespace.mtcnn import MTCNN
    from facespace.pipeline import Photo, find_images, process
    from facespace.verification import evaluate


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'facespace' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"facespace.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
