"""Loads weights that other programs saved, TensorFlow variables or state dicts of other projects, into backbones.

The network is recognised by the names and shapes of the weights, never by the file's name.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from facespace.backbones.backbone import MAX_DIMENSION, Backbone
from facespace.backbones.registry import known, option_names, skeleton
from facespace.errors import ModelError
from facespace.io.text import plain_text

Shape = tuple[int, ...]

# ---- TensorFlow ------------------------------------------------------------------------------------------------------

_SCOPES = {
    "InceptionResnetV1": "inception-resnet-v1",
    "InceptionResnetV2": "inception-resnet-v2",
    "squeezenet": "squeezenet",
}
_CAPITAL = re.compile(r"(?:mixed|branch|conv2d|repeat|bottleneck)(?=_|$)|block8$")
_LAYER = {"weight": "weights", "bias": "biases"}
_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
_RESNET50_LAYERS = {"reduce": "1x1_reduce", "middle": "3x3", "increase": "1x1_increase", "shortcut": "1x1_shortcut"}


def tensorflow_name(network: str, entry: str) -> str:
    """Return the name of the TensorFlow variable that an entry of a network's state dict is loaded from.

    Raises `ModelError` for a network that was not defined in TensorFlow.

    >>> tensorflow_name("inception-resnet-v1", "repeat.block35_1.branch_0.conv2d_1x1.batchnorm.running_var")
    'InceptionResnetV1/Repeat/block35_1/Branch_0/Conv2d_1x1/BatchNorm/moving_variance'
    """
    *scopes, leaf = entry.split(".")
    norm = scopes[-1] == "batchnorm"
    if norm:
        scopes.pop()
    if network == "resnet50":
        return _resnet50_name(scopes, leaf, norm)
    root = next((scope for scope, name in _SCOPES.items() if name == network), None)
    if root is None:
        raise ModelError(
            f"{network} has no TensorFlow original; only {', '.join(_SCOPES.values())} and resnet50 have one"
        )
    words = [_CAPITAL.sub(lambda word: word[0].capitalize(), scope) for scope in scopes]
    return "/".join([root, *words, *(["BatchNorm", _NORM[leaf]] if norm else [_LAYER[leaf]])])


def norms_of_scopes(backbone: Backbone, scopes: set[str]) -> list[str]:
    """Return the names of the network's batch norm modules that belong to these scopes of a TensorFlow graph."""
    variance = ".running_var"
    norms = [name.removesuffix(variance) for name in backbone.state_dict() if name.endswith(variance)]
    variables = {f"{scope}/BatchNorm/moving_variance" for scope in scopes}
    return [norm for norm in norms if tensorflow_name(backbone.name, norm + variance) in variables]


def _resnet50_name(scopes: list[str], leaf: str, norm: bool) -> str:
    last = _NORM[leaf] if norm else {"weight": "kernel", "bias": "bias"}[leaf]
    kind = "bn" if norm else "conv"
    if scopes == ["fc"]:
        return f"{'fbn' if norm else 'fc1'}/{last}"
    if scopes == ["stem"]:
        return f"{kind}1_1/3x3_s1/{last}"
    return f"{kind}{scopes[1]}_{_RESNET50_LAYERS[scopes[2]]}/{last}"


def _tensorflow_shape(shape: Shape) -> Shape:
    """Convert a shape (O,I,H,W) to (H,W,I,O), or (O,I) to (I,O)."""
    return (shape[2], shape[3], shape[1], shape[0]) if len(shape) == 4 else shape[::-1]


