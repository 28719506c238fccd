"""Writes and reads ONNX models with google.protobuf alone.

The `onnx` package has tens of megabytes, but recognition needs only a few messages of the format. They are declared here
from the public schema (onnx.proto, IR version 8); everything else in the schema is ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from facespace.errors import ModelError
from facespace.io.protobuf import check_message_count, message_classes
from facespace.io.text import plain_text

OPSET = 13
IR_VERSION = 8


# message → (field, number, type); a type ending in * is repeated; a type that is not a scalar names a message.
_ONNX = {
    "Tensor": [
        ("dims", 1, "int64*"),
        ("data_type", 2, "int32"),
        ("float_data", 4, "float*"),
        ("int64_data", 7, "int64*"),
        ("name", 8, "string"),
        ("raw_data", 9, "bytes"),
        ("external_data", 13, "Property*"),
        ("data_location", 14, "int32"),
    ],
    "Attribute": [
        ("name", 1, "string"),
        ("f", 2, "float"),
        ("i", 3, "int64"),
        ("s", 4, "bytes"),
        ("t", 5, "Tensor"),
        ("floats", 7, "float*"),
        ("ints", 8, "int64*"),
        ("type", 20, "int32"),
    ],
    "Node": [
        ("input", 1, "string*"),
        ("output", 2, "string*"),
        ("name", 3, "string"),
        ("op_type", 4, "string"),
        ("attribute", 5, "Attribute*"),
        ("domain", 7, "string"),
    ],
    "Dimension": [("dim_value", 1, "int64"), ("dim_param", 2, "string")],
    "Shape": [("dim", 1, "Dimension*")],
    "TensorType": [("elem_type", 1, "int32"), ("shape", 2, "Shape")],
    "Type": [("tensor_type", 1, "TensorType")],
    "ValueInfo": [("name", 1, "string"), ("type", 2, "Type")],
    "Graph": [
        ("node", 1, "Node*"),
        ("name", 2, "string"),
        ("initializer", 5, "Tensor*"),
        ("input", 11, "ValueInfo*"),
        ("output", 12, "ValueInfo*"),
        ("value_info", 13, "ValueInfo*"),
    ],
    "OperatorSet": [("domain", 1, "string"), ("version", 2, "int64")],
    "Property": [("key", 1, "string"), ("value", 2, "string")],
    "Model": [
        ("ir_version", 1, "int64"),
        ("producer_name", 2, "string"),
        ("graph", 7, "Graph"),
        ("opset_import", 8, "OperatorSet*"),
        ("metadata_props", 14, "Property*"),
    ],
}

_DTYPES: dict[np.dtype[Any], int] = {
    np.dtype(np.float32): 1,
    np.dtype(np.uint8): 2,
    np.dtype(np.int8): 3,
    np.dtype(np.int32): 6,
    np.dtype(np.int64): 7,
    np.dtype(np.bool_): 9,
    np.dtype(np.float16): 10,
    np.dtype(np.float64): 11,
}
FLOAT, HALF, DOUBLE = (_DTYPES[np.dtype(kind)] for kind in (np.float32, np.float16, np.float64))
_FROM_CODE = {code: dtype for dtype, code in _DTYPES.items()}


_Model, _Node = message_classes("facespace.onnx", _ONNX, "Model", "Node")


class GraphBuilder:
    """Builds one ONNX graph node by node; the methods return the names of the values they add.

    >>> graph = GraphBuilder()
    >>> x = graph.input("x", np.float32, ["n", 2])
    >>> y = graph.node("MatMul", [x, graph.constant(np.eye(2, dtype=np.float32))])
    >>> graph.output(y, "y", np.float32, ["n", 2])
    >>> len(graph.serialize()) > 0
    True
    """

    def __init__(self) -> None:
        self._model = _Model(ir_version=IR_VERSION, producer_name="facespace")
        self._model.opset_import.add(version=OPSET)
        self._graph = self._model.graph
        self._graph.name = "facespace"
        self._count = 0

    def _fresh(self, stem: str) -> str:
        self._count += 1
        return f"{stem}_{self._count}"

    def input(self, name: str, dtype: npt.DTypeLike, shape: Sequence[int | str]) -> str:
        """Declare an input; a size given as a string is free."""
        describe(self._graph.input.add(name=name), dtype, shape)
        return name

    def output(self, value: str, name: str, dtype: npt.DTypeLike, shape: Sequence[int | str]) -> None:
        """Publish `value` as the graph's output `name`."""
        self._graph.node.add(op_type="Identity", name=f"output_{name}", input=[value], output=[name])
        describe(self._graph.output.add(name=name), dtype, shape)

    def constant(self, array: npt.NDArray[Any]) -> str:
        """Write an array into the model."""
        name = self._fresh("constant")
        add_tensor(self._graph, name, array)
        return name

    def node(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Append one operator with a single output; attributes are int, float, str or sequences of int."""
        output = self._fresh(op)
        self._graph.node.append(new_node(op, output, inputs, attributes))
        return output

    def serialize(self) -> bytes:
        """Return the model as the bytes of an ONNX file."""
        data: bytes = self._model.SerializeToString()
        return data


def new_node(op: str, output: str, inputs: Sequence[str], attributes: Mapping[str, Any]) -> Any:
    """Return a NodeProto with one output; attributes are int, float, str or sequences of int."""
    node = _Node(op_type=op, name=output, input=inputs, output=[output])
    for key, value in attributes.items():
        attribute = node.attribute.add(name=key)
        if isinstance(value, float):
            attribute.f, attribute.type = value, 1
        elif isinstance(value, int):
            attribute.i, attribute.type = value, 2
        elif isinstance(value, str):
            attribute.s, attribute.type = value.encode(), 3
        else:
            attribute.ints.extend(int(number) for number in value)
            attribute.type = 7
    return node


def add_tensor(graph: Any, name: str, array: npt.NDArray[Any]) -> None:
    """Add an array to a GraphProto as its constant `name`."""
    tensor = graph.initializer.add(name=name)
    tensor.dims.extend(array.shape)
    tensor.data_type = _DTYPES[array.dtype]
    tensor.raw_data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def describe(info: Any, dtype: npt.DTypeLike, shape: Sequence[int | str]) -> None:
    """Set the type and shape of a ValueInfoProto; a size given as a string is free."""
    tensor = info.type.tensor_type
    tensor.elem_type = _DTYPES[np.dtype(dtype)]
    for size in shape:
        if isinstance(size, str):
            tensor.shape.dim.add(dim_param=size)
        else:
            tensor.shape.dim.add(dim_value=size)


def copied(message: Any) -> Any:
    """Return a copy of a protobuf message, which stays valid when the message is removed from its list."""
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def parse_model(data: bytes, source: str) -> Any:
    """Return the parsed ModelProto of an ONNX file; raises `ModelError`, which names `source`, if it is not one."""
    model = _Model()
    try:
        check_message_count(data, _ONNX, "Model")
        model.ParseFromString(data)
    except (DecodeError, ValueError) as error:
        raise ModelError(f"{source}: not an ONNX model ({error})") from None
    if not model.graph.node:
        raise ModelError(f"{source}: not an ONNX model (it has no operators)")
    return model


def read_weights(data: bytes, source: str) -> dict[str, npt.NDArray[Any]]:
    """Return the constants (initializers) of an ONNX file by name."""
    return {tensor.name: read_tensor(tensor, source) for tensor in parse_model(data, source).graph.initializer}


def element_size(data_type: int) -> int | None:
    """Return the size in bytes of one number of an ONNX type; None for an unsupported type."""
    dtype = _FROM_CODE.get(data_type)
    return None if dtype is None else dtype.itemsize


def read_tensor(tensor: Any, source: str) -> npt.NDArray[Any]:
    """Return the array in a TensorProto; raises `ModelError`, which names `source`, if it is damaged or unsupported."""
    dtype, name = _FROM_CODE.get(tensor.data_type), plain_text(tensor.name)
    if dtype is None:
        raise ModelError(f"{source}: constant {name} has the unsupported type {tensor.data_type}")
    shape = tuple(tensor.dims)
    try:
        values: npt.NDArray[Any] = (
            np.frombuffer(tensor.raw_data, dtype=dtype.newbyteorder("<"))
            if tensor.raw_data
            else np.asarray(tensor.float_data if dtype == np.float32 else tensor.int64_data, dtype=dtype)
        )
    except (ValueError, OverflowError) as error:
        raise ModelError(f"{source}: constant {name} is damaged ({error})") from None
    if min(shape, default=0) < 0 or values.size != math.prod(shape):
        raise ModelError(f"{source}: constant {name} has {values.size} values for shape {shape}")
    return values.reshape(shape).astype(dtype)
