"""The input spec of networks whose files do not contain it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facespace.faces.input_spec import INPUT_SPECS, InputSpec
from facespace.formats.tf_graph import parse_graph
from facespace.models.spec_file import spec_path
from facespace.models.spec_inference import (
    assumption_line,
    correction_hint,
    explicit_spec,
    json_hint,
    prewhitens,
    trainer_prewhitens,
)
from support.tf_checkpoints import a_model, write_meta
from support.tf_graphs import Graph


def prewhitening(g: Graph, scope: str = "") -> None:
    deviation = g.node("Sqrt", g.const(np.ones(1)), name=f"{scope}Sqrt_w")
    least = g.node("Rsqrt", g.const(np.ones(1)), name=f"{scope}Rsqrt_w")
    g.node("Maximum", deviation, least, name=f"{scope}Maximum_w")


@pytest.mark.parametrize(("scope", "told"), [("", True), ("cond_3/", False)])
def test_a_graph_that_prewhitens_is_recognised(scope: str, told: bool) -> None:
    g, _ = a_model()
    assert not prewhitens(parse_graph(g.bytes(), "x"))
    prewhitening(g, scope)
    assert prewhitens(parse_graph(g.bytes(), "x")) == told


def test_only_a_single_meta_is_inspected(tmp_path: Path) -> None:
    assert not trainer_prewhitens(tmp_path)
    g, _ = a_model()
    write_meta(tmp_path, g)
    assert not trainer_prewhitens(tmp_path)
    prewhitening(g)
    meta = write_meta(tmp_path, g)
    assert trainer_prewhitens(tmp_path)
    (tmp_path / "other.meta").write_bytes(meta.read_bytes())
    assert not trainer_prewhitens(tmp_path), "it is unknown which of the two is meant"


def test_a_given_spec_precedes_the_json_file(tmp_path: Path) -> None:
    model = tmp_path / "n.pb"
    model.write_bytes(b"")
    assert explicit_spec(model, None) is None
    (tmp_path / "n.json").write_text('{"input_spec": "facenet-2017"}')
    assert explicit_spec(model, None) == (INPUT_SPECS["facenet-2017"], "read from n.json")
    given = InputSpec(96, "box")
    assert explicit_spec(model, given) == (given, "as given")


def test_lines_for_the_user_name_the_file_to_write(tmp_path: Path) -> None:
    (tmp_path / "2017.model").mkdir()
    for model, name in ((tmp_path / "n.pb", "n.json"), (tmp_path / "2017.model", "2017.model.json")):
        assert spec_path(model).name == name
        for line in (assumption_line(model, INPUT_SPECS["facenet-2018"]), correction_hint(model), json_hint(model)):
            assert f"{name} next to it" in line and "\n" not in line
