"""ONNX files in the forms that other programs write, made from small graphs."""

from __future__ import annotations

from pathlib import Path

from facespace.formats.onnx_model import parse_model


def with_weights_beside(data: bytes, beside: Path, *, says: dict[str, dict[str, str]] | None = None) -> bytes:
    """Return the model with its initializers stored in `beside`; `says` overrides entries of one of them, by its
    number.
    """
    model, offset, parts = parse_model(data, "test"), 0, []
    for index, tensor in enumerate(model.graph.initializer):
        entries = {"location": beside.name, "offset": str(offset), "length": str(len(tensor.raw_data))}
        for key, value in {**entries, **(says or {}).get(str(index), {})}.items():
            tensor.external_data.add(key=key, value=value)
        parts.append(tensor.raw_data)
        offset += len(tensor.raw_data)
        tensor.raw_data, tensor.data_location = b"", 1
    beside.write_bytes(b"".join(parts))
    return model.SerializeToString()
