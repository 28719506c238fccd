"""Exports models as ONNX files for other programs (uint8 crops in, unit embeddings out), and checks the result."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from facespace._version import __version__
from facespace.embedding.embedder import Embedder
from facespace.errors import ModelError, RuntimeUnavailable
from facespace.faces.input_spec import InputSpec
from facespace.formats.onnx_model import HALF, parse_model
from facespace.formats.onnx_normalization import with_batch_of_one
from facespace.formats.onnx_preprocessing import with_preprocessing
from facespace.io.files import write_together
from facespace.io.text import first_line
from facespace.models.opening import open_model
from facespace.pipeline.sample_crops import sample_crops
from facespace.runtime.onnx_network import OnnxNetwork

Precision = Literal["fp32", "fp16", "int8"]

# The least cosine between embeddings of the source and of the exported file, over all crops tried.
LEAST_COSINE: dict[str, float] = {"fp32": 0.99999, "fp16": 0.9999, "int8": 0.97}
N_CALIBRATION = 128
N_PARITY = 64
_BATCH = 8
_PER_CHANNEL = 13  # first ONNX operator set with int8 weights scaled per channel


@dataclass(frozen=True, slots=True)
class Exported:
    """The result of an export: the file, its size, and how well its embeddings agree with those of the source model.

    `cosine` is the lowest cosine between the two embeddings of a crop, among `n_crops` crops. `batch` is the number of
    crops that the file takes at a time, None for any number. `remarks` are lines for the user about the source model.
    """

    path: Path
    n_bytes: int
    cosine: float
    n_crops: int
    embedder: Embedder
    batch: int | None = None
    remarks: tuple[str, ...] = ()


def export(
    model: str | PathLike[str], out: Path, *, precision: Precision = "fp32", crops: Path | None = None
) -> Exported:
    """Write a model as one ONNX file with its preprocessing inside, and a JSON file next to it that describes it.

    The file's input is `crops` (N,S,S,3) uint8 RGB from `align`, and its output is `embeddings` (N,D) float32 of length
    1. N is free or fixed, as in the model's graph; the JSON file says which. The weights are float32 (`fp32`), float16
    (`fp16`: half the size, for GPUs), or int8 (`int8`: a quarter of the size). `int8` needs a folder of aligned
    `crops`, on which it measures the ranges of activations.

    The embeddings of the file and of the model are compared on other crops of that folder, or on noise if there is
    none. If their cosine is below `LEAST_COSINE`, nothing is written, and `ModelError` reports the cosine.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
    if out.suffix.lower() != ".onnx":
        raise ModelError(f"{out}: the name must end in .onnx")
    for path in (out, out.with_suffix(".json")):
        if path.exists():
            raise ModelError(f"{path}: already exists; give another name or remove it first")
    if precision == "int8" and crops is None:
        raise ModelError("int8 needs aligned crops of real faces to measure ranges on: --crops DIR")
    source = open_model(model)
    spec = source.spec
    if source.read_onnx is not None:
        data = source.read_onnx()
    else:
        from facespace.backbones.onnx_export import backbone_to_onnx

        data = backbone_to_onnx(source.backbone(), spec.size)
    if crops is None:
        probe = np.random.default_rng(0).integers(0, 256, (N_PARITY, spec.size, spec.size, 3), dtype=np.uint8)
        calibration = probe
    else:
        # Every third crop checks the result; ranges are measured on the remaining crops.
        sample = sample_crops(crops, spec, N_CALIBRATION + N_PARITY)
        probe, calibration = sample[1::3], np.delete(sample, np.s_[1::3], axis=0)
        if len(sample) < 16:
            raise ModelError(f"{crops}: int8 needs at least 16 crops of different people, got {len(sample)}")
    original = _embedder(data, spec, source.name)
    if not original.try_batch():
        data = with_batch_of_one(data, source=source.source)
    expected = original.embed(probe)
    if precision == "fp16":
        data = _half(data, source.name)
    elif precision == "int8":
        data = _int8(data, spec, source.name, calibration)
    whole = with_preprocessing(data, spec, source=source.source, unit=True)
    made = _embedder(whole, spec, source.name)
    found = made.embed(probe)
    if found.shape != expected.shape:
        raise ModelError(
            f"{source.name} as {precision}: embeddings must be {expected.shape}, got {found.shape}; nothing was written"
        )
    cosine = float((found * expected).sum(axis=1).min())
    if not cosine >= LEAST_COSINE[precision]:
        raise ModelError(
            f"{source.name} as {precision}: the cosine to its source must be at least {LEAST_COSINE[precision]}, "
            f"got {cosine:.6f}; nothing was written"
        )
    n = made.batch or "N"
    about: dict[str, Any] = {
        "name": source.name,
        "input_spec": spec.as_dict(),
        "input": f"crops ({n},S,S,3) uint8 RGB; the preprocessing is inside",
        "output": f"embeddings ({n},D) float32 of length 1",
        "batch": made.batch,
        "precision": precision,
        "parity": {"least_cosine": cosine, "n_crops": len(probe), "crops": "noise" if crops is None else "given"},
        "source": {"fingerprint": source.fingerprint},
        "revision": f"facespace {__version__}",
    }
    # write_together puts the description, its last file, in place first: a model without one cannot be used.
    write_together({out: whole, out.with_suffix(".json"): json.dumps(about, indent=1) + "\n"})
    embedder = Embedder.load(out, precision="float32")
    collapsed = [remark for remark in [original.collapse_remark()] if remark]
    return Exported(out, len(whole), cosine, len(probe), embedder, made.batch, (*source.remarks, *collapsed))


