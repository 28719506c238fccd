"""The output of commands."""

from __future__ import annotations

import io
import json
import sys

import pytest

from facespace.cli.shared.output import say, write_json, write_line


class Pipe(io.StringIO):
    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return super().write(text)


def test_a_line_is_written_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that lines of several processes are not mixed on one pipe, even if Python does not buffer."""
    out, errors = Pipe(), Pipe()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", errors)
    write_line("Total number of images: 4")
    say("a.jpg: no face")
    assert out.pieces == ["Total number of images: 4\n"]
    assert errors.pieces == ["facespace: a.jpg: no face\n"]


def test_nothing_reorders_or_clears_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_line("Ada \u202egpj.a")
    say("Ada \u2066gpj\x1b[2J")
    assert capsys.readouterr() == ("Ada \\u202egpj.a\n", "facespace: Ada \\u2066gpj\\x1b[2J\n")
    value = {"name": "Zoë \u202e\x7f\x9b2J\x1b\n"}
    write_json(value)
    out = capsys.readouterr().out
    assert out == '{"name": "Zoë \\u202e\\u007f\\u009b2J\\u001b\\n"}\n' and json.loads(out) == value
