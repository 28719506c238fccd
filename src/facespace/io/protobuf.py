"""Protobuf without generated code: makes message classes from plain data, and counts messages before parsing.

A parsed message takes many times its size in the file, so two gigabytes of tiny messages would take all memory. The wire
format is described at https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto
SCALARS = {
    "int32": _FIELD.TYPE_INT32,
    "int64": _FIELD.TYPE_INT64,
    "float": _FIELD.TYPE_FLOAT,
    "bool": _FIELD.TYPE_BOOL,
    "string": _FIELD.TYPE_STRING,
    "bytes": _FIELD.TYPE_BYTES,
}


MAX_WEIGHTS = 2**31 - 1  # bytes; protobuf's limit for one message


Schema = Mapping[str, list[tuple[str, int, str]]]

MAX_MESSAGES = 2**22  # including strings and bytes; a face network with its training has a tenth of that
_WHOLE_NUMBERS = ("int32", "int64", "bool")
_NUMBERS_PER_MESSAGE = (
    4  # whole numbers that cost as much as a message: each has one byte in the file, eight when parsed
)


def check_message_count(data: bytes, schema: Schema, root: str, limit: int = MAX_MESSAGES) -> None:
    """Raise `ValueError` if a message `root` of `schema` contains more than `limit` messages, strings and bytes in total.

    Four numbers count as one message, except packed floating-point numbers, which take no more memory than in the file.
    Groups are refused, because no format here uses them. The count ends at bytes that are not a message: the parser reads
    in the same order and stops there too.

    >>> schema = {"Item": [("name", 1, "string")], "List": [("item", 1, "Item*")]}
    >>> check_message_count(b"\\n\\x00" * 3, schema, "List", limit=3)
    >>> check_message_count(b"\\n\\x00" * 4, schema, "List", limit=3)
    Traceback (most recent call last):
    ValueError: it contains more than 3 messages
    """
    fields = {name: {number: kind.rstrip("*") for _, number, kind in entries} for name, entries in schema.items()}
    units, most = 0, limit * _NUMBERS_PER_MESSAGE
    position, end = 0, len(data)
    inside = fields[root]
    outer: list[tuple[int, dict[int, str]]] = []
    while True:
        while position >= end:
            if not outer:
                return
            end, inside = outer.pop()
        key = data[position]  # fast path: most numbers are below 128, one byte
        position += 1
        if key >= 128:
            key, position = read_varint(data, position - 1, end)
        kind = key & 7
        within = None
        if kind == 2:
            if position >= end:
                return
            length = data[position]
            position += 1
            if length >= 128:
                length, position = read_varint(data, position - 1, end)
            if position < 0 or position + length > end:
                return
            what = inside.get(key >> 3)
            if what is None:
                units += 1
            elif what in _WHOLE_NUMBERS:
                units += _NUMBERS_PER_MESSAGE + length
            else:
                units += _NUMBERS_PER_MESSAGE
                within = fields.get(what)
            if within is None:
                position += length
        elif kind in (3, 4):
            raise ValueError("it contains a group")
        elif kind in (0, 1, 5):
            units += 1
            if kind == 0:
                _, position = read_varint(data, position, end)
            else:
                position += 8 if kind == 1 else 4
        else:
            return
        if position < 0:
            return
        if units > most:
            raise ValueError(f"it contains more than {limit} messages")
        if within is not None:
            outer.append((end, inside))
            end, inside = position + length, within


def read_varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Return the varint at `position` and the position after it, or (0, −1) if no whole varint is before `end`."""
    value = shift = 0
    while 0 <= position < end and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
    return 0, -1


def message_class(package: str, messages: dict[str, list[tuple[str, int, str]]], root: str) -> Any:
    """Return the protobuf class `root` of a schema given as plain data, without generated code; see `message_classes`."""
    return message_classes(package, messages, root)[0]


def message_classes(package: str, messages: dict[str, list[tuple[str, int, str]]], *names: str) -> list[Any]:
    """Return the protobuf classes `names` of a schema given as plain data, without generated code.

    A field type is a key of `SCALARS` or another message's name, with a trailing `*` if the field is repeated.
    """
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind in fields:
            repeated = kind.endswith("*")
            kind = kind.rstrip("*")
            field = message.field.add(
                name=field_name,
                number=number,
                label=_FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL,
            )
            if kind in SCALARS:
                field.type = SCALARS[kind]
            else:
                field.type = _FIELD.TYPE_MESSAGE
                field.type_name = f".{package}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return [message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in names]
