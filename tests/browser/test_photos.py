"""Photos on the page: named people, and naming unknown faces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.browsers import ARGUMENTS, CHROMIUM, Served, variants

Opener = Callable[..., Any]


def test_an_unknown_face_is_named_next_to_the_picture_and_known_from_then_on(
    open_page: Opener, choose: Opener, service: Served, hopper_photos: list[Path]
) -> None:
    page = open_page()
    choose(page, "Choose photos", hopper_photos[0])
    row = page.locator(".row")
    row.get_by_text("You have not named anybody yet").wait_for()
    row.get_by_text("for recognition").wait_for()
    row.get_by_role("combobox").fill("Grace Hopper")
    row.get_by_role("combobox").press("Enter")
    page.locator(".row a.name", has_text="Grace Hopper").wait_for()
    page.locator(".box .tag", has_text="Grace Hopper").wait_for()
    assert service.names() == ["Grace Hopper"]
    choose(page, "Choose photos", hopper_photos[3])
    page.locator(".tile").nth(1).click()
    page.locator(".row .why", has_text="Very sure").wait_for()
    page.get_by_text("2 photos · 2 named · 0 unknown").wait_for()


def test_a_stranger_is_distinguished_from_known_people(
    open_page: Opener, choose: Opener, service: Served, hopper_photos: list[Path], collins_photos: list[Path]
) -> None:
    service.enroll("Grace Hopper", hopper_photos[:2])
    page = open_page()
    choose(page, "Choose photos", collins_photos[0])
    page.locator(".row .why", has_text="Not a person you have named").wait_for()
    assert page.locator(".box .tag").inner_text() == "?"
    # Known people are offered while a name is typed; a new name is one more choice.
    page.get_by_role("combobox").press_sequentially("gr")
    page.get_by_role("option", name="Grace Hopper").wait_for()
    page.get_by_role("option", name="New person “gr”").wait_for()
    page.get_by_role("combobox").press("Escape")
    assert page.get_by_role("option").count() == 0


def test_a_file_that_is_no_image_says_so(open_page: Opener, choose: Opener, tmp_path: Path) -> None:
    fake = tmp_path / "report.jpg"
    fake.write_text("<script>alert(1)</script>")
    page = open_page()
    page.watch.allow("status of 422", "status of 415")
    choose(page, "Choose photos", fake)
    page.locator(".side .error", has_text="This is not a photo that can be read.").wait_for()
    page.get_by_role("button", name="Try again").wait_for()


def test_a_face_that_was_not_found_is_marked_by_hand(
    open_page: Opener, choose: Opener, service: Served, hopper_photos: list[Path], cat_file: Path
) -> None:
    page = open_page()
    choose(page, "Choose photos", cat_file)
    page.get_by_text("No face was found here.").wait_for()
    page.get_by_role("button", name="Mark a face by hand").click()
    sheet = page.locator(".sheet").bounding_box()
    page.mouse.move(sheet["x"] + sheet["width"] * 0.25, sheet["y"] + sheet["height"] * 0.1)
    page.mouse.down()
    page.mouse.move(sheet["x"] + sheet["width"] * 0.6, sheet["y"] + sheet["height"] * 0.75, steps=4)
    page.mouse.up()
    page.get_by_role("combobox", name="Name of the face you marked").fill("Chelsea")
    page.keyboard.press("Enter")
    page.get_by_text("Named Chelsea.").wait_for()
    assert service.names() == ["Chelsea"]


def test_a_box_is_drawn_by_keyboard_alone(open_page: Opener, choose: Opener, service: Served, cat_file: Path) -> None:
    page = open_page()
    choose(page, "Choose photos", cat_file)
    page.get_by_role("button", name="Mark a face by hand").press("Enter")
    mark = page.locator(".drawn")
    before = mark.bounding_box()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    after = mark.bounding_box()
    assert after["x"] > before["x"]
    assert after["height"] > before["height"]
    page.keyboard.press("Enter")
    page.get_by_role("combobox", name="Name of the face you marked").wait_for()


def test_a_hundred_photos_at_once(
    open_page: Opener, choose: Opener, service: Served, hopper_file: Path, collins_file: Path, tmp_path: Path
) -> None:
    files = variants(hopper_file, tmp_path, 60, side=112) + variants(collins_file, tmp_path, 40, side=144)
    service.enroll("Grace Hopper", files[:1])
    page = open_page()
    running: list[Any] = []
    most = 0

    def started(request: Any) -> None:
        nonlocal most
        if "/v1/identify" in request.url:
            running.append(request)
            most = max(most, len(running))

    page.on("request", started)
    page.on("requestfinished", lambda request: running.remove(request) if request in running else None)
    page.on("requestfailed", lambda request: running.remove(request) if request in running else None)
    choose(page, "Choose photos", files)
    page.get_by_text("100 photos · 60 named · 40 unknown", exact=True).wait_for(timeout=60_000)
    assert page.locator(".tile").count() == 100
    assert 1 < most <= 4


def test_a_busy_server_is_asked_again_after_the_time_it_gives(
    open_page: Opener, choose: Opener, hopper_photos: list[Path]
) -> None:
    page = open_page()
    page.watch.allow("status of 503", "status of 429")
    refusals = [503, 429]

    def refuse(route: Any) -> None:
        if not refusals:
            route.continue_()
            return
        route.fulfill(
            status=refusals.pop(0), headers={"Retry-After": "0"}, content_type="application/problem+json",
            body='{"code": "busy", "detail": "busy"}',
        )  # fmt: skip

    page.route("**/v1/identify*", refuse)
    choose(page, "Choose photos", hopper_photos[0])
    page.locator(".row .why").first.wait_for()
    assert refusals == []


def test_a_photo_is_pasted_and_dropped(open_page: Opener, hopper_photos: list[Path]) -> None:
    page = open_page()
    give = """async ([name, bytes]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([new Uint8Array(bytes)], "a.jpg", {type: "image/jpeg"}));
      if (name === "paste") document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true}));
      else document.querySelector("main").dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true}));
    }"""
    content = list(hopper_photos[0].read_bytes())
    page.evaluate(give, ["paste", content])
    page.locator(".row .why").first.wait_for()
    page.evaluate(give, ["drop", content])
    page.get_by_text("2 photos").wait_for()


def test_the_camera_takes_a_photo_and_is_switched_off(open_page: Opener) -> None:
    page = open_page()
    page.evaluate(
        """() => {
          const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
          navigator.mediaDevices.getUserMedia = async (constraints) => (window.stream = await ask(constraints));
        }"""
    )
    page.get_by_role("button", name="Use camera").click()
    page.get_by_role("button", name="Take photo", disabled=False).click()
    page.get_by_text("No face was found here.").wait_for()
    assert page.evaluate("stream.getTracks().every((track) => track.readyState === 'ended')")


def test_a_refused_camera_is_explained(browser: Any, open_page: Opener, service: Served) -> None:
    # Without the flag that answers for the user, a headless browser refuses.
    refusing = browser.browser_type.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
    page = refusing.new_page(locale="en-US")
    try:
        page.goto(service.address)
        page.get_by_role("button", name="Use camera").click()
        page.get_by_text("The browser does not let this page use the camera.").wait_for()
        assert page.get_by_role("button", name="Take photo").is_disabled()
        page.keyboard.press("Escape")
        page.get_by_role("dialog").wait_for(state="detached")
    finally:
        refusing.close()


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("too_small", "Too small to recognise"),
        ("too_blurred", "Too blurred or dark to recognise"),
        ("ignored", "You chose to ignore this face"),
        ("somebody_else_here", "That person is elsewhere in this photo"),
    ],
)
def test_why_a_face_has_no_name(
    open_page: Opener, choose: Opener, hopper_photos: list[Path], reason: str, words: str
) -> None:
    page = open_page()
    face = {
        "box": [60, 50, 140, 150], "score": 0.9, "quality": 0.2, "name": None, "person": None, "similarity": 0.2,
        "threshold": 0.4, "unknown": {"reason": reason},
    }  # fmt: skip
    answer = {"image": {"width": 218, "height": 256, "turned": 0}, "collection": "default", "faces": [face]}
    page.route("**/v1/identify*", lambda route: route.fulfill(json=answer))
    choose(page, "Choose photos", hopper_photos[0])
    page.locator(".row .why", has_text=words).wait_for()
    page.locator(".row .quality", has_text="Too poor for recognition").wait_for()
