"""Finding a recognition model by name, file or folder, and opening it.

Begin with `opening`. `zoo` lists the named models with their licences; `folder` is the project's own format of a model:
`model.json`, `model.onnx`, `model.safetensors`. To add a named model, write a `ModelCard` in `zoo`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facespace._lazy import attach

if TYPE_CHECKING:
    from facespace.models.folder import (
        ModelRecord as ModelRecord,
        read_record as read_record,
        write_model as write_model,
    )
    from facespace.models.zoo import MODELS as MODELS, ModelCard as ModelCard

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "folder": ["ModelRecord", "read_record", "write_model"],
        "zoo": ["MODELS", "ModelCard"],
    },
)
