from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from facespace.server.exposure import check_exposure
from facespace.server.keys import Keys
from facespace.server.settings import Settings
from facespace.server.state import State


def settings(folder: Path, **options: Any) -> Settings:
    return Settings("people.gallery", state=str(folder / "state"), **options)


def test_loopback_without_keys_gives_a_warning(tmp_path: Path):
    warning = check_exposure(settings(tmp_path))
    assert warning.startswith(
        "everyone on this machine can use the service, because it has no keys; to require one: facespace serve key"
    )
    assert "\n" not in warning


@pytest.mark.parametrize(
    "options", [{"host": "0.0.0.0"}, {"host": "192.168.1.7"}, {"host": "::"}, {"host": "faces.local"}]
)
def test_other_addresses_need_keys(tmp_path: Path, options: dict[str, Any]):
    with pytest.raises(
        ValueError, match=r"lets other machines in, so a key is needed; make one: facespace serve key create"
    ):
        check_exposure(settings(tmp_path, **options))
    state = State(tmp_path / "state")
    keys = Keys(state)
    keys.revoke(keys.create("admin").id)
    state.close()
    assert check_exposure(settings(tmp_path, **options)) == ""


@pytest.mark.parametrize("options", [{"root_path": "/faces"}, {"forwarded_from": ("127.0.0.1",)}])
def test_a_service_behind_a_proxy_is_not_open(tmp_path: Path, options: dict[str, Any]):
    with pytest.raises(ValueError, match="behind a proxy needs a key"):
        check_exposure(settings(tmp_path, **options))
