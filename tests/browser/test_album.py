"""The shared album, enrolled in the browser: the page names its people."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.browsers import Served

Opener = Callable[..., Any]
ENROLLED, HELD_BACK = 5, 2  # photos of each person; the held-back ones are identified


@pytest.mark.shared
def test_the_page_names_the_people_of_the_album(
    open_page: Opener, choose: Opener, service: Served, shared: Path, tmp_path: Path
) -> None:
    people = sorted((shared / "data" / "album" / "known").iterdir())
    held_back: dict[str, list[Path]] = {}
    for person in people:
        photos = sorted(person.iterdir())
        (tmp_path / "album" / person.name).mkdir(parents=True)
        for photo in photos[:ENROLLED]:
            shutil.copy(photo, tmp_path / "album" / person.name)
        held_back[person.name] = photos[-HELD_BACK:]
    page = open_page("enrol")
    choose(page, "Choose a folder", tmp_path / "album")
    page.get_by_role("button", name=f"Add {len(people)} people").click()
    page.get_by_text("Done. Each photo that was not added has its reason.").wait_for(timeout=60_000)
    assert service.names() == sorted(held_back)

    page.goto(f"{service.address}#/photos")
    choose(page, "Choose photos", [photo for photos in held_back.values() for photo in photos])
    page.get_by_text(f"{HELD_BACK * len(people)} photos ·").wait_for()
    page.get_by_text("to go").wait_for(state="hidden", timeout=60_000)
    right = wrong = 0
    for k, (name, _) in enumerate((name, photo) for name, photos in held_back.items() for photo in photos):
        page.locator(".tile").nth(k).click()
        page.locator(".side .file-name", has_text=held_back[name][k % HELD_BACK].name).wait_for()
        page.locator(".row .why, .side > p").first.wait_for()
        named = page.locator(".row a.name").all_inner_texts()
        right += name in named
        wrong += any(other != name for other in named)
    assert wrong == 0
    assert right >= 0.8 * HELD_BACK * len(people)
