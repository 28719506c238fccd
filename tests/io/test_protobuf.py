"""Counting the messages in a protobuf file, compared with the parsed message."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings, strategies as st

from facespace.io.protobuf import check_message_count, message_class

SCHEMA = {
    "Leaf": [("number", 1, "int64"), ("text", 2, "string"), ("ratios", 3, "float*"), ("many", 20, "int64*")],
    "Branch": [("leaf", 1, "Leaf*"), ("name", 2, "string*"), ("only", 300, "Leaf")],
    "Tree": [("branch", 1, "Branch*"), ("content", 4, "bytes"), ("flag", 9, "bool")],
}
Tree = message_class("facespace.test.wire_format", SCHEMA, "Tree")

leaves = st.fixed_dictionaries(
    {},
    optional={
        "number": st.integers(-(2**63), 2**63 - 1),
        "text": st.text(max_size=200),
        "ratios": st.lists(st.floats(width=32), max_size=40),
        "many": st.lists(st.integers(-5, 2**40), max_size=40),
    },
)
branches = st.fixed_dictionaries(
    {},
    optional={"leaf": st.lists(leaves, max_size=4), "name": st.lists(st.text(max_size=9), max_size=4), "only": leaves},
)
trees = st.fixed_dictionaries(
    {},
    optional={"branch": st.lists(branches, max_size=4), "content": st.binary(max_size=300), "flag": st.booleans()},
)


def repeats(field: Any) -> bool:
    known: bool | None = getattr(field, "is_repeated", None)  # protobuf before 6.31 has a label instead
    return field.label == field.LABEL_REPEATED if known is None else known


def counted(message: Any) -> float:
    """Count messages, strings and bytes, and a quarter for each number and each byte of packed whole numbers."""
    count = 0.0
    for field, value in message.ListFields():
        values = list(value) if repeats(field) else [value]
        if field.message_type is not None:
            count += sum(1 + counted(one) for one in values)
        elif field.cpp_type == field.CPPTYPE_STRING or field.name == "ratios":
            count += len(values) if field.name != "ratios" else 1
        elif repeats(field):
            alone = type(message)(**{field.name: values})
            n_bytes = alone.ByteSize() - 2  # without the key
            count += 1 + (n_bytes - (1 if n_bytes < 129 else 2)) / 4  # nor the length
        else:
            count += 0.25
    return count


@settings(max_examples=300, deadline=None)
@given(trees)
def test_the_count_equals_the_parsed_message(tree):
    message = Tree(**tree)
    data, n = message.SerializeToString(), math.ceil(counted(message))
    check_message_count(data, SCHEMA, "Tree", limit=n)
    if n:
        with pytest.raises(ValueError, match=f"it contains more than {n - 1} messages"):
            check_message_count(data, SCHEMA, "Tree", limit=n - 1)


@settings(max_examples=500, deadline=None)
@given(trees, st.data())
def test_damaged_bytes_end_the_count_or_are_counted(tree, data):
    """For any bytes, everything that the parser reads was counted."""
    whole = bytearray(Tree(**tree).SerializeToString() + data.draw(st.binary(max_size=20)))
    for _ in range(data.draw(st.integers(0, 4))):
        if whole:
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    message = Tree()
    try:
        message.ParseFromString(bytes(whole))
    except DecodeError:
        with contextlib.suppress(ValueError):  # it ends without another error
            check_message_count(bytes(whole), SCHEMA, "Tree")
        return
    n_messages = sum(1 + len(branch.leaf) + branch.HasField("only") for branch in message.branch)
    if n_messages:
        with pytest.raises(ValueError, match="contains more than"):
            check_message_count(bytes(whole), SCHEMA, "Tree", limit=n_messages - 1)


@pytest.mark.parametrize(
    "data", [b"\x08", b"\x0a", b"\x0a\x05\x00", b"\x0a\x85", b"\x0f", b"\x80" * 12, b"\x0a\xff\xff\xff\xff\xff\xff\x7f"]
)
def test_bytes_that_are_not_a_message_end_the_count(data):
    check_message_count(data, SCHEMA, "Tree", limit=1)


def test_packed_whole_numbers_count():
    many = Tree(branch=[{"leaf": [{"many": [1] * 1600}]}]).SerializeToString()
    check_message_count(many, SCHEMA, "Tree", limit=403)
    with pytest.raises(ValueError, match="more than 402"):
        check_message_count(many, SCHEMA, "Tree", limit=402)


def test_single_numbers_and_unknown_fields_count():
    for field in (b"\xa0\x01\x00", b"\x78\x00", b"\x7a\x00", b"\x7d\x00\x00\x00\x00"):
        with pytest.raises(ValueError, match="more than 100"):
            check_message_count(field * 401, SCHEMA, "Leaf", limit=100)
        check_message_count(field * 400, SCHEMA, "Leaf", limit=100)


def test_a_network_of_packed_weights_is_within_the_limit():
    weights = Tree(branch=[{"leaf": [{"ratios": [0.5] * 100_000}]}]).SerializeToString()
    check_message_count(weights, SCHEMA, "Tree", limit=3)


@pytest.mark.parametrize("group", [b"\x0b\x0a\x01\x06\x0c", b"\x7b\x0a\x01\x06\x7c", b"\x0c"])
def test_groups_hide_nothing(group):
    """The parser does not know fields inside a group, and continues after it."""
    with pytest.raises(ValueError, match="it contains a group"):
        check_message_count(group + b"\x0a\x00" * 9, SCHEMA, "Tree", limit=5)
