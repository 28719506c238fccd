"""Properties of all views: accessible, fit for narrow screens, in two languages, and robust when the server restarts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from facespace.server.routes.page import FOLDER
from support.browsers import Served

Opener = Callable[..., Any]
VIEWS = ["photos", "people", "person", "enrol", "unnamed", "compare", "settings"]


@pytest.fixture
def filled(service: Served, hopper_photos: list[Path], collins_photos: list[Path]) -> dict[str, Any]:
    """A known person and unnamed faces, so that every view has content."""
    person = service.enroll("Grace Hopper", hopper_photos[:2])
    service.look_at(collins_photos[:2])
    return person


def show(page: Any, service: Served, view: str, person: dict[str, Any], choose: Opener, photos: list[Path]) -> None:
    """Open one view and wait until it shows its content."""
    place = f"people/{person['id']}" if view == "person" else view
    page.goto(f"{service.address}#/{place}")
    page.locator(f"main[data-view={view}] h1").wait_for(state="attached")
    if view == "photos":
        page.locator("input, .dropzone button").first.wait_for()
        with page.expect_file_chooser() as chooser:
            page.locator(".button.primary").click()
        chooser.value.set_files(photos)
        page.locator(".row .why").first.wait_for()
    elif view == "compare":
        with page.expect_file_chooser() as chooser:
            page.locator(".slot button").first.click()
        chooser.value.set_files(photos[:2])
        page.locator(".meaning").wait_for()
    elif view == "settings":
        page.locator(".curve").wait_for()
        page.locator("[data-part=audit] .section-body > *").first.wait_for()
    elif view in ("people", "person", "unnamed"):
        page.locator("main li .crop[data-state=shown]").first.wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(
    open_page: Opener, choose: Opener, service: Served, filled: dict[str, Any], hopper_photos: list[Path],
    collins_photos: list[Path], scheme: str,
) -> None:  # fmt: skip
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(color_scheme=scheme)
    found = {}
    for view in VIEWS:
        show(page, service, view, filled, choose, [hopper_photos[0], collins_photos[0]])
        violations = Axe().run(page).response["violations"]
        found[view] = [
            (one["id"], node["target"])
            for one in violations
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]
    assert {view: items for view, items in found.items() if items} == {}


def test_nothing_is_wider_than_a_narrow_screen(
    open_page: Opener, choose: Opener, service: Served, filled: dict[str, Any], hopper_photos: list[Path],
    collins_photos: list[Path],
) -> None:  # fmt: skip
    page = open_page(viewport={"width": 360, "height": 740}, has_touch=True)
    for view in VIEWS:
        show(page, service, view, filled, choose, [hopper_photos[0], collins_photos[0]])
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, view
        nav = page.locator("#nav").bounding_box()
        assert nav["y"] + nav["height"] == pytest.approx(740, abs=1), view  # at the bottom, within reach of thumbs
        assert nav["width"] == pytest.approx(360, abs=16), view


def test_every_text_comes_from_the_language_files(
    open_page: Opener, choose: Opener, service: Served, filled: dict[str, Any], hopper_photos: list[Path],
    collins_photos: list[Path],
) -> None:  # fmt: skip
    """The English texts are put into brackets: any text with letters and without a bracket comes from the code."""
    texts = json.loads((FOLDER / "en.js").read_text("utf-8").removeprefix("export default ").rstrip().rstrip(";"))
    bracketed = f"export default {json.dumps({key: f'⟦{text}⟧' for key, text in texts.items()})};"
    page = open_page()
    page.route("**/page/en.js", lambda route: route.fulfill(body=bracketed, content_type="text/javascript"))
    page.reload()
    data = re.compile(
        "Grace Hopper|facespace|default|sface.*|SFace.*|Apache-2.0|English|中文|.*[.]jpg(: .*)?|.*over HTTP|.*/v1/.*|LFW.*|WebFace.*"
    )
    for view in VIEWS:
        show(page, service, view, filled, choose, [hopper_photos[0], collins_photos[0]])
        shown = page.evaluate(
            """() => {
              const found = [];
              const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
              while (walker.nextNode()) {
                if (!walker.currentNode.parentElement.closest("noscript, time, script")) found.push(walker.currentNode.data);
              }
              for (const element of document.querySelectorAll("[aria-label], [placeholder], [title], [alt]")) {
                for (const name of ["aria-label", "placeholder", "title", "alt"]) found.push(element.getAttribute(name) ?? "");
              }
              return found;
            }"""
        )
        alien = {one for one in shown if re.search(r"[^\W\d_]{2}", one) and "⟦" not in one and not data.fullmatch(one)}
        dates = {one for one in alien if re.fullmatch(r"\w{3} \d+, \d{4}.*|[\d.]+ (kB|MB|byte)", one)}
        assert alien - dates == set(), view


def test_chinese(
    open_page: Opener, choose: Opener, service: Served, filled: dict[str, Any], hopper_photos: list[Path]
) -> None:
    page = open_page(locale="zh-CN")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    page.get_by_role("heading", name="照片里有谁？").wait_for()
    choose(page, "选择照片", hopper_photos[0])
    page.locator(".row .why", has_text="非常确定").wait_for()
    page.get_by_text("1 张照片 · 1 张脸已识别 · 0 张脸未知").wait_for()
    page.get_by_role("link", name="人物").click()
    page.get_by_text("1 人", exact=True).wait_for()
    page.get_by_role("link", name="未命名").click()
    page.get_by_text("出现 2 次").wait_for()


def test_every_view_is_two_clicks_away_by_keyboard(open_page: Opener) -> None:
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    for view in ("People", "Unnamed", "Compare", "Settings", "Photos"):
        page.get_by_role("navigation").get_by_role("link", name=view).press("Enter")
        page.locator(f"main[data-view={view.lower()}]").wait_for()
        assert page.evaluate("document.activeElement.id") == "main"
        assert page.title() == f"{view} – facespace"


@pytest.fixture
def stoppable(service: Served) -> Iterator[Served]:
    """The service, which a test may stop. It is started again at the same address afterwards."""
    port = service.port
    yield service
    if service.process.poll() is not None:
        service.stop()
        service.start(port)


def test_the_server_goes_and_comes_back(
    open_page: Opener, choose: Opener, stoppable: Served, hopper_photos: list[Path], collins_photos: list[Path]
) -> None:
    stoppable.enroll("Grace Hopper", hopper_photos[:2])
    page = open_page()
    page.watch.allow("ERR_CONNECTION", "ERR_EMPTY_RESPONSE", "status of 503")
    port = stoppable.port
    stoppable.stop()
    choose(page, "Choose photos", [hopper_photos[3], collins_photos[0]])
    page.get_by_text("The server does not respond.").wait_for()
    stoppable.start(port)
    page.get_by_text("The server does not respond.").wait_for(state="hidden", timeout=30_000)
    page.get_by_text("2 photos · 1 named · 1 unknown").wait_for()


def test_an_enrolment_goes_on_when_the_server_is_back(
    open_page: Opener, choose: Opener, stoppable: Served, hopper_photos: list[Path], collins_photos: list[Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    for name, photos in {"Grace Hopper": hopper_photos, "Eileen Collins": collins_photos}.items():
        (tmp_path / "album" / name).mkdir(parents=True)
        for photo in photos:
            (tmp_path / "album" / name / photo.name).write_bytes(photo.read_bytes())
    page = open_page("enrol")
    page.watch.allow("ERR_CONNECTION", "ERR_EMPTY_RESPONSE", "status of 503")
    choose(page, "Choose a folder", tmp_path / "album")
    port = stoppable.port
    stoppable.process.kill()  # it cannot answer requests that it has begun
    stoppable.stop()
    page.get_by_role("button", name="Add 2 people").click()
    page.get_by_text("The server does not respond.").wait_for()
    stoppable.start(port)
    page.get_by_text("12 of 12 photos sent, 12 added").wait_for(timeout=30_000)
    assert stoppable.names() == ["Eileen Collins", "Grace Hopper"]
