"""The command facespace train."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")


def test_torchrun_needs_the_folder_of_the_run(cli, monkeypatch, tmp_path):
    """Its processes start at different times, so a folder named by the time would differ between them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    done = cli("train", "cpu", "data=people")
    assert done.code == 2
    assert "--output" in done.err and "must be given with torchrun" in done.err
    assert list(tmp_path.iterdir()) == []