def from_tensorflow(variables: Mapping[str, npt.NDArray[Any]], *, source: str = "variables") -> Backbone:
    """Build the network that these TensorFlow variables belong to, in evaluation mode.

    The known networks are FaceNet's Inception-ResNet-v1 and -v2 and SqueezeNet, and Tiny-Face-Recognition's ResNet-50,
    with embeddings of any dimension. Batch norms have a gamma if the variables contain gammas. Variables that only
    training needs are ignored: optimizer slots, moving averages of weights, the classifier. Raises `ModelError` with
    the first variable that is missing, damaged, unknown or has a wrong shape; `source` names the file in its message.
    """
    name, options = _recognise(variables, source)
    network = skeleton(name, **options)
    names = {entry: tensorflow_name(name, entry) for entry in _entries(network)}
    state: dict[str, Tensor] = {}
    for entry, parameter in _entries(network).items():
        variable = names[entry]
        if variable not in variables:
            raise ModelError(f"{source}: {name} needs the variable {variable}, which is missing")
        array = np.asarray(variables[variable])
        _check_shape(array.shape, _tensorflow_shape(tuple(parameter.shape)), variable, name, source)
        if not np.issubdtype(array.dtype, np.floating):
            raise ModelError(f"{source}: {variable} must have floating-point numbers, got {array.dtype}")
        with np.errstate(over="ignore"):  # overflow becomes infinity, which `_with_weights` refuses
            state[entry] = torch.from_numpy(np.array(array, np.float32).transpose(_AXES[array.ndim]))
    expected = set(names.values())
    surplus = next((variable for variable in variables if _is_weight(variable) and variable not in expected), None)
    if surplus is not None:
        raise ModelError(f"{source}: {name} has no variable {_shown(surplus)}; this is another network")
    return _with_weights(network, state, names, source)


def _recognise(variables: Mapping[str, npt.NDArray[Any]], source: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the options of the network with these variables."""
    scopes = {variable.partition("/")[0] for variable in variables}
    name = next((network for scope, network in _SCOPES.items() if scope in scopes), None)
    if name is None and "conv1_1/3x3_s1/kernel" in variables:
        name = "resnet50"
    if name is None:
        raise ModelError(
            f"{source}: no known network has these variables; known are {', '.join(_SCOPES.values())} and resnet50, "
            f"the file's first variable is {_shown(next(iter(variables), 'none'))}"
        )
    last = tensorflow_name(name, "fc.weight" if name == "resnet50" else "bottleneck.weight")
    options = _scale_option(name, any(variable.endswith("/BatchNorm/gamma") for variable in variables))
    if last in variables:
        options["dimension"] = _dimension(np.shape(variables[last])[-1:], last, source)
    return name, options


def _is_weight(variable: str) -> bool:
    """Return whether a TensorFlow variable is a weight of one of FaceNet's networks, not a variable of the training."""
    scope, _, rest = variable.partition("/")
    return scope in _SCOPES and rest.rpartition("/")[2] in {*_LAYER.values(), *_NORM.values()}


_AXES: dict[int, Shape] = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}

# ---- state dicts -----------------------------------------------------------------------------------------------------

_WRAPPERS = ("state_dict", "model", "backbone", "state_dict_backbone")  # keys that are searched first
_MAX_NESTED = 64  # dicts that are searched
_MAX_PREFIXES = 32
_COUNTER = "num_batches_tracked"
_FACENET_PYTORCH = ("conv2d_1a.conv.weight", "last_bn.running_var")  # its first entry, and its last batch norm's


def from_state_dict(state: Mapping[str, Any], *, source: str = "state dict") -> Backbone:
    """Build the network of this state dict, in evaluation mode.

    The known networks are those of this package, facenet-pytorch's InceptionResnetV1, and arcface_torch's IResNets and
    MobileFaceNet, with embeddings of any dimension. The state dict may be nested in other dicts, as in checkpoints. The
    network may be part of a larger one under a prefix (`module.`, `model.backbone.`); the other parts, such as a
    classifier, are ignored. Raises `ModelError` if no network or several fit, or if an entry is missing, damaged or of
    a wrong shape; the message names the first of these entries, and the file as `source`.
    """
    nested = [tensors for tensors in map(_tensors, _dicts(state)) if tensors]
    if not nested:
        raise ModelError(f"{source}: no weights found; expected a state dict, which maps names to tensors")
    for tensors in nested:
        parts = {prefix: _under(tensors, prefix) for prefix in _prefixes(tensors)}
        fits = {prefix: name for prefix, part in parts.items() if (name := _fitting(part))}
        if len(fits) > 1:
            several = " and ".join(repr(plain_text(prefix[:40])) for prefix in sorted(fits)[:3])
            raise ModelError(
                f"{source}: contains several networks, under {several}; save the state dict of one of them"
            )
        for prefix, name in fits.items():
            part = parts[prefix]
            if _FACENET_PYTORCH[0] in part:
                return _from_facenet_pytorch(part, source)
            scaled = _is_scaled(part)
            last = list(_shapes(name, scaled))[-1]  # the features' batch norm
            dimension = _dimension(tuple(part[last].shape), last, source)
            network = skeleton(name, dimension=dimension, **_scale_option(name, scaled))
            return _with_weights(network, part, {}, source)
    raise _nothing_fits(max(nested, key=len), source)


