"""A recognition model that was opened: what it was trained to see, and its network as ONNX or for torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from facespace.errors import ModelError
from facespace.faces.input_spec import InputSpec

if TYPE_CHECKING:
    from facespace.backbones.backbone import Backbone
    from facespace.models.folder import ModelRecord
    from facespace.models.zoo import ModelCard


class AssumptionWarning(UserWarning):
    """A model's file does not say what the network was trained to see, and a default was taken."""


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """What `open_model` found.

    `source` is its file, folder or checkpoint prefix, `format` the kind of file in words. `spec` says what the network
    was trained to see, `spec_reason` where that was read, and `assumption` is a line for the user where the file does not
    say it and a default was taken, else empty. `fingerprint` is the SHA-256 that galleries know the weights by. `remarks`
    are all lines for the user, the assumption among them. `record` is a model folder's, `card` a named model's.

    `read_onnx` reads the network as an ONNX file of preprocessed images, `read_backbone` as a network of torch, and
    `read_folded` the names of the variables that batch norms were folded into. Each is None where the format has no such
    thing.
    """

    name: str
    source: str
    format: str
    spec: InputSpec
    fingerprint: str
    spec_reason: str = ""
    assumption: str = ""
    remarks: tuple[str, ...] = ()
    record: ModelRecord | None = None
    card: ModelCard | None = None
    read_onnx: Callable[[], bytes] | None = None
    read_backbone: Callable[[], Backbone] | None = None
    read_folded: Callable[[], set[str]] | None = field(default=None, repr=False)

    def backbone(self) -> Backbone:
        """The network for torch; `ModelError` where the format has none, or `backbones` does not have that network."""
        if self.read_backbone is not None:
            return self.read_backbone()
        if self.record is not None:
            raise ModelError(
                f"{self.source}: holds no model.safetensors that torch could compute with; convert its source again "
                "with the extra `train` installed"
            )
        raise ModelError(f"{self.source}: an ONNX model runs on the processor only, and is not trained further")

    def folded_batch_norms(self, backbone: Backbone) -> list[str]:
        """The batch norms of `backbone` whose statistics are lost, because they were folded into the weights."""
        if self.read_folded is None:
            return []
        from facespace.backbones.weight_loading import norms_of_scopes

        return norms_of_scopes(backbone, self.read_folded())
