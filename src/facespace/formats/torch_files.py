"""Reads and writes torch weights: safetensors, and other programs' pickled files, without running anything in them."""

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
    """Return the network's weights as a safetensors file, which `read_backbone` reads."""
    from safetensors.torch import save

    data: bytes = save({name: tensor.contiguous().cpu() for name, tensor in backbone.state_dict().items()})
    return data


def load_state(backbone: Backbone, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Load `state` into the network; raises `ModelError`, which names the first missing, misshapen or unknown tensor."""
    own_state = backbone.state_dict()
    for name, tensor in own_state.items():
        if name not in state:
            raise ModelError(f"{source}: the tensor {name} of {backbone.name} is missing")
        if state[name].shape != tensor.shape:
            raise ModelError(
                f"{source}: {name} of {backbone.name} must have shape {tuple(tensor.shape)}, got {tuple(state[name].shape)}"
            )
    if extra := sorted(set(state) - set(own_state)):
        raise ModelError(f"{source}: {backbone.name} has no tensor {extra[0]}")
    backbone.load_state_dict(dict(state))


def parse_safetensors(data: bytes, source: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file; raises `ModelError` if it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return dict(load(data))
    except (SafetensorError, KeyError, ValueError, RuntimeError, OverflowError) as error:
        raise ModelError(f"{source}: not a safetensors file ({first_line(error)})") from None


def read_state_dict(path: Path) -> dict[str, Any]:
    """Return the tensors in a file of weights, written as safetensors or by `torch.save`. The content shows which.

    A pickle may contain only tensors and plain containers; any other pickle is refused, and none of its code runs. The
    weights may be nested in other dictionaries; `from_state_dict` finds them. Raises `ModelError`.
    """
    require_torch(f"{path}: a file of torch weights")
    import torch

    size = path.stat().st_size
    if size > MAX_WEIGHTS:
        raise ModelError(f"{path}: a model in one file must have at most {MAX_WEIGHTS} bytes, got {size}")
    data = path.read_bytes()
    if is_safetensors(data):
        return parse_safetensors(data, str(path))
    _check_archive(data, path)
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message is not shown, because it advises to load the file without the restriction.
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it would run code of its own ({code[1]})" if code else "damaged, or not pickle protocol 2"
        raise ModelError(
            f"{path}: refused: {reason}; save the tensors alone with torch.save(network.state_dict(), FILE) where the "
            "network was trained"
        ) from None
    except Exception as error:  # damaged archives may raise any exception
        raise ModelError(f"{path}: cannot be read as torch weights ({first_line(error)})") from None
    if not isinstance(state, dict):
        raise ModelError(f"{path}: must be a dictionary of tensors (a state dict), got {type(state).__name__}")
    return state


def is_safetensors(data: bytes) -> bool:
    """Return whether a file begins like safetensors: the length of a header, then its opening brace."""
    return len(data) > 9 and int.from_bytes(data[:8], "little") < len(data) and data[8:9] == b"{"


def is_torch_file(start: bytes) -> bool:
    """Return whether a file begins like those of `torch.save`: a zip archive, or a pickle of protocol 2 (before 2020)."""
    return start[:4] == b"PK\x03\x04" or start[:2] == b"\x80\x02"


def _check_archive(data: bytes, path: Path) -> None:
    """Raise `ModelError` for an archive that is damaged, contains a program, or is compressed (torch's are not)."""
    try:
        if not zipfile.is_zipfile(io.BytesIO(data)):
            return  # a pickle from before 2020, or not a torch file
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            total = sum(entry.file_size for entry in archive.infolist())
            program = any(re.search(r"/(?:constants\.pkl|archive_format)$", name) for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError) as error:
        raise ModelError(f"{path}: a damaged archive ({first_line(error)})") from None
    if program:
        raise ModelError(
            f"{path}: contains a program (TorchScript or torch.export), not only weights; load it, for instance with "
            "torch.jit.load(FILE), and save its weights with torch.save(network.state_dict(), FILE)"
        )
    if total > len(data):
        raise ModelError(f"{path}: the archive has {len(data)} bytes but would unpack to {total}, unlike torch's files")


def require_torch(what: str) -> None:
    """Raise `RuntimeUnavailable` if torch or safetensors is not installed; the message says that `what` needs them."""
    try:
        import safetensors
        import torch  # noqa: F401
    except ImportError as error:
        raise RuntimeUnavailable(f"{what}: needs {error.name}; pip install 'facespace[train]'") from None
    del safetensors
