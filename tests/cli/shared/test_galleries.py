"""Which argument of a command line is the gallery."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from facespace.cli.shared.galleries import GalleryCommand, is_address
from facespace.cli.shared.options import GalleryFile

app = typer.Typer(rich_markup_mode=None)


@app.command(cls=GalleryCommand)
def command(
    gallery: GalleryFile,
    names: Annotated[list[str], typer.Argument(metavar="NAME")],
    photo: Annotated[list[str], typer.Option("--photo")] = [],  # noqa: B006
    short: Annotated[str, typer.Option("-s")] = "",
    flag: Annotated[bool, typer.Option("--flag")] = False,
) -> None:
    """Print the arguments."""
    print([gallery, *names], photo, short, flag)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FACESPACE_GALLERY", raising=False)
    Path("a file").touch()
    Path("a folder").mkdir()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["g", "Ada"], ["g", "Ada"]),
        (["--flag", "g", "Ada"], ["g", "Ada"]),
        (["--photo", "3", "g", "--photo", "4", "Ada", "-s", "x"], ["g", "Ada"]),
        (["-s", "g", "g", "g"], ["g", "g"]),
        (["--photo=3", "g", "Ada"], ["g", "Ada"]),
        (["Ada", "--gallery", "g"], ["g", "Ada"]),
        (["--gallery=g", "Ada", "Ben"], ["g", "Ada", "Ben"]),
        (["--", "g", "-x"], ["g", "-x"]),
        (["g", "--", "--gallery"], ["g", "--gallery"]),
        (["-", "Ada"], ["-", "Ada"]),
    ],
)
def test_the_first_word_is_the_gallery(words: list[str], expected: list[str]) -> None:
    outcome = CliRunner().invoke(app, words)
    assert outcome.exit_code == 0, outcome.output
    assert outcome.output.startswith(f"{expected} ")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["Ada"], ["mine", "Ada"]),
        (["Ada", "Ben"], ["mine", "Ada", "Ben"]),
        (["other.gallery", "Ben"], ["other.gallery", "Ben"]),
        (["a file", "Ben"], ["a file", "Ben"]),
        (["a folder", "Ben"], ["mine", "a folder", "Ben"]),
        (["qdrant://host:6333", "Ben"], ["qdrant://host:6333", "Ben"]),
        (["--gallery", "g", "other.gallery"], ["g", "other.gallery"]),
    ],
)
def test_the_first_word_with_the_environment_variable_set(
    words: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACESPACE_GALLERY", "mine")
    assert CliRunner().invoke(app, words).output.startswith(f"{expected} ")


@pytest.mark.parametrize("words", [[], ["g"], ["--gallery", "g"], ["--nonsense", "g", "Ada"], ["--photo"]])
def test_missing_arguments_are_a_usage_error(words: list[str]) -> None:
    assert CliRunner().invoke(app, words).exit_code == 2


def test_usage_names_the_gallery() -> None:
    assert "[OPTIONS] [GALLERY] " in CliRunner().invoke(app, ["--help"]).output


def test_addresses() -> None:
    assert is_address("postgresql://ada@host/people") and not is_address("people.gallery")
