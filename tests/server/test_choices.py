from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from facespace.identification.gallery import Gallery
from facespace.server import choices as choices_module
from facespace.server.choices import Choice, Choices
from facespace.server.settings import Settings

SETTINGS = Settings("people.gallery", unknowns_days=7, keep_crops=False)


@pytest.fixture
def gallery(tmp_path: Path):
    with Gallery(tmp_path / "people.gallery", create=True) as opened:
        yield opened


@pytest.fixture
def choices() -> Choices:
    return Choices(SETTINGS)


def test_the_service_settings_apply_until_a_choice_is_made(gallery: Gallery, choices: Choices):
    assert choices.of(gallery) == Choice(None, 7, False)
    assert choices.change(gallery, {"rate": 0.005, "keep_crops": True}) == Choice(0.005, 7, True)
    assert choices.change(gallery, {"rate": None, "unknowns_days": 0}) == Choice(None, None, True)
    assert choices.change(gallery, {"unknowns_days": None}) == Choice(None, None, True)


def test_collections_have_their_own(tmp_path: Path, gallery: Gallery, choices: Choices):
    with Gallery(tmp_path / "people.gallery", collection="staff", create=True) as other:
        choices.change(other, {"rate": 0.005})
        assert (choices.of(other).rate, choices.of(gallery).rate) == (0.005, None)


def test_other_workers_follow_after_a_second(gallery: Gallery, choices: Choices, monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(choices_module.time, "monotonic", lambda: now[0])
    there = Choices(SETTINGS)
    there.of(gallery)
    choices.change(gallery, {"rate": 0.005})
    assert choices.of(gallery).rate == 0.005
    assert there.of(gallery).rate is None
    now[0] += 1.1
    assert there.of(gallery).rate == 0.005


@pytest.mark.parametrize(
    "change",
    [
        {"rate": 0}, {"rate": 1}, {"rate": -0.1}, {"rate": "0.1"}, {"rate": True}, {"rate": float("nan")},
        {"unknowns_days": -1}, {"unknowns_days": 36_501}, {"unknowns_days": [1]}, {"keep_crops": 1}, {"keep_crops": None},
        {"nothing": 1},
    ],
)  # fmt: skip
def test_a_value_out_of_range_changes_nothing(gallery: Gallery, choices: Choices, change: dict[str, Any]):
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be"):
        choices.change(gallery, {"rate": 0.005, **change})
    assert gallery.store.setting("service") is None


@pytest.mark.parametrize("held", ["text", 7, [], {"rate": 7, "unknowns_days": "x", "keep_crops": "no", "more": {}}])
def test_what_is_damaged_counts_as_missing(gallery: Gallery, choices: Choices, held: Any):
    gallery.store.set("service", held)
    assert choices.of(gallery) == Choice(None, 7, False)
