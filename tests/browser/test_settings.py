"""Settings on the page: keys and signing in, thresholds, appearance, changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.browsers import Served, serving

Opener = Callable[..., Any]


def test_the_first_key_closes_the_service_and_the_page_asks_for_it(
    open_page: Opener, hopper_photos: list[Path], tmp_path: Path
) -> None:
    with serving(tmp_path / "people.gallery") as closed:
        closed.enroll("Grace Hopper", hopper_photos[:2])
        page = open_page("settings", address=closed.address)
        page.watch.allow("status of 401")
        page.get_by_label("Label").fill("front desk")
        page.get_by_label("Role").select_option("admin")
        page.get_by_role("button", name="Create key").click()
        key = page.locator(".secret code").text_content()
        assert key.startswith("fsk_")
        page.get_by_role("cell", name="front desk", exact=True).wait_for()  # this tab continues with the key
        assert key not in page.evaluate("JSON.stringify(localStorage) + document.cookie + location.href")
        other = open_page("people", address=closed.address)
        other.watch.allow("status of 401")
        other.get_by_role("dialog", name="Enter your key").get_by_label("Key").fill("fsk_wrong_key")
        other.keyboard.press("Enter")
        other.get_by_text("The server does not accept this key.").wait_for()
        other.get_by_role("dialog").get_by_label("Key").fill(key)
        other.keyboard.press("Enter")
        other.locator(".person .crop[data-state=shown]").wait_for()  # crops are fetched with the key too
        page.get_by_role("button", name="Revoke front desk").click()
        page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
        page.get_by_role("dialog", name="Enter your key").wait_for()


def test_the_threshold_its_curve_and_what_is_stored(
    open_page: Opener, service: Served, hopper_photos: list[Path]
) -> None:
    service.enroll("Grace Hopper", hopper_photos[:2])
    page = open_page("settings")
    page.get_by_text("With 1 person, a good face gets a name from a similarity of").wait_for()
    before = page.locator("[data-part=recognition] p").first.inner_text()
    assert page.locator(".curve polyline").get_attribute("points").count(",") > 5
    page.get_by_label("Strangers who may get a name").select_option("0.001")
    page.get_by_text("Saved.").wait_for()
    page.get_by_text("About 0.1% of strangers").wait_for()
    assert page.locator("[data-part=recognition] p").first.inner_text() != before
    page.get_by_label("Strangers who may get a name").select_option("0.01")
    page.get_by_text("About 1% of strangers").wait_for()
    page.locator("[data-part=storage] dd", has_text="kB").first.wait_for()
    page.get_by_role("button", name="Check the gallery").click()
    page.get_by_text("The gallery is in order.").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export this collection").click()
    assert Path(download.value.path()).stat().st_size > 1000


def test_changes_are_listed_and_taken_back(open_page: Opener, service: Served, hopper_photos: list[Path]) -> None:
    person = service.enroll("Grace Hopper", hopper_photos[:2])
    service.ask("PATCH", f"people/{person['id']}", {"name": "Admiral Hopper"}, If_Match=f'"{person["etag"]}"')
    page = open_page("settings")
    row = page.locator("[data-part=changes] li", has_text="Renamed").first
    row.get_by_role("button").click()
    page.get_by_text("Undone.", exact=True).wait_for()
    assert service.names() == ["Grace Hopper"]
    page.locator("[data-part=audit] li").first.wait_for()


def test_a_person_is_erased_from_the_settings(open_page: Opener, service: Served, hopper_photos: list[Path]) -> None:
    service.enroll("Grace Hopper", hopper_photos[:2])
    page = open_page("settings")
    page.get_by_role("combobox", name="Person to erase").press_sequentially("gra")
    page.get_by_role("option", name="Grace Hopper").click()
    page.get_by_role("dialog").get_by_role("textbox").fill("Grace Hopper")
    page.get_by_role("dialog").get_by_role("button", name="Erase for good").click()
    page.get_by_text("Grace Hopper was erased.").wait_for()
    assert service.names() == []


def test_language_and_theme_are_remembered(open_page: Opener) -> None:
    page = open_page("settings")
    page.get_by_label("Theme").select_option("dark")
    dark = "getComputedStyle(document.documentElement).backgroundColor"
    assert page.evaluate(dark) == "rgb(19, 20, 22)"
    page.get_by_label("Language").select_option("zh")
    page.get_by_role("heading", name="设置").wait_for()
    page.reload()
    page.get_by_role("heading", name="设置").wait_for()
    assert page.evaluate(dark) == "rgb(19, 20, 22)"
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
