"""Model files of other programs: TensorFlow 1 graphs and checkpoints, ONNX, torch weights, zips.

`tf_*` read TensorFlow's files without TensorFlow: begin with `tf_to_onnx`. `onnx_*` read, inspect and change ONNX graphs;
`torch_files` reads weights without running a pickle. `models.opening` recognises the format of a file; to add a format,
write a reader here and a branch there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facespace._lazy import attach

if TYPE_CHECKING:
    from facespace.formats.tf_graph import read_graph as read_graph
    from facespace.formats.tf_tensor_bundle import TensorBundle as TensorBundle
    from facespace.formats.tf_to_onnx import to_onnx as to_onnx
    from facespace.formats.torch_files import read_state_dict as read_state_dict

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "tf_graph": ["read_graph"],
        "tf_tensor_bundle": ["TensorBundle"],
        "tf_to_onnx": ["to_onnx"],
        "torch_files": ["read_state_dict"],
    },
)
