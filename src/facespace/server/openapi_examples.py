"""Examples of answers, built from the examples of their models and fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_DEEPEST = 8
_OF_TYPE: dict[str, Any] = {"string": "text", "integer": 1, "number": 0.5, "boolean": True, "null": None, "object": {}}
_OF_FORMAT = {"date-time": "2027-01-31T12:00:00Z", "date": "2027-01-31", "uri": "https://example.com/"}


def example_of(schema: Mapping[str, Any], schemas: Mapping[str, Any], depth: int = 0) -> Any:
    """Return a value that fits a JSON schema: the schema's own example, or a value of its type.

    `schemas` maps the names in `$ref` to schemas.

    >>> example_of({"type": "array", "items": {"$ref": "#/components/schemas/Key"}}, {"Key": {
    ...     "type": "object", "properties": {"id": {"type": "string", "examples": ["k1"]}, "n": {"type": "integer"}}}})
    [{'id': 'k1', 'n': 1}]
    """
    if schema.get("examples"):
        return schema["examples"][0]
    for key in ("example", "const", "default"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    if depth > _DEEPEST:
        return None
    if "$ref" in schema:
        return example_of(schemas.get(str(schema["$ref"]).rpartition("/")[2], {}), schemas, depth + 1)
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return example_of(schema[key][0], schemas, depth + 1)
    if "properties" in schema:
        return {name: example_of(held, schemas, depth + 1) for name, held in schema["properties"].items()}
    if schema.get("type") == "array":
        n = max(1, int(schema.get("minItems", 1)))
        return [example_of(schema.get("items", {}), schemas, depth + 1)] * n
    return _OF_FORMAT.get(str(schema.get("format")), _OF_TYPE.get(str(schema.get("type"))))


def give_examples(operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> None:
    """Add an example to each JSON answer of an operation that succeeds, unless the answer has an example."""
    for status, answer in operation["responses"].items():
        for kind, content in answer.get("content", {}).items() if status < "300" else ():
            if kind == "application/json" and not {"example", "examples"} & set(content):
                content["example"] = example_of(content.get("schema", {}), schemas)
