"""Models of other programs to the project's own model folder: told apart by content, checked before they are kept."""

from __future__ import annotations

import hashlib
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from facespace.embedding.embedder import Embedder
from facespace.errors import ModelError, RuntimeUnavailable
from facespace.faces.input_spec import INPUT_SPECS, InputSpec, describe_spec
from facespace.formats.onnx_inspection import graph_scaling, scales, spec_of_graph, spec_of_onnx
from facespace.formats.onnx_normalization import open_onnx, with_batch_of_one
from facespace.formats.tf_graph import Graph, output_node, parse_graph
from facespace.formats.tf_to_onnx import to_onnx
from facespace.formats.tf_weights import folded, graph_variables
from facespace.formats.zip_files import holds_graph, is_archive, unpack_weights
from facespace.io.protobuf import MAX_WEIGHTS
from facespace.io.text import plain_text
from facespace.models.folder import ONNX, WEIGHTS, ModelRecord, is_model_folder, write_model
from facespace.pipeline.sample_crops import sample_crops
from facespace.runtime.onnx_network import OnnxNetwork
from facespace.runtime.torch_network import TorchNetwork

if TYPE_CHECKING:
    from facespace.backbones.backbone import Backbone

N_CROPS = 256  # at most so many crops are looked at for the statistics of batch norms
_FEWEST = 4  # numbers an embedding has at least; what gives fewer tells age, sex or pose
_CHECKPOINT_FILE = re.compile(r"\.(?:index|meta|data-\d{5}-of-\d{5})$")
_NO_MODELS = {  # by how a file begins that is often taken for a model
    b"<": "a web page, not what it links to; ",
    b"version https://git-lfs": "a pointer of Git LFS, not the file (git lfs pull fetches it); ",
    b"\x89hdf": "Keras's HDF5; ",
}
_PARITY = 1e-5  # of unit vectors, largest difference of a number


@dataclass
class Conversion:
    """What was read and what was made of it: the record that was written, and remarks for the user, a line each."""

    record: ModelRecord
    remarks: list[str]


@dataclass
class _Opened:
    """A source as read: `onnx` or `backbone` or both, and what its format says of the input."""

    format: str
    fingerprint: str
    spec: InputSpec
    spec_reason: str
    onnx: bytes | None = None
    backbone: Backbone | None = None
    folded: set[str] = field(default_factory=set)
    remarks: list[str] = field(default_factory=list)


