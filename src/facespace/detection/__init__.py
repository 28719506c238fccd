"""Where the faces are in an image: box, score, five landmarks.

Begin with `mtcnn.detector.MTCNN`. `nms` is non-maximum suppression, for every detector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facespace._lazy import attach

if TYPE_CHECKING:
    from facespace.detection.mtcnn.detector import MTCNN as MTCNN
    from facespace.detection.nms import non_maximum_suppression as non_maximum_suppression

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "mtcnn.detector": ["MTCNN"],
        "nms": ["non_maximum_suppression"],
    },
)
