"""Generated examples fit their schemas."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import BaseModel, Field

from facespace.server.openapi_examples import example_of, give_examples


class Inner(BaseModel):
    kind: Literal["a", "b"]
    box: list[float] = Field(min_length=4, max_length=4)


class Outer(BaseModel):
    inner: Inner | None
    several: list[Inner]
    n: int
    named: str = Field(examples=["Ada"])
    free: dict[str, int]
    at: bool


def test_an_example_fits_its_model():
    schema = Outer.model_json_schema(ref_template="#/components/schemas/{model}")
    example = example_of(schema, schema["$defs"])
    assert Outer.model_validate(example).named == "Ada"
    assert example["inner"] == {"kind": "a", "box": [0.5] * 4}


def test_a_recursive_model_ends():
    example_of({"$ref": "#/components/schemas/A"}, {"A": {"properties": {"a": {"$ref": "#/components/schemas/A"}}}})


@pytest.mark.parametrize("given", [{"example": {"x": 1}}, {"examples": {"one": {"value": 1}}}])
def test_an_existing_example_is_kept(given):
    operation = {"responses": {"200": {"content": {"application/json": {"schema": {"type": "object"}, **given}}}}}
    give_examples(operation, {})
    assert operation["responses"]["200"]["content"]["application/json"] == {"schema": {"type": "object"}, **given}
