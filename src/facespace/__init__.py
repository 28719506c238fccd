"""facespace: photographs in, points on a unit sphere out, the same person close together.

    import facespace

    analyzer = facespace.FaceAnalyzer()                  # a detector and an embedder
    faces = analyzer("party.jpg")                        # each has box, score, landmarks, crop, embedding
    facespace.verify("a.jpg", "b.jpg")                   # similarity, threshold, same

    with facespace.Gallery("people.gallery", analyzer.embedder, create=True) as gallery:
        analyzer.enroll(gallery, "Ada", "ada.jpg")
        gallery.identify([face.embedding for face in faces])

Importing the package loads no submodule: each name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facespace._lazy import attach

if TYPE_CHECKING:
    from facespace._version import __version__ as __version__
    from facespace.alignment.aligner import align_dataset as align_dataset
    from facespace.client.client import Client as Client
    from facespace.clustering.algorithms import cluster as cluster
    from facespace.datasets.opening import open_dataset as open_dataset
    from facespace.detection.factory import create_detector as create_detector
    from facespace.detection.mtcnn.detector import MTCNN as MTCNN
    from facespace.detection.protocol import Detector as Detector
    from facespace.embedding.calibration import Calibration as Calibration
    from facespace.embedding.embedder import Embedder as Embedder
    from facespace.errors import (
        ClassifierError as ClassifierError,
        DatasetError as DatasetError,
        FacespaceError as FacespaceError,
        GalleryError as GalleryError,
        ImageError as ImageError,
        ModelError as ModelError,
        RuntimeUnavailable as RuntimeUnavailable,
        ServiceError as ServiceError,
        UnknownPerson as UnknownPerson,
        VideoError as VideoError,
    )
    from facespace.faces.alignment import align as align
    from facespace.faces.crops import CropRecord as CropRecord
    from facespace.faces.drawing import annotate as annotate
    from facespace.faces.face import Face as Face
    from facespace.faces.input_spec import InputSpec as InputSpec
    from facespace.identification.classifier import Classifier as Classifier, Prediction as Prediction
    from facespace.identification.gallery import Gallery as Gallery
    from facespace.identification.matching import Match as Match
    from facespace.io.image import read as read
    from facespace.metrics.verification import evaluate as evaluate
    from facespace.models.opening import AssumptionWarning as AssumptionWarning, open_model as open_model
    from facespace.pipeline.analyzer import AnalyzedFace as AnalyzedFace, FaceAnalyzer as FaceAnalyzer, verify as verify
    from facespace.pipeline.photos import Photo as Photo, find_images as find_images, process as process

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "_version": ["__version__"],
        "alignment.aligner": ["align_dataset"],
        "client.client": ["Client"],
        "clustering.algorithms": ["cluster"],
        "datasets.opening": ["open_dataset"],
        "detection.factory": ["create_detector"],
        "detection.mtcnn.detector": ["MTCNN"],
        "detection.protocol": ["Detector"],
        "embedding.calibration": ["Calibration"],
        "embedding.embedder": ["Embedder"],
        "errors": [
            "ClassifierError",
            "DatasetError",
            "FacespaceError",
            "GalleryError",
            "ImageError",
            "ModelError",
            "RuntimeUnavailable",
            "ServiceError",
            "UnknownPerson",
            "VideoError",
        ],
        "faces.alignment": ["align"],
        "faces.crops": ["CropRecord"],
        "faces.drawing": ["annotate"],
        "faces.face": ["Face"],
        "faces.input_spec": ["InputSpec"],
        "identification.classifier": ["Classifier", "Prediction"],
        "identification.gallery": ["Gallery"],
        "identification.matching": ["Match"],
        "io.image": ["read"],
        "metrics.verification": ["evaluate"],
        "models.opening": ["AssumptionWarning", "open_model"],
        "pipeline.analyzer": ["AnalyzedFace", "FaceAnalyzer", "verify"],
        "pipeline.photos": ["Photo", "find_images", "process"],
    },
)
