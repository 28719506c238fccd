"""Builds TensorFlow 1 graphs node by node, with slow reference implementations of their operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from facespace.formats.tf_graph import GraphDef

CODES = {"f": 1, "i": 3, "b": 10}


class Graph:
    """Builds a GraphDef by hand; every method returns the name of its node."""

    def __init__(self) -> None:
        self.message = GraphDef()
        self.count = 0

    def node(self, op: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        self.count += 1
        node = self.message.node.add(name=name or f"{op}_{self.count}", op=op, input=inputs)
        for key, value in attributes.items():
            entry = node.attr.add(key=key).value
            if isinstance(value, bool):
                entry.b = value
            elif isinstance(value, int):
                entry.i = value
            elif isinstance(value, float):
                entry.f = value
            elif isinstance(value, bytes):
                entry.s = value
            else:
                entry.list.i.extend(value)
        return str(node.name)

    def const(self, array: Any, name: str | None = None) -> str:
        array = np.asarray(array)
        array = array.astype({"f": np.float32, "i": np.int32, "b": np.bool_}[array.dtype.kind])
        name = self.node("Const", name=name)
        tensor = self.message.node[-1].attr.add(key="value").value.tensor
        tensor.dtype = CODES[array.dtype.kind]
        for size in array.shape:
            tensor.tensor_shape.dim.add(size=size)
        tensor.tensor_content = array.tobytes()
        return name

    def images(self) -> str:
        return self.node("Placeholder", name="input")

    def flag(self, name: str = "phase_train") -> str:
        """Add a boolean placeholder."""
        name = self.node("Placeholder", name=name)
        self.message.node[-1].attr.add(key="dtype").value.type = 10
        return name

    def conv(self, x: str, kernel: np.ndarray, stride: int = 1, padding: bytes = b"SAME", **more: Any) -> str:
        return self.node("Conv2D", x, self.const(kernel), strides=[1, stride, stride, 1], padding=padding, **more)

    def mean(self, x: str) -> str:
        """Add features (N,C) as means of maps, which every graph must end with."""
        return self.node("Mean", x, self.const([1, 2]), keep_dims=False)

    def embeddings(self, x: str) -> bytes:
        self.node("Identity", x, name="embeddings")
        return self.bytes()

    def bytes(self) -> bytes:
        data: bytes = self.message.SerializeToString()
        return data


def images_of(n: int = 2, height: int = 7, width: int = 8, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, height, width, channels)).astype(np.float32)


def kernel_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def windows(x: np.ndarray, size: int, stride: int, padding: bytes, fill: float):
    """Return (rows, columns, function from output place to window), padded as in TensorFlow: the odd pixel at the end."""
    sides = []
    for length in x.shape[1:3]:
        if padding == b"SAME":
            out = -(-length // stride)
            total = max((out - 1) * stride + size - length, 0)
        else:
            out, total = (length - size) // stride + 1, 0
        sides.append((out, total // 2, total - total // 2))
    (rows, top, bottom), (columns, left, right) = sides
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
    return rows, columns, lambda i, j: padded[:, i * stride : i * stride + size, j * stride : j * stride + size]


def slow_conv(x: np.ndarray, kernel: np.ndarray, stride: int, padding: bytes) -> np.ndarray:
    rows, columns, window = windows(x, kernel.shape[0], stride, padding, 0.0)
    out = np.zeros((len(x), rows, columns, kernel.shape[3]))
    for i in range(rows):
        for j in range(columns):
            out[:, i, j] = np.tensordot(window(i, j), kernel, axes=3)
    return out


def slow_pool(x: np.ndarray, size: int, stride: int, padding: bytes, op: str) -> np.ndarray:
    rows, columns, window = windows(x, size, stride, padding, np.nan)
    reduce = np.nanmax if op == "MaxPool" else np.nanmean
    out = np.zeros((len(x), rows, columns, x.shape[3]))
    for i in range(rows):
        for j in range(columns):
            out[:, i, j] = reduce(window(i, j), axis=(1, 2))
    return out


def switched(order: int, *, switch_itself: bool = False) -> bytes:
    """Add cond(phase_train, x·100, x+1) as TensorFlow 1 writes it."""
    g = Graph()
    x = g.mean(g.images())
    phase = g.node("PlaceholderWithDefault", g.const(False), name="phase_train")
    switch = g.node("Switch", x, phase)
    evaluated = g.node("Add", f"{switch}:0", g.const(np.float32(1)))
    trained = f"{switch}:1" if switch_itself else g.node("Mul", f"{switch}:1", g.const(np.float32(100)))
    return g.embeddings(g.node("Merge", *[evaluated, trained][::order], "^phase_train"))


def cond(g: Graph, phase: str, trained: Callable[[str], str], evaluated: Callable[[str], str], *inputs: str) -> str:
    """Add `tf.cond(phase, …)` as TensorFlow 1 writes it; the functions get a node to attach constants to, and the
    inputs.
    """
    switch = g.node("Switch", phase, phase)
    pivots = g.node("Identity", f"{switch}:1"), g.node("Identity", switch)
    g.node("Identity", phase)
    switched = [g.node("Switch", name, phase) for name in inputs]
    branches = evaluated(f"^{pivots[1]}", *switched), trained(f"^{pivots[0]}", *(f"{name}:1" for name in switched))
    return g.node("Merge", *branches)
