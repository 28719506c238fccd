"""Takes the screenshots in docs/images/serve: each view of the page in light, dark and narrow mode.

All faces come from public-domain portraits contained in Python packages (see `facespace.demo`). Needs the extras
`serve` and `demo`, playwright and Chromium:

    PYTHONPATH=src:tests python scripts/page_screenshots.py
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from facespace import demo
from support.browsers import ALLOW_CAMERA, ARGUMENTS, CHROMIUM, Served, serving, variants

FOLDER = Path(__file__).parents[1] / "docs" / "images" / "serve"
MODES: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1200, "height": 780}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1200, "height": 780}},
    "narrow": {"color_scheme": "light", "viewport": {"width": 360, "height": 740}, "device_scale_factor": 2},
}
MAX_BYTES = 150_000


def main() -> None:
    """Fill a gallery, open the page in every mode, and write the screenshots."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "people.gallery") as served:
        work = Path(folder)
        group = demo.run(work / "demo").picture.with_name("group.jpg")
        files = {name: demo._sample(*place) for name, place in demo.PORTRAITS.items()}
        stranger = demo._sample(*demo._STRANGER)
        photos = {name: variants(file, work / name, 5, side=480) for name, file in files.items()}
        # These photos come before she is enrolled, so they stay unnamed and are later suggested to be hers.
        served.look_at(variants(files["Eileen Collins"], work / "before", 3, side=360, start=40))
        for name, some in photos.items():
            served.enroll(name, some[:4])
        served.look_at(variants(stranger, work / "stranger", 3, side=480))
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=[*ARGUMENTS, ALLOW_CAMERA])
            for mode, options in MODES.items():
                context = chromium.new_context(locale="en-US", reduced_motion="reduce", **options)
                _views(context.new_page(), served, mode, group, stranger, [some[4] for some in photos.values()])
                context.close()
            context = chromium.new_context(locale="zh-CN", reduced_motion="reduce", **MODES["light"])
            page = context.new_page()
            page.goto(f"{served.address}#/unnamed")
            page.locator(".crop[data-state=shown]").nth(7).wait_for()
            _save(page, "unnamed-chinese")
            chromium.close()


def _views(page: Any, served: Served, mode: str, group: Path, stranger: Path, portraits: list[Path]) -> None:
    def go(place: str) -> None:
        page.goto(f"{served.address}#/{place}")
        page.locator("main h1").wait_for(state="attached")

    def choose(selector: str, files: list[Path]) -> None:
        with page.expect_file_chooser() as chooser:
            page.locator(selector).first.click()
        chooser.value.set_files(files)

    go("photos")
    _save(page, f"start-{mode}")
    choose(".button.primary", [group, *portraits, stranger])
    page.locator(".row .why").first.wait_for()
    page.get_by_text("to go").wait_for(state="hidden")
    _save(page, f"photos-{mode}")
    go("people")
    page.locator(".crop[data-state=shown]").nth(1).wait_for()
    _save(page, f"people-{mode}")
    person = served.ask("GET", "people?search=grace")["people"][0]["id"]
    go(f"people/{person}")
    page.locator(".photos .crop[data-state=shown]").nth(2).wait_for()
    page.get_by_role("checkbox", name="Select photo 2").check(force=True)
    _save(page, f"person-{mode}")
    go("unnamed")
    page.locator(".crop[data-state=shown]").nth(7).wait_for()
    page.keyboard.press("ArrowRight")
    _save(page, f"unnamed-{mode}")
    go("compare")
    choose(".slot button", portraits)
    page.locator(".meaning").wait_for()
    _save(page, f"compare-{mode}", whole=True)
    go("enrol")
    _save(page, f"enrol-{mode}")
    go("settings")
    page.locator(".curve").wait_for()
    page.locator("[data-part=audit] .section-body > *").first.wait_for()
    _save(page, f"settings-{mode}", whole=True)


def _save(page: Any, name: str, *, whole: bool = False) -> None:
    page.mouse.move(0, 0)
    page.evaluate("Promise.all([...document.images].map((image) => image.decode().catch(() => null)))")
    if whole:  # a full-page screenshot would move elements that are fixed to the window
        height = page.evaluate("document.documentElement.scrollHeight")
        before = page.viewport_size
        page.set_viewport_size({"width": before["width"], "height": height})
        data = page.screenshot()
        page.set_viewport_size(before)
    else:
        data = page.screenshot()
    with Image.open(io.BytesIO(data)) as shot:
        for quality in (86, 75, 60, 45):
            packed = io.BytesIO()
            shot.convert("RGB").save(packed, "WEBP", quality=quality, method=6)
            if packed.tell() < MAX_BYTES:
                break
    (FOLDER / f"{name}.webp").write_bytes(packed.getvalue())
    print(f"{name}.webp: {packed.tell() / 1000:.0f} kB")


if __name__ == "__main__":
    main()
