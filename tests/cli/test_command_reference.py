"""docs/commands.md and docs/commands/ describe every command as `--help` does, each with an example that can be typed."""

from __future__ import annotations

import doctest
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from facespace.cli.legacy.commands import Verbatim
from facespace.cli.main import app

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "command_reference.py"
if not SCRIPT.is_file():
    pytest.skip("needs the clone, not the tests alone", allow_module_level=True)
spec = importlib.util.spec_from_file_location("command_reference", SCRIPT)
assert spec is not None
assert spec.loader is not None
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)
COMMANDS = dict(reference.commands())
# A group that does nothing without one of its commands needs no example of its own.
USED = [words for words, command in COMMANDS.items() if getattr(command, "invoke_without_command", True)]


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return reference.pages()


def test_the_pages_are_those_of_the_commands(pages: dict[str, str]) -> None:
    docs = ROOT / "docs"
    there = {f"commands/{path.name}" for path in (docs / "commands").glob("*.md")} | {"commands.md"}
    differ = {
        name for name, text in pages.items() if name not in there or (docs / name).read_text(encoding="utf-8") != text
    }
    differ |= there - set(pages)
    assert not differ, "the commands have changed; run: .venv/bin/python scripts/command_reference.py"


def test_every_command_has_an_example() -> None:
    assert set(reference.EXAMPLES) == set(USED), "write it in scripts/command_reference.py"


@pytest.mark.parametrize("words", USED)
def test_the_example_is_a_line_the_command_takes(words: str) -> None:
    line = shlex.split(reference.EXAMPLES[words].replace("\\\n", ""))
    n_words = 1 + len(words.split())
    assert line[:n_words] == ["facespace", *words.split()]
    if isinstance(COMMANDS[words], Verbatim):
        reference.parser_of(words).parse_args(line[n_words:])
    else:
        COMMANDS[words].make_context(words, line[n_words:])


def letters_of(text: str | None) -> str:
    """A text without marks of Markdown and white space: a line may break at any hyphen."""
    return re.sub(r"[`\\\s]", "", text or "")


@pytest.mark.parametrize("words", COMMANDS)
def test_help_says_what_the_page_says(words: str, pages: dict[str, str]) -> None:
    command = COMMANDS[words]
    if isinstance(command, Verbatim):
        parser = reference.parser_of(words)
        printed, helps = parser.format_help(), [action.help.replace("%%", "%") for action in parser._actions[1:]]
    else:
        done = CliRunner().invoke(app, [*words.split(), "--help"])
        assert done.exit_code == 0
        printed, helps = done.output, [parameter.help for parameter in command.params if parameter.name != "help"]
    page = pages[f"commands/{words.split()[0]}.md"]
    section = page[page.index(f"# facespace {words}\n") :].split("\n## ")[0]
    options = set(re.findall(r"^  (?:-\w(?: [A-Z_]+)?, )?(--[\w-]+)", printed, re.MULTILINE))
    assert set(re.findall(r"^\| `(?:-\w, )?(--[\w-]+)", section, re.MULTILINE)) == options - {"--help"}
    for text in map(letters_of, helps):
        assert text in letters_of(printed)
        assert text in letters_of(section)


def test_the_script_is_right_about_itself() -> None:
    assert doctest.testmod(reference).failed == 0
