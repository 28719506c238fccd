"""Export of backbones to ONNX, by torch's own exporter."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import TYPE_CHECKING, Any

from facespace.errors import RuntimeUnavailable

if TYPE_CHECKING:
    from facespace.backbones.backbone import Backbone


def backbone_to_onnx(backbone: Backbone, size: int) -> bytes:
    """Return an ONNX file of the network for inference: `images` (N,3,size,size) float32 to `features` (N,D), any N.

    Raises `RuntimeUnavailable` if onnx or onnxscript, which torch's exporter requires, is not installed.
    """
    import torch

    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise RuntimeUnavailable(f"writing ONNX needs {error.name}; pip install 'facespace[train]'") from None
    training = backbone.training
    backbone.eval()
    images = torch.zeros(2, 3, size, size)
    buffer = io.BytesIO()
    quiet: Any = contextlib.redirect_stdout(io.StringIO())  # the exporter prints its progress
    with warnings.catch_warnings(), quiet, _silenced("torch.onnx", "onnxscript"):
        warnings.simplefilter("ignore")  # they concern the exporter's internals; the parity check verifies its output
        program = torch.onnx.export(
            backbone,
            (images,),
            input_names=["images"],
            output_names=["features"],
            dynamic_shapes=({0: torch.export.Dim("n")},),
            dynamo=True,
        )
        assert program is not None
        save: Any = program.save  # it also takes an open file, which its annotation lacks
        save(buffer)
    backbone.train(training)
    return buffer.getvalue()


@contextlib.contextmanager
def _silenced(*names: str) -> Any:
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.level, logger.disabled) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, (level, disabled) in zip(loggers, before, strict=True):
            logger.setLevel(level)
            logger.disabled = disabled
