"""Faces that wait for a name, by keyboard alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.browsers import Served

Opener = Callable[..., Any]


@pytest.fixture
def strangers(service: Served, hopper_photos: list[Path], collins_photos: list[Path]) -> None:
    """Three photos of one unnamed person, and two of another."""
    service.look_at([*hopper_photos[:3], *collins_photos[:2]])


def test_a_group_is_named_by_keyboard_alone(open_page: Opener, service: Served, strangers: None) -> None:
    page = open_page("unnamed")
    page.get_by_text("5 faces in 2 groups wait for a name").wait_for()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Group 1, 3 faces"
    page.keyboard.press("Enter")
    page.keyboard.type("Grace Hopper")
    page.keyboard.press("Enter")
    page.get_by_text("3 faces named Grace Hopper.").wait_for()
    page.get_by_text("2 faces in 1 group wait").wait_for()
    assert service.names() == ["Grace Hopper"]
    page.keyboard.press("s")
    page.locator(".group[data-skipped=true]").wait_for()


def test_several_groups_get_one_name(open_page: Opener, service: Served, strangers: None) -> None:
    page = open_page("unnamed")
    page.locator(".group").nth(1).wait_for()
    page.keyboard.press("ArrowRight")
    page.keyboard.press(" ")
    page.keyboard.press("ArrowRight")
    page.keyboard.press(" ")
    page.get_by_role("combobox", name="One name for 2 groups").fill("Two in one")
    page.keyboard.press("Enter")
    page.get_by_text("Everybody has a name").wait_for()
    assert service.names() == ["Two in one"]


def test_a_face_is_ignored_for_good(
    open_page: Opener, service: Served, strangers: None, hopper_photos: list[Path]
) -> None:
    from playwright.sync_api import expect

    page = open_page("unnamed")
    page.locator(".group").nth(1).wait_for()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("i")
    page.get_by_role("button", name="Ignore", exact=True).click()
    page.get_by_text("3 faces will be ignored.").wait_for()
    service.look_at(hopper_photos[3:4])
    page.reload()
    page.get_by_text("2 faces in 1 group wait").wait_for()
    page.get_by_role("button", name="Ignored faces").click()
    page.locator(".ignored .crop[data-state=shown]").first.wait_for()
    for left in range(page.locator(".ignored li").count() - 1, -1, -1):
        page.get_by_role("button", name="Show ignored face").first.click()
        expect(page.locator(".ignored li")).to_have_count(left)
    service.look_at(hopper_photos[4:5])
    page.reload()
    page.get_by_text("3 faces in 2 groups wait").wait_for()


def test_a_known_person_is_suggested_in_words(
    open_page: Opener, service: Served, strangers: None, hopper_photos: list[Path]
) -> None:
    service.enroll("Grace Hopper", hopper_photos[4:6])
    page = open_page("unnamed")
    chip = page.locator(".chip", has_text="Grace Hopper")
    chip.wait_for()
    assert chip.locator("span").inner_text() in ("very likely", "likely", "possible")
    page.locator(".group", has=chip).focus()
    page.keyboard.press("1")
    page.get_by_text("3 faces named Grace Hopper.").wait_for()


def test_faces_are_kept_once_the_user_asks_for_it(
    open_page: Opener, service: Served, hopper_photos: list[Path]
) -> None:
    service.ask("PATCH", "settings", {"unknowns_days": None})
    service.look_at(hopper_photos[:1])
    page = open_page("unnamed")
    page.get_by_role("heading", name="Unknown faces are not kept").wait_for()
    page.get_by_role("button", name="Keep them for 30 days").click()
    page.get_by_text("Everybody has a name").wait_for()
    assert service.ask("GET", "settings")["unknowns_days"] == 30
    service.look_at(hopper_photos[:1])
    page.reload()
    page.get_by_text("1 face waits for a name").wait_for()
