"""Embeds crops as points on the unit sphere."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from facespace.defaults import DEFAULT_DETECTOR, DEFAULT_MODEL
from facespace.embedding import calibration
from facespace.errors import ModelError
from facespace.faces.input_spec import ARCFACE_SIZE, InputSpec
from facespace.metrics.unit_vectors import to_unit_length
from facespace.models.opening import AssumptionWarning, OpenedModel, open_model
from facespace.models.zoo import home
from facespace.runtime import quantization
from facespace.runtime.cores import usable_cores
from facespace.runtime.devices import Device, Precision
from facespace.runtime.onnx_network import OnnxNetwork, measured_precision

if TYPE_CHECKING:
    from facespace.embedding.vectors import Embeddings
    from facespace.runtime.protocol import Network

Crops = npt.NDArray[np.uint8] | Sequence[npt.NDArray[np.uint8]]

_BATCHES = (1, 2, 4, 8, 16, 32)
_FLOATS = 256  # crops converted to floats at once
_CACHED = 4  # crops per batch on one core of plain ONNX Runtime
_ONE_CORE = 8  # crops per batch on one core of OpenVINO; 32 take a tenth longer each
_SIDE_BY_SIDE = 9  # least number of crops to compute in parallel parts; 8 are one batch on all cores
_SAME = 0.99  # least cosine between a crop's features in a batch and alone; bfloat16 can lower it by 0.01


class Embedder:
    """A network together with the input spec it was trained with.

    Attributes: `name`, `spec` (how crops are made and scaled), `dimension` (D), `fingerprint` (SHA-256 of the weights
    file), `detector` (the name of the detector whose faces are cropped for the network), `runtime` and `precision`
    (what the network runs on, and in which number format), `calibration` (its measured thresholds, or None), `remarks`
    (lines for the user: what was assumed or replaced, and whether the network looks untrained).
    """

    def __init__(
        self,
        network: Network,
        *,
        name: str,
        spec: InputSpec,
        fingerprint: str,
        source: str | None = None,
        remarks: Sequence[str] = (),
        detector: str = DEFAULT_DETECTOR,
    ) -> None:
        source = source or name
        self.remarks = tuple(remarks)
        self.name = name
        self.spec = spec
        self.detector = detector
        self.fingerprint = fingerprint
        self.calibration = calibration.find(
            fingerprint, runtime=network.runtime, precision=network.precision, spec=spec
        )
        self._source = source
        self._network = network
        self._made_from: Callable[[], Embedder] | None = None  # loads the same embedder in another process
        self._channels_first, self._batches = _input_layout(network, spec, source)
        self._preprocesses = network.takes_uint8  # an exported model contains its preprocessing
        self.dimension = _dimension(network, source)

    @classmethod
    def load(
        cls,
        model: str | PathLike[str] = DEFAULT_MODEL,
        *,
        precision: Precision = "fastest",
        device: Device = "auto",
        spec: InputSpec | str | None = None,
        few: bool = False,
    ) -> Embedder:
        """Load a model by its name, or from a file or folder of any kind that `models.opening.open_model` opens.

        The input spec is read from the folder, or from a JSON file next to the file or checkpoint; `spec` overrides it.
        If it is not stored, it is inferred or a default is used, and an `AssumptionWarning` says so.

        `device`: `auto` and `cpu` compute on the processor; `cuda` and `mps` compute on a GPU with torch. For a model
        that exists only as ONNX, `cuda` needs an onnxruntime built for it. `few`: say that only a few crops will
        follow. ONNX Runtime computes them then, because it is ready a second earlier than OpenVINO. Raises `ModelError`
        for an unknown name and for files that are damaged or do not fit together, `RuntimeUnavailable` if the device is
        not available.
        """
        if device not in get_args(Device):
            raise ValueError(f"device must be one of {', '.join(get_args(Device))}, got {device!r}")
        opened = open_model(model, spec)
        if opened.assumption:
            warnings.warn(opened.assumption, AssumptionWarning, stacklevel=2)
        embedder = cls(
            _network(opened, device, precision, few),
            name=opened.name,
            spec=opened.spec,
            fingerprint=opened.fingerprint,
            source=opened.source,
            remarks=opened.remarks,
            detector=opened.detector,
        )
        name = opened.name if opened.card is not None else os.path.abspath(opened.source)
        kind: Any = cls
        embedder._made_from = partial(_loaded_again, kind, opened.fingerprint, name, precision, device, opened.spec)
        published = opened.card is not None and opened.record is None and opened.spec == opened.card.spec
        if published:
            return embedder
        embedder._try(opened.source)
        if opened.format == "ONNX":  # some of these declare a free batch size and compute only one crop
            embedder.try_batch()
        if remark := embedder.collapse_remark():
            embedder.remarks = (*embedder.remarks, remark)
        return embedder

    def __reduce__(self) -> tuple[Any, ...]:
        if self._made_from is None:
            raise TypeError(
                f"{self.name}: an Embedder made from a network cannot be pickled; load the model from its file"
            )
        return self._made_from, ()

    @property
    def runtime(self) -> str:
        """The runtime that computes: `openvino`, `onnxruntime`, `torch-cuda`, … It can change in a child after `fork`."""
        return self._network.runtime

    @property
    def precision(self) -> str:
        """The number format: `float32`, `bfloat16` or `int8`. It can change in a child process after `fork`."""
        return self._network.precision

    @property
    def batch(self) -> int | None:
        """The number of crops the network takes at a time, or None for any number. `embed` accepts any number."""
        return self._batches[0] if len(self._batches) == 1 else None

    def _try(self, source: str) -> None:
        """Embed one gray crop before real work begins, to find faults that the shapes in the file do not show."""
        crop = np.full((1, self.spec.size, self.spec.size, 3), 128, np.uint8)
        try:
            features = self.features(crop)
        except ModelError:
            raise
        except Exception as error:  # torch's classes share no base but Exception
            raise ModelError(f"{source}: it does not run on {self.spec.size} px crops ({error})") from None
        if not np.isfinite(features).all():
            raise ModelError(f"{source}: its features are not finite numbers; the weights are damaged")

    def try_batch(self) -> bool:
        """Return whether a batch of two crops gives the same embeddings as each crop alone.

        If it does not, use batches of one crop from now on. Some files declare a free batch size, but their graph has
        shapes for one crop inside. A fixed batch size is trusted and not tried. Raises `ModelError` if a single crop
        fails as well.
        """
        if len(self._batches) == 1:
            return True
        colours = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
        colours[1] //= 4  # one crop is dark: if both were alike, a network that mixes them up would not be noticed
        side = -(-self.spec.size // 4)
        crops = colours.repeat(side, axis=1).repeat(side, axis=2)[:, : self.spec.size, : self.spec.size]
        try:
            together = self.embed(crops)
        except ModelError:
            together = None
        several, self._batches = self._batches, (1,)
        alone = self.embed(crops)
        # Features of length zero stay zero and count as equal.
        if together is not None and ((together * alone).sum(axis=1) >= _SAME * (alone * alone).sum(axis=1)).all():
            self._batches = several
        return len(self._batches) > 1

    def collapse_remark(self) -> str:
        """Return a line for the user if the network gives very different pictures nearly the same embedding, else "".

        See `collapse.looks_collapsed`. `load` adds this line to `remarks`, except for published weights.
        """
        from facespace.embedding.collapse import collapse_remark, different_pictures

        # One at a time, because runtimes compile for each batch size.
        return collapse_remark(np.concatenate([self.features(one[None]) for one in different_pictures(self.spec.size)]))

    def embed(self, crops: Crops) -> Embeddings:
        """Return the embeddings of crops as unit vectors (N,D) float32.

        `crops` are an array (N,S,S,3) uint8 RGB or a list of crops, as `align` makes them with `spec`; N may be 0.
        Raises `ValueError` for another shape or dtype, `TypeError` for any other object. Galleries and thresholds need
        the vectors of `represent`, and refuse those of `embed`.
        """
        return self._made(to_unit_length(self.features(crops)), "embed")

    def represent(self, crops: Crops) -> Embeddings:
        """Return the unit vectors (N,D) that galleries and thresholds compare, from each crop and its mirror image.

        Both embeddings are added, and `calibration.center`, the mean over many people, is subtracted if the model has a
        calibration. This takes twice as long as `embed`, and fewer strangers are taken for enrolled people. Arguments
        and errors are those of `embed`.
        """
        crops = self._checked_crops(crops)
        both = to_unit_length(self.features(np.concatenate([crops, crops[:, :, ::-1]])))
        vectors = to_unit_length(both[: len(crops)] + both[len(crops) :])
        if self.calibration is not None:
            vectors = to_unit_length(vectors - self.calibration.center)
        quality = None
        if self.spec.template == "arcface" and self.spec.size == ARCFACE_SIZE:
            from facespace.faces.quality import crop_quality

            quality = np.array([crop_quality(crop) for crop in crops], np.float32)
        return self._made(vectors, "represent", quality)

    def _made(
        self, vectors: npt.NDArray[np.float32], by: str, quality: npt.NDArray[np.float32] | None = None
    ) -> Embeddings:
        # Imported here because loading a model does not need them.
        from facespace.embedding.compatibility import model_of
        from facespace.embedding.vectors import Embeddings

        return Embeddings(vectors, made_by=by, model=model_of(self), quality=quality)

    def threshold(self, rate: float | None = None, quality: float | None = None) -> float:
        """Return the similarity threshold for faces embedded by `represent` at which the false match rate is `rate`.

        `rate` defaults to `calibration.default_rate`; `quality` is the mean quality of both faces.
        `Calibration.match_threshold` describes the conditions under which the rate applies. Raises `ValueError` for a
        rate outside (0, 0.5], `ModelError` if no thresholds were measured for the model.
        """
        if self.calibration is None:
            raise calibration.missing(self.name)
        return self.calibration.match_threshold(self.calibration.default_rate if rate is None else rate, quality)

    def features(self, crops: Crops) -> npt.NDArray[np.float32]:
        """Return the network's output (N,D) before it is scaled to unit length; arguments and errors as in `embed`."""
        crops = self._checked_crops(crops)
        parts = self._parts(crops)
        # Convert a few hundred crops at a time, so that a million crops are not all in memory as floats.
        group = max(usable_cores(), _FLOATS // max(1, len(parts[0]))) if parts else 1
        features = [np.empty((0, self.dimension), np.float32)]
        for first in range(0, len(parts), group):
            some = parts[first : first + group]
            computed = self._network.run_parts(self._as_input(part) for part in some)
            features += [self._checked(found, len(part)) for found, part in zip(computed, some, strict=True)]
        return np.concatenate(features)[: len(crops)]

    def _checked_crops(self, crops: Crops) -> npt.NDArray[np.uint8]:
        """Return the crops as one array (N,S,S,3). Raises `ValueError` or `TypeError` as `embed` does."""
        size = self.spec.size
        if isinstance(crops, (list, tuple)):
            several = [np.asarray(crop) for crop in crops]
            wrong = [crop for crop in several if crop.shape != (size, size, 3)]
            if wrong:
                raise ValueError(
                    f"each crop must be uint8 of shape ({size}, {size}, 3), got one of shape {wrong[0].shape}"
                )
            crops = np.stack(several) if several else np.empty((0, size, size, 3), np.uint8)
        if not isinstance(crops, np.ndarray):
            raise TypeError(
                f"crops must be an array (N, {size}, {size}, 3) of uint8, or a list of crops, got {type(crops).__name__}"
            )
        self.spec.check(crops)
        return crops

    def _checked(self, features: npt.NDArray[np.float32], n: int) -> npt.NDArray[np.float32]:
        if features.shape != (n, self.dimension):
            raise ModelError(
                f"{self._source}: the network must give features {(n, self.dimension)} for {n} crops, got "
                f"{features.shape}; convert its source again"
            )
        return features

    def _parts(self, crops: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.uint8]]:
        """Split the crops into batches of sizes that suit the runtime; the last may be filled up with black crops."""
        n, largest = len(crops), self._batches[-1]
        n_side_by_side = usable_cores() if self._network.wants_parts and n >= _SIDE_BY_SIDE else 1
        if len(self._batches) > 1 and self._network.runtime == "onnxruntime":
            # Plain ONNX Runtime computes any size, so each core gets its share, in small batches: the values within the
            # network then stay in the processor's cache from one layer to the next.
            most = _CACHED if n_side_by_side > 1 else largest
            n_parts = -(-n // (most * n_side_by_side)) * n_side_by_side
            return np.array_split(crops, n_parts) if n_parts else []
        # Other runtimes compile for each size they meet, so only a few sizes are used.
        if n_side_by_side > 1:
            largest = max(
                batch for batch in self._batches if batch <= max(min(n // n_side_by_side, _ONE_CORE), self._batches[0])
            )
        parts = []
        for start in range(0, n, largest):
            part: npt.NDArray[np.uint8] = crops[start : start + largest]
            size = min(batch for batch in self._batches if batch >= len(part))
            if size > len(part):
                part = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), np.uint8)])
            parts.append(part)
        return parts

    def _as_input(self, part: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        if not self._preprocesses:
            return self.spec.preprocess(part, channels_first=self._channels_first)
        return np.ascontiguousarray(part.transpose(0, 3, 1, 2)) if self._channels_first else part


@lru_cache(maxsize=1)  # a worker process unpickles the same embedder for every task
def _loaded_again(
    kind: type[Embedder],
    fingerprint: str,
    model: str,
    precision: Precision,
    device: Device,
    spec: InputSpec,
) -> Embedder:
    """Load the embedder in the process that unpickles it.

    Raises `ModelError` if the model's weights have changed since the embedder was pickled.
    """
    embedder = kind.load(model, precision=precision, device=device, spec=spec)
    if embedder.fingerprint != fingerprint:
        raise ModelError(f"{model}: was changed after this Embedder was pickled; load it again")
    return embedder


def _network(opened: OpenedModel, device: Device, precision: Precision, few: bool) -> Network:
    """Return the opened model as a network on a device.

    PyTorch runs it on `mps`, on `cuda` if the model has a PyTorch backbone, and everywhere if the model has no ONNX
    graph. Otherwise ONNX Runtime or OpenVINO runs it.
    """
    gpu = device in ("cuda", "mps")
    if opened.read_onnx is None or (gpu and opened.read_backbone is not None) or device == "mps":
        from facespace.runtime.torch_network import TorchNetwork, check_device

        check_device(device if gpu else "cpu")
        return TorchNetwork(opened.backbone(), device=device if gpu else "cpu", precision=precision)
    if precision == "fastest":
        precision = measured_precision(opened.fingerprint)
    ranges = quantization.find(opened.fingerprint, opened.spec)
    return OnnxNetwork(
        opened.read_onnx,
        source=opened.source,
        precision=precision,
        device="cuda" if device == "cuda" else "cpu",
        int8=partial(_quantized, opened.read_onnx, ranges, opened.source) if ranges else None,
        keep=_kept_at(opened),
        runtime="onnxruntime" if few and not os.environ.get("FACESPACE_RUNTIME") else "fastest",
    )


def _quantized(read: Callable[[], bytes], ranges: Any, source: str) -> bytes:
    return quantization.quantize(read(), ranges, source=source)


def _kept_at(opened: OpenedModel) -> tuple[Path, str] | None:
    """Return (folder, name) of the stored optimised network, if the model's weights are packed into facespace's wheel.

    Returns None without a home folder, and for other models. Their optimised networks are not stored, because checking
    whether a model's file was changed would take all the time that is saved. Raises `ModelError` if the weights are
    missing or changed.
    """
    if opened.card is None or opened.card.wheel or opened.record is not None:
        return None
    from facespace.io.packed_weights import read_packed

    read_packed(opened.card.file, opened.card.sha256)  # a kept network must not hide missing or changed weights
    try:
        return home() / "networks", opened.fingerprint
    except ModelError:  # there is no home folder
        return None


def _input_layout(network: Network, spec: InputSpec, source: str) -> tuple[bool, tuple[int, ...]]:
    """Return whether channels come first, and the batch sizes to use."""
    if len(network.inputs) != 1:
        raise ModelError(f"{source}: the network must have one input of images, got {', '.join(network.inputs)}")
    shape = next(iter(network.inputs.values()))
    if len(shape) != 4 or (shape[1] != 3 and shape[3] != 3):
        raise ModelError(f"{source}: the network's input must be (N,3,H,W) or (N,H,W,3), got {shape}")
    channels_first = shape[3] != 3
    if network.takes_uint8 and channels_first:
        raise ModelError(
            f"{source}: the network's input must be uint8 crops (N,H,W,3) or float32 images, got uint8 {shape}"
        )
    sides = shape[2:] if channels_first else shape[1:3]
    for side in sides:
        if isinstance(side, int) and side != spec.size:
            raise ModelError(f"{source}: its input is {side} px, its input spec says {spec.size}")
    return channels_first, (shape[0],) if isinstance(shape[0], int) and shape[0] > 0 else _BATCHES


def _dimension(network: Network, source: str) -> int:
    shape = next(iter(network.outputs.values()))
    if len(shape) != 2 or not isinstance(shape[1], int):
        raise ModelError(f"{source}: the network's first output must be features (N,D), got {shape}")
    return shape[1]
