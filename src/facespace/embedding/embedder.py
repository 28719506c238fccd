"""Crops in, points on the unit sphere out."""

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
_FLOATS = 256  # crops that are floats at once
_CACHED = 4  # crops that a core of plain ONNX Runtime computes at once
_SIDE_BY_SIDE = 9  # crops from which parts of them are computed side by side; 8 are a batch of all cores
_SAME = 0.99  # the least cosine between a crop's features in a batch and alone; bfloat16 takes a hundredth of it


class Embedder:
    """A network with what it wants to see.

    Attributes: `name`, `spec` (how crops are made and scaled), `dimension` (D), `fingerprint` (SHA-256 of the
    weights file), `detector` (the name of the detector its crops come from), `runtime` and `precision` (what computes, and in what), `calibration` (its measured thresholds, or
    None), `remarks` (lines for the user: what was assumed or taken in place of what was asked for, and whether the
    network looks untrained).
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
        self.runtime = network.runtime
        self.precision = network.precision
        self.calibration = calibration.find(fingerprint, runtime=self.runtime, precision=self.precision, spec=spec)
        self._source = source
        self._network = network
        self._made_from: Callable[[], Embedder] | None = None  # loads it again in another process
        self._channels_first, self._batches = _input_layout(network, spec, source)
        self._preprocesses = network.takes_uint8  # an exported model holds its own preprocessing
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

        What the network was trained to see is in the folder, or in a JSON file beside the file or checkpoint; `spec`, where
        it is given, has the last word. Where nothing says it, it is inferred or a default is taken: an
        `AssumptionWarning` names it.

        `device`: `auto` and `cpu` compute on the processor, `cuda` and `mps` on a GPU by torch; where there is
        nothing but ONNX, `cuda` by an onnxruntime built for it. `few`: not many crops will come, so that plain ONNX Runtime
        computes them, which is ready a second before OpenVINO is. Raises `ModelError` for an unknown name and for files
        that are damaged or do not fit together, `RuntimeUnavailable` where the device is not there.
        """
        if device not in get_args(Device):
            raise ValueError(f"device wants {', '.join(get_args(Device))}; got {device!r}")
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
        if opened.format == "ONNX":  # some of these say any number of crops and compute one
            embedder.try_batch()
        if remark := embedder.collapse_remark():
            embedder.remarks = (*embedder.remarks, remark)
        return embedder

    def __reduce__(self) -> tuple[Any, ...]:
        if self._made_from is None:
            raise TypeError(f"{self.name}: an Embedder made of a network is not pickled; load the model from its file")
        return self._made_from, ()

    @property
    def batch(self) -> int | None:
        """How many crops the network takes at a time; None where it takes any number. `embed` takes any number."""
        return self._batches[0] if len(self._batches) == 1 else None

    def _try(self, source: str) -> None:
        """Embed one gray crop: what a file's shapes do not tell comes out here, not in the midst of work."""
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
        """Whether two crops at once give what each gives alone; where not, one at a time is computed from now on.

        Programs write files that say they take any number of crops and hold the shapes of one in their midst. A file
        that says how many it takes is believed, and not tried. Raises `ModelError` where one alone does not work.
        """
        if len(self._batches) == 1:
            return True
        colours = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
        colours[1] //= 4  # a dark one: crops that are alike would hide that they are mixed
        side = -(-self.spec.size // 4)
        crops = colours.repeat(side, axis=1).repeat(side, axis=2)[:, : self.spec.size, : self.spec.size]
        try:
            together = self.embed(crops)
        except ModelError:
            together = None
        several, self._batches = self._batches, (1,)
        alone = self.embed(crops)
        # Features without length stay as they are, and are the same.
        if together is not None and ((together * alone).sum(axis=1) >= _SAME * (alone * alone).sum(axis=1)).all():
            self._batches = several
        return len(self._batches) > 1

    def collapse_remark(self) -> str:
        """A line for the user if the network gives very different pictures nearly the same embedding, else nothing.

        See `collapse.looks_collapsed`. `load` puts it into `remarks`, except for published weights.
        """
        from facespace.embedding.collapse import collapse_remark, different_pictures

        # One at a time, as runtimes compile for each batch size.
        return collapse_remark(np.concatenate([self.features(one[None]) for one in different_pictures(self.spec.size)]))

    def embed(self, crops: Crops) -> Embeddings:
        """Unit vectors (N,D) float32 of crops (N,S,S,3) uint8 RGB, or a list of crops, as `align` makes them for `spec`.

        Any N, also 0. Raises `ValueError` for another shape or type. Galleries and thresholds compare those of
        `represent`, and refuse these.
        """
        return self._made(to_unit_length(self.features(crops)), "embed")

    def represent(self, crops: Crops) -> Embeddings:
        """What galleries and thresholds compare: unit vectors (N,D) of each crop and its mirror image together.

        Both embeddings are added and the mean over many people, `calibration.center`, is taken off: twice the work
        of `embed`, fewer strangers named. Arguments and errors are those of `embed`.
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
        # Imported here, as loading a model does not need them.
        from facespace.embedding.compatibility import model_of
        from facespace.embedding.vectors import Embeddings

        return Embeddings(vectors, made_by=by, model=model_of(self), quality=quality)

    def threshold(self, rate: float | None = None, quality: float | None = None) -> float:
        """The similarity of two `represent`ed faces that a share `rate` of pairs of different people reaches.

        By default it is `calibration.default_rate`. `quality` is the mean of that of both faces; see `Calibration.match_threshold`, also for the conditions under which
        the rate holds. `ValueError` for a rate outside (0, 0.5], `ModelError` where no thresholds were measured for the
        model.
        """
        if self.calibration is None:
            raise calibration.missing(self.name)
        return self.calibration.match_threshold(self.calibration.default_rate if rate is None else rate, quality)

    def features(self, crops: Crops) -> npt.NDArray[np.float32]:
        """What the network computes (N,D) before it is brought to unit length; arguments and errors as `embed`."""
        crops = self._checked_crops(crops)
        parts = self._parts(crops)
        # A few hundred crops at a time, so that a million do not become floats all at once.
        group = max(usable_cores(), _FLOATS // max(1, len(parts[0]))) if parts else 1
        features = [np.empty((0, self.dimension), np.float32)]
        for first in range(0, len(parts), group):
            some = parts[first : first + group]
            computed = self._network.run_parts(self._as_input(part) for part in some)
            features += [self._checked(found, len(part)) for found, part in zip(computed, some, strict=True)]
        return np.concatenate(features)[: len(crops)]

    def _checked_crops(self, crops: Crops) -> npt.NDArray[np.uint8]:
        """The crops as one array (N,S,S,3); `ValueError` says what was expected."""
        size = self.spec.size
        if isinstance(crops, (list, tuple)):
            several = [np.asarray(crop) for crop in crops]
            wrong = [crop for crop in several if crop.shape != (size, size, 3)]
            if wrong:
                raise ValueError(
                    f"each crop must be uint8 of shape ({size}, {size}, 3); got one of shape {wrong[0].shape}"
                )
            crops = np.stack(several) if several else np.empty((0, size, size, 3), np.uint8)
        if not isinstance(crops, np.ndarray):
            raise TypeError(
                f"crops must be an array (N, {size}, {size}, 3) of uint8, or a list of crops; got {type(crops).__name__}"
            )
        self.spec.check(crops)
        return crops

    def _checked(self, features: npt.NDArray[np.float32], n: int) -> npt.NDArray[np.float32]:
        if features.shape != (n, self.dimension):
            raise ModelError(
                f"{self._source}: wants features {(n, self.dimension)} of {n} crops, the network gives "
                f"{features.shape}; convert its source again"
            )
        return features

    def _parts(self, crops: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.uint8]]:
        """The crops in batches of the sizes that are computed, the last filled up with black where there are too few."""
        n, largest = len(crops), self._batches[-1]
        n_side_by_side = usable_cores() if self._network.wants_parts and n >= _SIDE_BY_SIDE else 1
        if len(self._batches) > 1 and self._network.runtime == "onnxruntime":
            # It computes all sizes as they come: each core gets its share. In small batches, as the values within the
            # network then stay in the processor's cache from one layer to the next.
            most = _CACHED if n_side_by_side > 1 else largest
            n_parts = -(-n // (most * n_side_by_side)) * n_side_by_side
            return np.array_split(crops, n_parts) if n_parts else []
        # Other runtimes compile for each size they meet, so few are used.
        if n_side_by_side > 1:
            largest = max(batch for batch in self._batches if batch <= max(n // n_side_by_side, self._batches[0]))
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


@lru_cache(maxsize=1)  # a worker process unpickles the same embedder with every task
def _loaded_again(
    kind: type[Embedder],
    fingerprint: str,
    model: str,
    precision: Precision,
    device: Device,
    spec: InputSpec,
) -> Embedder:
    """The embedder in the process that unpickles it; `ModelError` where the model has changed since."""
    embedder = kind.load(model, precision=precision, device=device, spec=spec)
    if embedder.fingerprint != fingerprint:
        raise ModelError(f"{model}: was changed after this Embedder was pickled; load it again")
    return embedder


def _network(opened: OpenedModel, device: Device, precision: Precision, few: bool) -> Network:
    """The opened model on a device: by torch on a GPU and where there is no ONNX, else by ONNX Runtime."""
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
        keep=_place(opened),
        runtime="onnxruntime" if few and not os.environ.get("FACESPACE_RUNTIME") else "fastest",
    )


def _quantized(read: Callable[[], bytes], ranges: Any, source: str) -> bytes:
    return quantization.quantize(read(), ranges, source=source)


def _place(opened: OpenedModel) -> tuple[Path, str] | None:
    """Where the network of packed weights is kept for the next time, and under which name. `ModelError` where they are gone.

    Weights of other models are read every time: to find out that a file was changed takes as long as what is saved.
    """
    if opened.card is None or opened.card.wheel or opened.record is not None:
        return None
    from facespace.io.packed_weights import read_packed

    read_packed(opened.card.file, opened.card.sha256)  # a kept network must not hide that they are gone or changed
    try:
        return home() / "networks", opened.fingerprint
    except ModelError:  # there is no home folder
        return None


def _input_layout(network: Network, spec: InputSpec, source: str) -> tuple[bool, tuple[int, ...]]:
    """Whether channels come first, and the batch sizes to use."""
    if len(network.inputs) != 1:
        raise ModelError(f"{source}: wants one input of images, the network has {', '.join(network.inputs)}")
    shape = next(iter(network.inputs.values()))
    if len(shape) != 4 or (shape[1] != 3 and shape[3] != 3):
        raise ModelError(f"{source}: wants an input (N,3,H,W) or (N,H,W,3), the network has {shape}")
    channels_first = shape[3] != 3
    if network.takes_uint8 and channels_first:
        raise ModelError(f"{source}: wants uint8 crops (N,H,W,3) or float32 images, the network has uint8 {shape}")
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