def convert(
    source: Path,
    out: Path,
    *,
    input_spec: InputSpec | None = None,
    crops: Path | None = None,
    name: str | None = None,
    origin: dict[str, Any] | None = None,
) -> Conversion:
    """Make a model folder, which `Embedder.load` opens, of a model in another format.

    `source` is a TensorFlow 1 frozen graph or the folder of a checkpoint, an ONNX file, or weights of torch
    (safetensors or `torch.save`; facenet-pytorch's, arcface_torch's and our own networks). `input_spec` says what the
    network was trained to see where the format does not; a folder of aligned `crops` gives batch norms that were
    folded into weights their statistics back, for training; `origin` is kept in the record. Nothing is written unless
    the folder's networks agree to 1e-5. Raises `ModelError`, `DatasetError` where `crops` holds none.
    """
    opened = _open(source, input_spec)
    spec = opened.spec
    remarks: list[str] = []
    if input_spec is None:
        remarks.append(f"input spec: {describe_spec(spec)}, {opened.spec_reason}; --input-spec says otherwise")
    probe = np.random.default_rng(0).integers(0, 256, (3, spec.size, spec.size, 3), dtype=np.uint8)
    sample = None if crops is None else sample_crops(crops, spec, N_CROPS)
    if sample is not None:
        probe = sample[:: -(-len(sample) // 8)]
    backbone, training = opened.backbone, {}
    if backbone is not None and opened.folded and sample is not None:
        from facespace.backbones.batch_norm_statistics import reestimate
        from facespace.backbones.weight_loading import norms_of_scopes

        backbone = reestimate(backbone, sample, spec, norms_of_scopes(backbone, opened.folded))
        training = {"batch_norms": f"statistics of {len(opened.folded)} measured on {len(sample)} crops"}
        remarks.append(
            f"{len(opened.folded)} folded batch norms have statistics again, measured on {len(sample)} crops"
        )
    elif backbone is not None and opened.folded:
        training = {"batch_norms": "folded: their statistics are lost; convert with --crops before training"}
        remarks.append("its batch norms were folded into the weights; to train it further convert it with --crops DIR")

    files, embeddings = _networks(opened, backbone, spec, probe, source)
    record = ModelRecord(
        name=name or source.stem,
        fingerprint=opened.fingerprint,
        dimension=embeddings.shape[1],
        input_spec=spec,
        backbone=backbone.name if backbone is not None else None,
        options=backbone.options if backbone is not None else {},
        source={"file": source.name, "format": opened.format, "sha256": opened.fingerprint, **(origin or {})},
        training=training,
    )
    return Conversion(write_model(out, record, files), [*opened.remarks, *remarks])


def _networks(
    opened: _Opened, backbone: Backbone | None, spec: InputSpec, probe: npt.NDArray[np.uint8], source: Path
) -> tuple[dict[str, bytes], npt.NDArray[np.float32]]:
    """The folder's files, checked to compute the same by the very class that will run them, and what they compute."""
    files: dict[str, bytes] = {}
    embeddings: dict[str, npt.NDArray[np.float32]] = {}

    def embedder(network: OnnxNetwork | TorchNetwork) -> Embedder:
        return Embedder(network, name=source.name, spec=spec, fingerprint="", source=str(source))

    onnx = opened.onnx
    if backbone is not None:
        from facespace.formats.torch_files import as_safetensors

        try:
            embeddings[WEIGHTS] = embedder(TorchNetwork(backbone, precision="float32")).embed(probe)
        except ValueError as error:
            raise ModelError(f"{source}: it does not run on {spec.size} px crops ({error})") from None
        files[WEIGHTS] = as_safetensors(backbone)
        if onnx is None:
            from facespace.backbones.onnx_export import backbone_to_onnx

            try:
                onnx = backbone_to_onnx(backbone, spec.size)
            except RuntimeUnavailable as error:
                opened.remarks.append(f"no {ONNX} written: {error}")
    if onnx is not None:
        computes = embedder(OnnxNetwork(onnx, source=str(source), precision="float32"))
        # Where the network is known, the crops below, several at once, are compared with torch's.
        if backbone is None and not computes.try_batch():
            onnx = with_batch_of_one(onnx, source=str(source))
            computes = embedder(OnnxNetwork(onnx, source=str(source), precision="float32"))
            opened.remarks.append("its graph computes one crop at a time, whatever it says; so will this model")
        embeddings[ONNX] = computes.embed(probe)
        files[ONNX] = onnx
    first = next(iter(embeddings.values()))
    if first.shape[1] < _FEWEST:
        raise ModelError(
            f"{source}: gives {first.shape[1]} numbers a face, an embedding has at least {_FEWEST}; wanted is a network "
            "that ends in one"
        )
    for file, vectors in embeddings.items():
        if not np.isfinite(vectors).all():
            raise ModelError(f"{source}: its features are not finite numbers; the weights are damaged")
        if (worst := np.abs(vectors - first).max()) > _PARITY:
            raise ModelError(
                f"{source}: {file} and {next(iter(embeddings))} made of it differ by {worst:.1e}; not kept"
            )
    return files, first


def _open(source: Path, wanted: InputSpec | None) -> _Opened:
    if source.is_dir():
        return _open_folder(source, wanted)
    if not source.is_file() and not source.with_name(f"{source.name}.index").is_file():
        raise ModelError(f"{source}: there is no such file or folder")
    if not source.is_file() or _CHECKPOINT_FILE.search(source.name):
        raise ModelError(
            f"{source}: a checkpoint is opened by its folder, where its graph is (.meta): facespace convert "
            f"{source.parent} OUT"
        )
    size = source.stat().st_size
    if size > MAX_WEIGHTS:
        raise ModelError(f"{source}: {size} bytes; a model in one file has at most {MAX_WEIGHTS}")
    if is_archive(source) and holds_graph(source):
        return _open_zip(source, wanted)
    from facespace.formats.torch_files import is_safetensors, is_torch_file

    data = source.read_bytes()
    fingerprint = hashlib.sha256(data).hexdigest()
    if is_safetensors(data) or is_torch_file(data[:4]):
        return _open_torch(source, fingerprint, wanted)
    if data[:1] == b"\x0a":
        graph = parse_graph(data, str(source))
        return _open_graph(graph, "TensorFlow 1 frozen graph", str(source), fingerprint, wanted)
    if source.name == "saved_model.pb":
        raise ModelError(
            f"{source}: a SavedModel of TensorFlow 2; opened are frozen graphs and checkpoints of TensorFlow 1"
        )
    if data[:1] == b"\x08":
        file = open_onnx(source, data)
        spec, reason = (wanted, "") if wanted is not None else spec_of_onnx(file.data, source=str(source))
        return _Opened("ONNX", file.fingerprint, spec, reason, onnx=file.data, remarks=file.remarks)
    looks = next((looks for start, looks in _NO_MODELS.items() if data.lstrip()[: len(start)].lower() == start), "")
    raise ModelError(
        f"{source}: {looks}none of the formats that are opened: TensorFlow 1 frozen graph or checkpoint folder, ONNX, "
        "safetensors, torch.save"
    )


def _open_zip(source: Path, wanted: InputSpec | None) -> _Opened:
    """As the models of FaceNet are published: the frozen graph, or else the checkpoint, of a zip."""
    with tempfile.TemporaryDirectory(prefix="facespace-") as folder:
        unpacked = unpack_weights(source, Path(folder, "weights"))
        try:
            return _open(unpacked, wanted)
        except ModelError as error:
            raise ModelError(str(error).replace(str(unpacked), f"{source}, {unpacked.name}")) from None


def _open_folder(source: Path, wanted: InputSpec | None) -> _Opened:
    if is_model_folder(source):
        raise ModelError(f"{source}: is a model folder already; Embedder.load and --model take it as it is")
    from facespace.formats.tf_checkpoint import checkpoint_digest, read_checkpoint

    graph, digest = read_checkpoint(source), checkpoint_digest(source)
    return _open_graph(graph, "TensorFlow 1 checkpoint", str(source), digest, wanted)


def _open_graph(graph: Graph, format: str, source: str, fingerprint: str, wanted: InputSpec | None) -> _Opened:  # noqa: A002
    onnx = to_onnx(graph, source=source)
    scaling = graph_scaling(onnx, source=source)
    spec, reason = (wanted, "") if wanted is not None else spec_of_graph(scaling, source=source)
    opened = _Opened(format, fingerprint, spec, reason, onnx=onnx)
    if (output := output_node(graph, "embeddings", source)) != "embeddings":
        opened.remarks.append(f"no node is called embeddings; {plain_text(output)} is taken for them")
    if scales(*scaling):  # which the networks of `backbones` leave to their caller
        opened.remarks.append(f"recognises, cannot be trained: no {WEIGHTS} written (it scales its images itself)")
        return opened
    try:
        from facespace.formats.torch_files import require_torch

        require_torch("weights to train on")
        from facespace.backbones.weight_loading import from_tensorflow

        opened.backbone = from_tensorflow(graph_variables(graph, source), source=source)
        opened.folded = folded(graph, source)
    except (ModelError, RuntimeUnavailable) as error:
        opened.remarks.append(f"recognises, cannot be trained: no {WEIGHTS} written ({error})")
    return opened


def _open_torch(source: Path, fingerprint: str, wanted: InputSpec | None) -> _Opened:
    from facespace.formats.torch_files import read_state_dict

    state = read_state_dict(source)
    from facespace.backbones.weight_loading import from_state_dict

    backbone = from_state_dict(state, source=str(source))
    preset = "arcface-112" if backbone.input_size == INPUT_SPECS["arcface-112"].size else "facenet-2018"
    reason = f"the default for {backbone.name}"
    return _Opened("torch state dict", fingerprint, wanted or INPUT_SPECS[preset], reason, backbone=backbone)
