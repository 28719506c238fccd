"""Names and shapes of the TensorFlow variables that a network's weights come from."""

from __future__ import annotations

from facespace.backbones.backbone import Backbone
from facespace.backbones.weight_loading import tensorflow_name


def tensorflow_variables(network: Backbone) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every variable that `from_tensorflow` reads for this network: (H,W,I,O) of (O,I,H,W)."""
    shapes = {
        name: tuple(value.shape)
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    return {
        tensorflow_name(network.name, name): (*shape[2:], shape[1], shape[0]) if len(shape) == 4 else shape[::-1]
        for name, shape in shapes.items()
    }
