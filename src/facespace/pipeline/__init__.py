"""From photos to faces and embeddings.

Begin with `analyzer.FaceAnalyzer`. `photos.process` streams any number of photos; `face_batches` finds and embeds the
faces of a few photos or video frames at once. `second_look` searches again where no face was found, and `rotations`
turns photos upright. `enrolling` adds photos to a gallery, `people` reads folders of labelled people, and
`sample_crops` takes a few crops to measure a network on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facespace._lazy import attach

if TYPE_CHECKING:
    from facespace.pipeline.analyzer import (
        AnalyzedFace as AnalyzedFace,
        FaceAnalyzer as FaceAnalyzer,
        Verdict as Verdict,
        verify as verify,
    )
    from facespace.pipeline.people import read_people as read_people
    from facespace.pipeline.photos import Photo as Photo, find_images as find_images, process as process

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "analyzer": ["AnalyzedFace", "FaceAnalyzer", "Verdict", "verify"],
        "people": ["read_people"],
        "photos": ["Photo", "find_images", "process"],
    },
)
