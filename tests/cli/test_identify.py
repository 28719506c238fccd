"""The runtime of `identify`: the one that loads fastest for a few photos, the one that computes fastest for many."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from facespace.cli import identify as module
from facespace.cli.main import main
from facespace.errors import ModelError


@pytest.mark.parametrize(
    ("words", "few"),
    [
        (["a.jpg"], True),
        (["a.jpg"] * 32, True),
        (["a.jpg"] * 33, False),
        (["a.jpg", "folder"], False),
        (["film.mp4"], False),
        (["--camera", "0"], False),
    ],
)
def test_a_few_photos_do_not_wait_for_openvino(
    words: list[str],
    few: bool,
    capsys: pytest.CaptureFixture[str],
    hopper_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[bool] = []

    def load(*_: Any, few: bool, **__: Any) -> None:
        asked.append(few)
        raise ModelError("seen enough")

    monkeypatch.chdir(tmp_path)
    shutil.copy(hopper_file, "a.jpg")
    Path("folder").mkdir()
    Path("film.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(99))
    monkeypatch.setattr(module, "load_embedder", load)
    monkeypatch.setattr(module, "model_of_gallery", lambda *_, **__: "")
    monkeypatch.setattr(sys, "argv", ["facespace", "identify", "--gallery", "g", *words])
    with pytest.raises(SystemExit):
        main()
    assert "seen enough" in capsys.readouterr().err
    assert asked == [few]
