"""Converts models of other programs to model folders, and checks them before they are kept."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from facespace.embedding.embedder import Embedder
from facespace.errors import ModelError, RuntimeUnavailable
from facespace.faces.input_spec import InputSpec, describe_spec
from facespace.formats.onnx_normalization import with_batch_of_one
from facespace.models.folder import ONNX, WEIGHTS, ModelRecord, write_model
from facespace.models.opening import OpenedModel, open_model
from facespace.pipeline.sample_crops import sample_crops
from facespace.runtime.onnx_network import OnnxNetwork
from facespace.runtime.protocol import Network
from facespace.runtime.torch_network import TorchNetwork

if TYPE_CHECKING:
    from facespace.backbones.backbone import Backbone

N_CROPS = 256  # most crops used for the statistics of batch norms
_FEWEST = 4  # least dimension of an embedding; networks with fewer outputs estimate age, sex or pose
_PARITY = 1e-5  # largest difference between components of unit vectors


@dataclass
class Conversion:
    """The result of a conversion: the record that was written, and remarks for the user, one per line."""

    record: ModelRecord
    remarks: list[str]


def convert(
    source: str | PathLike[str],
    out: Path,
    *,
    input_spec: InputSpec | None = None,
    crops: Path | None = None,
    name: str | None = None,
    origin: dict[str, Any] | None = None,
) -> Conversion:
    """Convert a model of another format to a model folder, which `Embedder.load` opens.

    `source` is a named model, or any file or folder that `models.opening.open_model` opens. `input_spec` is the spec
    the network was trained with, if the format does not store it. With a folder of aligned `crops`, batch norms that
    were folded into weights get new statistics, so that the network can be trained further. `origin` is stored in the
    record. Nothing is written if the embeddings of the folder's networks (torch and ONNX) differ by more than 1e-5.
    Raises `ModelError`, and `DatasetError` if the folder `crops` contains no crops.
    """
    opened = open_model(source, input_spec)
    if opened.record is not None:
        raise ModelError(f"{opened.source}: is already a model folder; use it with Embedder.load or --model")
    spec, path = opened.spec, Path(opened.source)
    remarks = [remark for remark in opened.remarks if remark != opened.assumption]
    probe = np.random.default_rng(0).integers(0, 256, (3, spec.size, spec.size, 3), dtype=np.uint8)
    sample = None if crops is None else sample_crops(crops, spec, N_CROPS)
    if sample is not None:
        probe = sample[:: -(-len(sample) // 8)]
    backbone, folded = _backbone(opened, remarks)
    training = {}
    advice: list[str] = []
    if input_spec is None and opened.card is None:
        advice.append(f"input spec: {describe_spec(spec)}, {opened.spec_reason}; change it with --input-spec")
    if backbone is not None and folded and sample is not None:
        from facespace.backbones.batch_norm_statistics import reestimate

        backbone = reestimate(backbone, sample, spec, folded)
        training = {"batch_norms": f"statistics of {len(folded)} measured on {len(sample)} crops"}
        advice.append(f"{len(folded)} folded batch norms have new statistics, measured on {len(sample)} crops")
    elif folded:
        training = {"batch_norms": "folded: their statistics are lost; convert with --crops before training"}
        advice.append("its batch norms were folded into the weights; to train it further, convert it with --crops DIR")

    files, embeddings, collapsed = _networks(opened, backbone, probe, remarks)
    advice += [collapsed] if collapsed else []
    about = {}
    if (card := opened.card) is not None:
        about = {"origin": card.origin, "licence": card.licence, "training_data": card.training_data}
    record = ModelRecord(
        name=name or (card.name if card is not None else path.stem if path.exists() else path.name),
        fingerprint=opened.fingerprint,
        dimension=embeddings.shape[1],
        input_spec=spec,
        backbone=backbone.name if backbone is not None else None,
        options=backbone.options if backbone is not None else {},
        source={"file": path.name, "format": opened.format, "sha256": opened.fingerprint, **about, **(origin or {})},
        training=training,
    )
    return Conversion(write_model(out, record, files), [*remarks, *advice])


def _backbone(opened: OpenedModel, remarks: list[str]) -> tuple[Backbone | None, list[str]]:
    """Return the network for torch and the names of its folded batch norms.

    If only ONNX can be read, the network is None; if torch was tried and failed, a remark says why.
    """
    if opened.read_onnx is not None and opened.read_backbone is None:
        return None, []
    try:
        backbone = opened.backbone()
        return backbone, opened.folded_batch_norms(backbone)
    except (ModelError, RuntimeUnavailable) as error:
        if opened.read_onnx is None:
            raise
        remarks.append(f"can recognise but not be trained: no {WEIGHTS} written ({error})")
        return None, []


def _networks(
    opened: OpenedModel, backbone: Backbone | None, probe: npt.NDArray[np.uint8], remarks: list[str]
) -> tuple[dict[str, bytes], npt.NDArray[np.float32], str]:
    """Return the folder's files by name, the embeddings of `probe`, and a remark if the network looks untrained.

    Each file is run by the class that will run it later. Raises `ModelError` if the embeddings of the files differ. The
    remark is empty if the network looks trained.
    """
    source, spec = opened.source, opened.spec
    files: dict[str, bytes] = {}
    embeddings: dict[str, npt.NDArray[np.float32]] = {}

    def embedder(network: Network) -> Embedder:
        return Embedder(network, name=Path(source).name, spec=spec, fingerprint="", source=source)

    onnx = opened.read_onnx() if opened.read_onnx is not None else None
    if backbone is not None:
        from facespace.formats.torch_files import as_safetensors

        try:
            computes = embedder(TorchNetwork(backbone, precision="float32"))
            embeddings[WEIGHTS] = computes.embed(probe)
        except ValueError as error:
            raise ModelError(f"{source}: it does not run on {spec.size} px crops ({error})") from None
        files[WEIGHTS] = as_safetensors(backbone)
        if onnx is None:
            from facespace.backbones.onnx_export import backbone_to_onnx

            try:
                onnx = backbone_to_onnx(backbone, spec.size)
            except RuntimeUnavailable as error:
                remarks.append(f"no {ONNX} written: {error}")
    if onnx is not None:
        computes = embedder(OnnxNetwork(onnx, source=source, precision="float32"))
        # If the network is known, the comparison below with torch's result runs several crops at once.
        if backbone is None and not computes.try_batch():
            onnx = with_batch_of_one(onnx, source=source)
            computes = embedder(OnnxNetwork(onnx, source=source, precision="float32"))
            remarks.append("its graph computes one crop at a time, although it declares more; so will this model")
        embeddings[ONNX] = computes.embed(probe)
        files[ONNX] = onnx
    first = next(iter(embeddings.values()))
    if first.shape[1] < _FEWEST:
        raise ModelError(
            f"{source}: must be a network whose output is an embedding of at least {_FEWEST} numbers, "
            f"got {first.shape[1]} per face"
        )
    for file, vectors in embeddings.items():
        if not np.isfinite(vectors).all():
            raise ModelError(f"{source}: its features are not finite numbers; the weights are damaged")
        if (worst := np.abs(vectors - first).max()) > _PARITY:
            raise ModelError(
                f"{source}: {file} and {next(iter(embeddings))} made from it differ by {worst:.1e}; nothing was written"
            )
    return files, first, computes.collapse_remark()