def _nothing_fits(tensors: Mapping[str, Tensor], source: str) -> ModelError:
    """Return an error that says how the weights differ from the closest network."""
    tensors = _under(tensors, _common_prefix(tensors))
    names = _names(tensors)
    shapes = {name: _shapes(name, _is_scaled(tensors)) for name in known()}
    name = max(shapes, key=lambda name: (len(names & shapes[name].keys()), -len(shapes[name].keys() - names)))
    if not names & shapes[name].keys():
        return ModelError(
            f"{source}: no known network has these weights; the first is {_shown(min(names, default='none'))}"
        )
    missing = next((entry for entry in shapes[name] if entry not in names), None)
    if missing is not None:
        return ModelError(f"{source}: {name}, the closest known network, needs {missing}, which is missing")
    surplus = _shown(min(names - shapes[name].keys()))
    return ModelError(f"{source}: {name}, the closest known network, has no {surplus}; this is another network")


def _dicts(state: Any) -> list[Mapping[Any, Any]]:
    """Return `state` and the dicts nested in it: outer before inner dicts, and those under a usual key first."""
    found: list[Mapping[Any, Any]] = [state] if isinstance(state, Mapping) else []
    for outer in found:
        inner = [outer[key] for key in _WRAPPERS if isinstance(outer.get(key), Mapping)]
        inner += [value for value in outer.values() if isinstance(value, Mapping)]
        found += [value for value in inner if not any(value is other for other in found)][: _MAX_NESTED - len(found)]
    return found


def _tensors(state: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, Tensor)}


