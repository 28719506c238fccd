"""Backbones in torch: networks from images to features, created by name and trained or loaded from published weights.

Begin with `backbone.Backbone` and `registry.create`. To add a network, write one file in this folder with a subclass of
`Backbone` under `@register("its-name")`; the contract tests find it through the registry. `weight_loading` recognises
weights of other programs by their content, `onnx_export` writes a backbone as ONNX.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facespace._lazy import attach

if TYPE_CHECKING:
    from facespace.backbones.backbone import Backbone as Backbone
    from facespace.backbones.registry import (
        create as create,
        known as known,
        register as register,
        skeleton as skeleton,
    )

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "backbone": ["Backbone"],
        "registry": ["create", "known", "register", "skeleton"],
    },
)