def _embedder(data: bytes, spec: InputSpec, name: str) -> Embedder:
    network = OnnxNetwork(data, source=name, precision="float32")
    return Embedder(network, name=name, spec=spec, fingerprint="", source=name)


def _half(data: bytes, source: str) -> bytes:
    onnx = _onnx("fp16")
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with _quiet(), _one_line(source, "fp16"):
        model = convert_float_to_float16(onnx.load_from_string(data), keep_io_types=True)
    half: bytes = model.SerializeToString()
    return half


def _int8(data: bytes, spec: InputSpec, source: str, crops: npt.NDArray[np.uint8]) -> bytes:
    """Return the model with int8 weights, scaled per channel, and uint8 activations.

    The ranges of the activations are measured on `crops`.
    """
    onnx = _onnx("int8")
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    network = OnnxNetwork(data, source=source, precision="float32")
    name, shape = next(iter(network.inputs.items()))
    if network.takes_uint8:
        raise ModelError(
            f"{source}: already contains its preprocessing; export int8 from the model it was exported from"
        )
    if any(tensor.data_type == HALF for tensor in parse_model(data, source).graph.initializer):
        raise ModelError(f"{source}: its weights are already float16; int8 needs float32 weights")
    batch = shape[0] if isinstance(shape[0], int) else _BATCH

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = self.read()

        def read(self) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
            for start in range(0, len(crops) - batch + 1, batch):
                images = spec.preprocess(crops[start : start + batch])
                yield {name: images if shape[3] == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))}

        def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
            return next(self.batches, None)

    with tempfile.TemporaryDirectory(prefix="facespace-") as folder, _quiet(), _one_line(source, "int8"):
        path = Path(folder, "int8.onnx")
        model = onnx.load_from_string(data)
        if (
            max((entry.version for entry in model.opset_import if not entry.domain), default=_PER_CHANNEL)
            < _PER_CHANNEL
        ):
            from onnx.version_converter import convert_version

            model = convert_version(model, _PER_CHANNEL)
        quantize_static(
            model,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return path.read_bytes()


def _onnx(what: str) -> Any:
    try:
        import onnx
    except ImportError:
        raise RuntimeUnavailable(f"{what} needs the package onnx; pip install 'facespace[train]'") from None
    return onnx


@contextlib.contextmanager
def _one_line(source: str, precision: str) -> Iterator[None]:
    """Turn the converters' errors for unsupported graphs into one line."""
    try:
        yield
    except OSError:  # no space for their own files
        raise
    except Exception as error:  # each of their steps has its own class
        raise ModelError(
            f"{source}: cannot be converted to {precision} ({first_line(error)}); export it as fp32"
        ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the converters' output, which is advice for people who build models by hand."""
    import warnings

    import onnxruntime

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    onnxruntime.set_default_logger_severity(4)  # for the sessions that the quantiser creates
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
        onnxruntime.set_default_logger_severity(2)  # warnings, the default