def _prefixes(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return possible prefixes of the tensors' names: what precedes the last batch norm's, and what all names share."""
    ends = {list(_shapes(name, scaled=False))[-1] for name in known()} | {_FACENET_PYTORCH[1]}
    found = {"", _common_prefix(tensors)}
    for key in tensors:
        found |= {prefix for end in ends if (prefix := key.removesuffix(end)) != key and prefix.endswith(".")}
    return sorted(found, key=lambda prefix: (len(prefix), prefix))[:_MAX_PREFIXES]


def _common_prefix(tensors: Mapping[str, Tensor]) -> str:
    first, last = min(tensors), max(tensors)  # a prefix of these two is a prefix of all
    n_alike = next((k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[: first.rfind(".", 0, n_alike) + 1]


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _names(tensors: Mapping[str, Tensor]) -> set[str]:
    return {entry for entry in tensors if not entry.endswith(_COUNTER)}


def _is_scaled(tensors: Mapping[str, Tensor]) -> bool:
    return any(entry.endswith("batchnorm.weight") for entry in tensors)


def _fitting(tensors: Mapping[str, Tensor]) -> str:
    """Return the name of the network with these weights, or an empty string if no network has them.

    The weights must contain all entries of the network, and no other entries within its modules.
    """
    if _FACENET_PYTORCH[0] in tensors:
        return "inception-resnet-v1"
    names = _names(tensors)
    for name in known():
        required = _shapes(name, _is_scaled(tensors)).keys()
        if required <= names:
            modules = {entry.partition(".")[0] for entry in required}
            if not any(entry.partition(".")[0] in modules for entry in names - required):
                return name
    return ""


def _from_facenet_pytorch(tensors: Mapping[str, Tensor], source: str) -> Backbone:
    name = "inception-resnet-v1"
    last = _FACENET_PYTORCH[1]
    if last not in tensors:
        raise ModelError(f"{source}: facenet-pytorch's InceptionResnetV1 needs {last}, which is missing")
    # The published weights are from TensorFlow: all their gammas are 1.
    gammas = [_checked(value, key, key, source) for key, value in tensors.items() if key.endswith("bn.weight")]
    options: dict[str, Any] = {"dimension": _dimension(tuple(tensors[last].shape), last, source)}
    if any(bool((gamma != 1).any()) for gamma in gammas):
        options["batch_norm_scale"] = True
    network = skeleton(name, **options)
    theirs = {entry: facenet_pytorch_name(network, entry) for entry in _entries(network)}
    state = {entry: tensors[key] for entry, key in theirs.items() if key in tensors}
    return _with_weights(network, state, theirs, source)


def facenet_pytorch_name(network: Backbone, entry: str) -> str:
    """Return facenet-pytorch's name of an entry in Inception-ResNet-v1's state dict.

    facenet-pytorch numbers the blocks from 0. It also numbers the layers of a branch, unless the branch has only one.
    """
    *path, leaf = entry.split(".")
    norm = path[-1] == "batchnorm"
    if norm:
        path.pop()
    if path == ["bottleneck"]:
        return f"{'last_bn' if norm else 'last_linear'}.{leaf}"
    words: list[str] = []
    for depth, word in enumerate(path):
        if word.startswith("repeat"):
            words.append(f"repeat_{int(word.partition('_')[2] or 0) + 1}")
        elif word.startswith("block") and depth:
            words.append(str(int(word.rpartition("_")[2]) - 1))
        elif word.startswith("branch"):
            words.append(word.replace("_", ""))
        elif depth and path[depth - 1].startswith("branch"):
            siblings = list(dict(network.get_submodule(".".join(path[:depth])).named_children()))
            words += [str(siblings.index(word))] if len(siblings) > 1 else []
        elif word == "conv2d_1x1":  # joins the branches of a block and has no batch norm
            return ".".join([*words, "conv2d", leaf])
        else:
            words.append(re.sub(r"_\dx\d$", "", word))
    return ".".join([*words, "bn" if norm else "conv", leaf])


# ---- both ------------------------------------------------------------------------------------------------------------


def _entries(network: Backbone) -> dict[str, Tensor]:
    """Return a network's state dict without the counters of batch norms, which not every program saves."""
    return {key: value for key, value in network.state_dict().items() if not key.endswith(_COUNTER)}


def _scale_option(name: str, scaled: bool) -> dict[str, Any]:
    return {"batch_norm_scale": True} if scaled and "batch_norm_scale" in option_names(name) else {}


@functools.cache
def _shapes(name: str, scaled: bool) -> dict[str, Shape]:
    """Return the names and shapes of a network's weights at its default dimension."""
    network = skeleton(name, **_scale_option(name, scaled))
    return {entry: tuple(value.shape) for entry, value in _entries(network).items()}


def _dimension(shape: Shape, entry: str, source: str) -> int:
    """Return the dimension of the features from the shape of a vector."""
    if len(shape) != 1 or not 1 <= shape[0] <= MAX_DIMENSION:
        raise ModelError(f"{source}: {entry} must have 1 to {MAX_DIMENSION} features, its shape ends in {list(shape)}")
    return int(shape[0])


def _check_shape(given: Shape, expected: Shape, entry: str, name: str, source: str) -> None:
    if tuple(given) != expected:
        raise ModelError(f"{source}: {entry} of {name} must have the shape {list(expected)}, got {list(given)}")


def _with_weights(network: Backbone, state: Mapping[str, Tensor], theirs: Mapping[str, str], source: str) -> Backbone:
    """Load weights into a `skeleton`; `theirs` gives an entry's name in the file where it differs."""
    weights = {}
    for entry, parameter in _entries(network).items():
        called = theirs.get(entry, entry)
        if entry not in state:
            raise ModelError(f"{source}: {network.name} needs {called}, which is missing")
        _check_shape(tuple(state[entry].shape), tuple(parameter.shape), called, network.name, source)
        weights[entry] = _checked(state[entry], entry, called, source)
    network.to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.reset_parameters()  # initialises counters, and scales that are not in the state dict
    network.load_state_dict(weights, strict=False)
    return network.eval()


def _checked(value: Tensor, entry: str, called: str, source: str) -> Tensor:
    if not value.is_floating_point() or value.is_meta or value.layout != torch.strided:
        raise ModelError(f"{source}: {called} must be a plain tensor of floating-point numbers, got {value.dtype}")
    if value.untyped_storage().nbytes() < value.numel() * value.element_size():
        raise ModelError(f"{source}: {called} is damaged: it claims more numbers than the file contains")
    value = value.detach().to("cpu", torch.float32)
    if not bool(value.isfinite().all()) or (entry.endswith("running_var") and bool((value < 0).any())):
        raise ModelError(f"{source}: {called} is damaged: it has numbers that are not finite, or negative variances")
    return value


def _shown(name: object) -> str:
    return repr(plain_text(str(name))[:100])
