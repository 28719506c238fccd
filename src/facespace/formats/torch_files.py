"""Weights of torch: to and from safetensors, and out of other programs' pickled files, of which nothing is run."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facespace.errors import ModelError, RuntimeUnavailable
from facespace.io.protobuf import MAX_WEIGHTS
from facespace.io.text import first_line

if TYPE_CHECKING:
    import torch

    from facespace.backbones.backbone import Backbone


def as_safetensors(backbone: Backbone) -> bytes:
    """The network's weights as a safetensors file; read again by `read_backbone`."""
    from safetensors.torch import save

    data: bytes = save({name: tensor.contiguous().cpu() for name, tensor in backbone.state_dict().items()})
    return data


def load_state(backbone: Backbone, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Put `state` into the network; `ModelError` names the first tensor that is missing, misshapen or left over."""
    wanted = backbone.state_dict()
    for name, tensor in wanted.items():
        if name not in state:
            raise ModelError(f"{source}: {backbone.name} wants the tensor {name}, which is missing")
        if state[name].shape != tensor.shape:
            raise ModelError(
                f"{source}: {backbone.name} wants {name} of shape {tuple(tensor.shape)}, it has {tuple(state[name].shape)}"
            )
    if extra := sorted(set(state) - set(wanted)):
        raise ModelError(f"{source}: {backbone.name} has no tensor {extra[0]}")
    backbone.load_state_dict(dict(state))


def parse_safetensors(data: bytes, source: str) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file; `ModelError` where it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return dict(load(data))
    except (SafetensorError, KeyError, ValueError, RuntimeError, OverflowError) as error:
        raise ModelError(f"{source}: not a safetensors file ({first_line(error)})") from None


def read_state_dict(path: Path) -> dict[str, Any]:
    """The tensors of a file of weights, told by its content: safetensors, or what `torch.save` writes.

    A pickle may name tensors and plain containers alone; one that asks for anything else is refused and nothing of it
    is run. Wrapping dictionaries are for `from_state_dict` to open. Raises `ModelError`.
    """
    require_torch(f"{path}: a file of torch weights")
    import torch

    size = path.stat().st_size
    if size > MAX_WEIGHTS:
        raise ModelError(f"{path}: {size} bytes; a model in one file has at most {MAX_WEIGHTS}")
    data = path.read_bytes()
    if is_safetensors(data):
        return parse_safetensors(data, str(path))
    _check_archive(data, path)
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own words advise to load it without the restriction.
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = (
            f"it wants to run code of its own ({wanted[1]})" if wanted else "damaged, or of a pickle protocol not 2"
        )
        raise ModelError(
            f"{path}: refused, {reason}; wanted is a file of tensors alone, as torch.save(network.state_dict(), FILE) "
            "makes it where the network was trained"
        ) from None
    except Exception as error:  # damaged archives raise whatever the reader trips over
        raise ModelError(f"{path}: cannot be read as weights of torch ({first_line(error)})") from None
    if not isinstance(state, dict):
        raise ModelError(f"{path}: holds a {type(state).__name__}; wanted is a dictionary of tensors, a state dict")
    return state


def is_safetensors(data: bytes) -> bool:
    """Whether a file begins as safetensors do: the length of a header, then its opening brace."""
    return len(data) > 9 and int.from_bytes(data[:8], "little") < len(data) and data[8:9] == b"{"


def is_torch_file(start: bytes) -> bool:
    """Whether a file begins as those of `torch.save`: a zip archive, or a pickle of protocol 2 (before 2020)."""
    return start[:4] == b"PK\x03\x04" or start[:2] == b"\x80\x02"


def _check_archive(data: bytes, path: Path) -> None:
    """Tensors are stored uncompressed; an archive that grows when unpacked is none of torch's."""
    try:
        if not zipfile.is_zipfile(io.BytesIO(data)):
            return  # a pickle of before 2020, or nothing at all
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            total = sum(entry.file_size for entry in archive.infolist())
            program = any(re.search(r"/(?:constants\.pkl|archive_format)$", name) for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError) as error:
        raise ModelError(f"{path}: a damaged archive ({first_line(error)})") from None
    if program:
        raise ModelError(
            f"{path}: holds a program (TorchScript or torch.export), not weights alone; wanted is what "
            "torch.save(network.state_dict(), FILE) writes, network being torch.jit.load(FILE) or its like"
        )
    if total > len(data):
        raise ModelError(f"{path}: {len(data)} bytes that claim to hold {total}")


def require_torch(what: str) -> None:
    """Raises `RuntimeUnavailable` where torch or safetensors is not installed; `what` needs them."""
    try:
        import safetensors
        import torch  # noqa: F401
    except ImportError as error:
        raise RuntimeUnavailable(f"{what}: needs {error.name}; pip install 'facespace[train]'") from None
    del safetensors
