"""Networks from images to features, in torch: built by name, filled by training or from published weights.

A new network is one file in this folder: a subclass of `Backbone` under `@register("its-name")`. Nothing else has to
know it; the tests of the contract find it by themselves.
"""

from facespace.backbones.backbone import Backbone
from facespace.backbones.registry import create, known, register, skeleton

__all__ = ["Backbone", "create", "known", "register", "skeleton"]
