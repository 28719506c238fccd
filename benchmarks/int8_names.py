"""SFace with its convolutions in 8-bit integers: what it names, and how fast it is, next to float32 and bfloat16.

Every convolution but the first gets its input as uint8 (scale and zero point for the whole map) and its weights as int8 (a
scale for each output channel). Before that, channels are equalized over PReLU: PReLU(s·x) = s·PReLU(x) for s > 0, so a
channel is divided by s in one convolution and multiplied by s in the next, with s = r^α / w^(1 − α), r the channel's range and
w the next convolution's largest weight for it (Nagel et al. 2019, SmoothQuant's exponent α = 0.75). The ranges are those of
crops of ../shared/data/train_182 (CelebA); the names are those of `precision_names.py`.

facespace does not do this: the result says what it would change.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

import facespace
import precision_names
from facespace.embedding.embedder import Embedder
from facespace.models.opening import open_model
from facespace.pipeline.sample_crops import sample_crops
from facespace.runtime.cores import usable_cores
from facespace.runtime.onnx_network import OnnxNetwork
from speed import processor

N_CROPS, ALPHA, BATCH = 300, 0.75, 10
Ranges = dict[str, tuple[np.ndarray, np.ndarray]]  # least and largest value of each channel


def folded(model: Any) -> Any:
    """The same network with each batch normalization folded into the convolution before it."""
    graph = model.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    maker = {node.output[0]: node for node in graph.node}
    renamed: dict[str, str] = {}
    nodes = []
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        before = maker.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if before is None or before.op_type != "Conv":
            nodes.append(node)
            continue
        epsilon = next((value.f for value in node.attribute if value.name == "epsilon"), 1e-5)
        scale, shift, mean, variance = (weights[name].astype(np.float64) for name in node.input[1:5])
        factor = scale / np.sqrt(variance + epsilon)
        bias = weights[before.input[2]] * factor if len(before.input) > 2 else 0
        kernel, new = before.input[1], (f"folded_kernel_{len(renamed)}", f"folded_bias_{len(renamed)}")
        weights[new[0]] = (weights[kernel] * factor[:, None, None, None]).astype(np.float32)
        weights[new[1]] = (shift - mean * factor + bias).astype(np.float32)
        before.input[:] = [before.input[0], *new]
        renamed[node.output[0]] = before.output[0]
    return with_parts(model, nodes, weights)


def with_parts(model: Any, nodes: list[Any], weights: dict[str, np.ndarray]) -> Any:
    """The model with these nodes, and those of the weights that they use."""
    nodes = [type(node).FromString(node.SerializeToString()) for node in nodes]
    needed = {name for node in nodes for name in node.input}
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in weights.items() if name in needed
    )
    return model


def channel_ranges(model: Any, images: np.ndarray) -> Ranges:
    """The least and the largest value of each channel (C,) that goes into each convolution, by the name of the map."""
    model = onnx.load_from_string(model.SerializeToString())
    names = sorted({node.input[0] for node in model.graph.node if node.op_type == "Conv"})
    for name in names:
        model.graph.output.add(name=name)
    network = OnnxNetwork(model.SerializeToString(), source="sface", precision="float32", runtime="onnxruntime")
    outputs = list(network.outputs)
    found: Ranges = {}
    for start in range(0, len(images), BATCH):
        values = dict(zip(outputs, network.run(images[start : start + BATCH]), strict=True))
        for name in names:
            low, high = values[name].min(axis=(0, 2, 3)), values[name].max(axis=(0, 2, 3))
            if name in found:
                low, high = np.minimum(low, found[name][0]), np.maximum(high, found[name][1])
            found[name] = low, high
    return found


def equalized(model: Any, ranges: Ranges) -> tuple[Any, Ranges]:
    """The same network with channels of about one range between two convolutions, and its ranges."""
    model = onnx.load_from_string(model.SerializeToString())
    graph = model.graph
    weights = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in graph.initializer}
    maker = {node.output[0]: node for node in graph.node}
    ranges = dict(ranges)
    for after in graph.node:
        prelu = maker.get(after.input[0]) if after.op_type == "Conv" else None
        if prelu is None or prelu.op_type != "PRelu":
            continue
        before = maker[prelu.input[0]]
        low, high = ranges[after.input[0]]
        largest = np.maximum(np.maximum(-low, high), 1e-6)
        kernel = weights[after.input[1]]
        depthwise = kernel.shape[1] == 1
        if depthwise:
            scale = largest
        else:
            scale = largest**ALPHA / np.maximum(np.abs(kernel).max(axis=(0, 2, 3)), 1e-9) ** (1 - ALPHA)
        scale = scale / np.exp(np.log(scale).mean())
        weights[before.input[1]] = (weights[before.input[1]] / scale[:, None, None, None]).astype(np.float32)
        weights[before.input[2]] = (weights[before.input[2]] / scale).astype(np.float32)
        across = scale[:, None, None, None] if depthwise else scale[None, :, None, None]
        weights[after.input[1]] = (kernel * across).astype(np.float32)
        ranges[after.input[0]] = low / scale, high / scale
    return with_parts(model, list(graph.node), weights), ranges


def in_integers(model: Any, ranges: Ranges) -> bytes:
    """The model with all convolutions but the first in integers."""
    graph = model.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes: list[Any] = []
    first = True
    for n, node in enumerate(graph.node):
        if node.op_type == "Conv" and not first:
            low, high = (
                float(value)
                for value in (min(ranges[node.input[0]][0].min(), 0), max(ranges[node.input[0]][1].max(), 0))
            )
            scale = (high - low) / 255
            kernel = weights[node.input[1]]
            largest = np.abs(kernel).max(axis=(1, 2, 3))
            steps = np.where(largest > 0, largest / 127, 1).astype(np.float32)
            new = {
                "scale": np.array(scale, np.float32), "zero": np.array(np.clip(np.rint(-low / scale), 0, 255), np.uint8),
                "kernel": np.rint(kernel / steps[:, None, None, None]).astype(np.int8), "steps": steps,
                "zeros": np.zeros(len(steps), np.int8),
            }  # fmt: skip
            weights |= {f"int8_{name}_{n}": value for name, value in new.items()}
            by = [f"int8_scale_{n}", f"int8_zero_{n}"]
            nodes += [
                helper.make_node("QuantizeLinear", [node.input[0], *by], [f"int8_rounded_{n}"]),
                helper.make_node("DequantizeLinear", [f"int8_rounded_{n}", *by], [f"int8_map_{n}"]),
                helper.make_node("DequantizeLinear", [f"int8_{name}_{n}" for name in ("kernel", "steps", "zeros")], [f"int8_float_{n}"], axis=0),
            ]  # fmt: skip
            node.input[0], node.input[1] = f"int8_map_{n}", f"int8_float_{n}"
        first = first and node.op_type != "Conv"
        nodes.append(node)
    data: bytes = with_parts(model, nodes, weights).SerializeToString()
    return data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    args = parser.parse_args()
    opened = open_model("sface")
    assert opened.read_onnx is not None
    model = folded(onnx.load_from_string(opened.read_onnx()))
    crops = sample_crops(args.shared / "data/train_182", opened.spec, N_CROPS)
    images = opened.spec.preprocess(crops, channels_first=True)
    even, ranges = equalized(model, channel_ranges(model, images))
    float32, default = Embedder.load("sface", precision="float32"), Embedder.load("sface")
    integers = Embedder.load("sface", precision="float32")
    integers._network = OnnxNetwork(in_integers(even, ranges), source="sface in integers")
    embedders = {"float32": float32, "int8": integers}
    print(f"{processor()}, {usable_cores()} cores, {integers.runtime}; ranges of {len(crops)} crops")
    detector = facespace.create_detector(float32.detector)
    precision_names.album(args.shared, embedders, detector)
    precision_names.groups(args.shared, embedders, detector)
    precision_names.view1(args.shared, embedders, detector)

    print("\nms a crop, median (least) of 15 rounds")
    compared = embedders | ({} if default.precision == "float32" else {default.precision: default})
    for batch in (1, 8, 64):
        times: dict[str, list[float]] = {name: [] for name in compared}
        for turn in range(16):
            for name, embedder in compared.items():
                start = time.perf_counter()
                for _ in range(64 // batch):
                    embedder.embed(crops[:batch])
                if turn:  # the first compiles
                    times[name].append((time.perf_counter() - start) / 64 * 1e3)
        shown = ", ".join(f"{name} {statistics.median(some):.2f} ({min(some):.2f})" for name, some in times.items())
        print(f"  batch {batch:2}: {shown}")


if __name__ == "__main__":
    main()
