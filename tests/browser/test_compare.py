"""Two photos compared, with the answer in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Opener = Callable[..., Any]


def test_one_person_and_two(
    open_page: Opener, choose: Opener, hopper_photos: list[Path], collins_photos: list[Path]
) -> None:
    page = open_page("compare")
    choose(page, "Choose photo 1", hopper_photos[:2])
    page.get_by_role("heading", name="The same person").wait_for()
    assert page.locator(".face.large").count() == 2
    page.get_by_text("Both photos are good enough to rely on").wait_for()
    page.get_by_text("Two photos count as the same person from a similarity of").wait_for()
    choose(page, "Another photo 2", collins_photos[0])
    page.get_by_role("heading", name="Not the same person, judging by these photos").wait_for()


def test_a_photo_without_a_face_says_which(
    open_page: Opener, choose: Opener, hopper_photos: list[Path], cat_file: Path
) -> None:
    page = open_page("compare")
    page.watch.allow("status of 422")
    choose(page, "Choose photo 1", [hopper_photos[0], cat_file])
    page.locator(".verdict .error").wait_for()
    assert "No face was found" in page.locator(".verdict .error").inner_text()
