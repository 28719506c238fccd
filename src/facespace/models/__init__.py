"""Finds a recognition model by name, file or folder, and opens it.

Begin with `opening.open_model`, the only place that decides what a file is. `spec_inference` and `spec_file` find the
input spec of a network whose file does not contain it. `zoo` lists the named models with their licences; `folder` is
the project's own format: `model.json`, `model.onnx`, `model.safetensors`. To add a named model, write a `ModelCard` in
`zoo`; to add a format, write a reader in `formats` and a function in `opening`.
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
    from facespace.models.opening import (
        AssumptionWarning as AssumptionWarning,
        OpenedModel as OpenedModel,
        open_model as open_model,
    )
    from facespace.models.zoo import MODELS as MODELS, ModelCard as ModelCard

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "folder": ["ModelRecord", "read_record", "write_model"],
        "opening": ["AssumptionWarning", "OpenedModel", "open_model"],
        "zoo": ["MODELS", "ModelCard"],
    },
)
