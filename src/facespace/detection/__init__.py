"""Face detectors: they find the box, score and five landmarks of each face in an image.

Begin with `protocol.Detector` and `factory.create_detector`. To add a detector, write a module here with a class that
satisfies `Detector`, and add its name to `factory.DETECTORS`; the protocol's tests then include it. `nms` is
non-maximum suppression, for all detectors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facespace._lazy import attach

if TYPE_CHECKING:
    from facespace.detection.factory import create_detector as create_detector
    from facespace.detection.mtcnn.detector import MTCNN as MTCNN
    from facespace.detection.nms import non_maximum_suppression as non_maximum_suppression
    from facespace.detection.protocol import Detector as Detector
    from facespace.detection.yunet import YuNet as YuNet

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "factory": ["create_detector"],
        "mtcnn.detector": ["MTCNN"],
        "nms": ["non_maximum_suppression"],
        "protocol": ["Detector"],
        "yunet": ["YuNet"],
    },
)
