"""People on the page: enrolled from a folder, found, renamed, merged, split, removed, erased."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.browsers import Served

Opener = Callable[..., Any]


@pytest.fixture
def both(service: Served, hopper_photos: list[Path], collins_photos: list[Path]) -> dict[str, dict[str, Any]]:
    """Grace Hopper with three photos, Eileen Collins with two."""
    return {
        "Grace": service.enroll("Grace Hopper", hopper_photos[:3]),
        "Eileen": service.enroll("Eileen Collins", collins_photos[:2]),
    }


def test_a_folder_of_people_is_enrolled_with_a_reason_for_each_photo_left_out(
    open_page: Opener, choose: Opener, service: Served, hopper_photos: list[Path], collins_photos: list[Path],
    cat_file: Path, tmp_path: Path,
) -> None:  # fmt: skip
    for name, photos in {"Grace Hopper": hopper_photos[:3], "Eileen Collins": [*collins_photos[:2], cat_file]}.items():
        (tmp_path / "album" / name).mkdir(parents=True)
        for photo in photos:
            shutil.copy(photo, tmp_path / "album" / name)
    (tmp_path / "album" / "Grace Hopper" / "notes.txt").write_text("no photo")
    page = open_page("enrol")
    choose(page, "Choose a folder", tmp_path / "album")
    page.get_by_role("checkbox", name="Grace Hopper").wait_for()
    page.get_by_role("button", name="Add 2 people").click()
    page.get_by_text("6 of 6 photos sent, 5 added").wait_for()
    page.get_by_text("1 not added").click()
    page.get_by_text("No face was found").wait_for()
    page.get_by_role("link", name="See people").click()
    page.get_by_role("link", name="Grace Hopper").wait_for()
    assert service.names() == ["Eileen Collins", "Grace Hopper"]


def test_a_person_is_found_and_renamed(open_page: Opener, service: Served, both: dict[str, Any]) -> None:
    page = open_page("people")
    page.get_by_text("2 people", exact=True).wait_for()
    page.get_by_role("searchbox").fill("eil")
    page.get_by_text("1 of 2 people").wait_for()
    page.get_by_role("link", name="Eileen Collins").click()
    page.locator(".photos .crop[data-state=shown]").nth(1).wait_for()
    page.get_by_role("button", name="Rename").click()
    page.get_by_label("New name").fill("E. M. Collins")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="E. M. Collins").wait_for()
    assert service.names() == ["E. M. Collins", "Grace Hopper"]


def test_two_people_become_one_and_two_again(open_page: Opener, service: Served, both: dict[str, Any]) -> None:
    page = open_page("people")
    for name in ("Grace Hopper", "Eileen Collins"):
        page.get_by_role("checkbox", name=f"Select {name}").check(force=True)
    page.get_by_role("button", name="Same person…").click()
    page.get_by_role("radio", name="Grace Hopper").check()
    page.get_by_role("button", name="Make one person").click()
    page.get_by_text("Now one person: Grace Hopper.").wait_for()
    assert service.names() == ["Grace Hopper"]
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("link", name="Eileen Collins").wait_for()
    assert service.names() == ["Eileen Collins", "Grace Hopper"]


def test_photos_are_moved_to_somebody_else(open_page: Opener, service: Served, both: dict[str, Any]) -> None:
    page = open_page(f"people/{both['Grace']['id']}")
    page.get_by_role("checkbox", name="Select photo 2").check(force=True)
    page.get_by_role("button", name="Move to another person…").click()
    page.get_by_role("combobox", name="Name of that person").fill("Somebody Else")
    page.keyboard.press("Enter")
    page.get_by_text("1 photo moved to Somebody Else.").wait_for()
    page.locator(".photos > li").nth(1).wait_for()
    assert page.locator(".photos > li").count() == 2
    assert service.names() == ["Eileen Collins", "Grace Hopper", "Somebody Else"]


def test_a_photo_that_is_not_of_this_person_stays_away(
    open_page: Opener, service: Served, both: dict[str, Any], hopper_photos: list[Path]
) -> None:
    page = open_page(f"people/{both['Grace']['id']}")
    page.get_by_role("checkbox", name="Select photo 1").check(force=True)
    page.get_by_role("button", name="Not Grace Hopper").click()
    page.get_by_role("button", name="Not this person").click()
    page.get_by_text("1 photo was marked as not this person.").wait_for()
    with pytest.raises(AssertionError, match="other_person"):
        service.enroll("Grace Hopper", hopper_photos[:1])


def test_a_person_is_removed_and_comes_back(open_page: Opener, service: Served, both: dict[str, Any]) -> None:
    page = open_page(f"people/{both['Grace']['id']}")
    page.get_by_role("button", name="Remove", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    page.get_by_text("Grace Hopper was removed.").wait_for()
    page.get_by_text("1 person", exact=True).wait_for()
    assert service.names() == ["Eileen Collins"]
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("heading", name="Grace Hopper").wait_for()
    assert service.names() == ["Eileen Collins", "Grace Hopper"]


def test_a_person_is_erased_only_after_the_name_was_typed(
    open_page: Opener, service: Served, both: dict[str, Any]
) -> None:
    page = open_page(f"people/{both['Grace']['id']}")
    page.get_by_role("button", name="Erase for good").click()
    go = page.get_by_role("dialog").get_by_role("button", name="Erase for good")
    assert go.is_disabled()
    page.get_by_role("textbox").fill("Grace Hopper")
    go.click()
    page.get_by_text("Grace Hopper was erased.").wait_for()
    assert service.names() == ["Eileen Collins"]


def test_photos_are_deleted_and_taken_back(open_page: Opener, service: Served, both: dict[str, Any]) -> None:
    page = open_page(f"people/{both['Grace']['id']}")
    for n in (1, 2):
        page.get_by_role("checkbox", name=f"Select photo {n}").check(force=True)
    page.get_by_role("button", name="Delete photos").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    page.get_by_text("2 photos deleted.").wait_for()
    page.get_by_text("1 photo", exact=False).first.wait_for()
    page.get_by_role("button", name="Undo").click()
    page.locator(".photos > li").nth(2).wait_for()


def test_a_stale_page_changes_nothing_and_says_so(open_page: Opener, service: Served, both: dict[str, Any]) -> None:
    first = open_page(f"people/{both['Grace']['id']}")
    first.watch.allow("status of 412")
    second = open_page(f"people/{both['Grace']['id']}", context=first.context)
    first.get_by_role("heading", name="Grace Hopper").wait_for()
    second.get_by_role("button", name="Rename").click()
    second.get_by_label("New name").fill("Admiral Hopper")
    second.keyboard.press("Enter")
    second.get_by_role("heading", name="Admiral Hopper").wait_for()
    first.bring_to_front()
    first.get_by_role("button", name="Remove", exact=True).click()
    first.get_by_role("dialog").get_by_role("button", name="Remove").click()
    first.get_by_role("alert").get_by_text("This person was changed meanwhile").wait_for()
    first.get_by_role("heading", name="Admiral Hopper").wait_for()
    assert service.names() == ["Admiral Hopper", "Eileen Collins"]


def test_a_name_that_is_markup_is_shown_as_text(open_page: Opener, service: Served, hopper_photos: list[Path]) -> None:
    name = "<img src=x onerror=document.title='broken'><b>Grace</b>"
    person = service.enroll(name, hopper_photos[:2])
    page = open_page("people")
    page.get_by_text(name, exact=True).wait_for()
    page.goto(f"{service.address}#/people/{person['id']}")
    page.get_by_role("heading", name=name).wait_for()
    page.get_by_role("button", name="Remove", exact=True).click()
    page.get_by_role("dialog").get_by_text(name).wait_for()
    assert page.locator("img[src=x], main b, dialog b").count() == 0
    assert page.title() == "People – facespace"
