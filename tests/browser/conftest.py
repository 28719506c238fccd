"""Chromium, a service for all of these tests, and photos of people. The tests skip if there is no browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.absent import need_packages, skip_or_fail
from support.browsers import ALLOW_CAMERA, ARGUMENTS, CHROMIUM, Served, serving, variants

WAIT = 15_000  # milliseconds until a test gives up waiting


@pytest.fixture(scope="session")
def can_browse() -> None:
    need_packages("playwright", "axe_playwright_python")
    if not CHROMIUM.exists():
        skip_or_fail(f"there is no {CHROMIUM}: apt-get install chromium")


@pytest.fixture(scope="module")
def browser(can_browse: None) -> Iterator[Any]:
    """Start Chromium once per module, not once per session: Playwright's event loop would block other tests' threads."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=[*ARGUMENTS, ALLOW_CAMERA])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def one_service(can_browse: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served") / "people.gallery") as served:
        yield served


@pytest.fixture
def service(one_service: Served) -> Served:
    """A service without enrolled people."""
    one_service.empty()
    return one_service


class Watch:
    """Records what pages of a context must not do: write errors to the console, fail, or call another host."""

    def __init__(self, context: Any, host: str) -> None:
        self.found: list[str] = []
        self.allowed: list[str] = []
        context.on("console", self._console)
        context.on("weberror", lambda error: self.found.append(f"error: {error.error}"))
        context.on("request", lambda request: self._request(request.url, host))

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.found.append(f"{message.type}: {message.text}")

    def _request(self, url: str, host: str) -> None:
        if not url.startswith((host, "blob:", "data:")):
            self.found.append(f"called another host: {url}")

    def allow(self, *texts: str) -> None:
        """Allow errors with one of these texts: Chromium itself reports every answer of 4xx and 5xx."""
        self.allowed += texts

    def check(self) -> None:
        assert [line for line in self.found if not any(text in line for text in self.allowed)] == []


@pytest.fixture
def open_page(browser: Any, service: Served, request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Opens the page in its own context: `open_page("people", locale="zh-CN")`. Its `watch` is checked at the end."""
    contexts: list[tuple[Any, Watch]] = []

    def open_(view: str = "photos", *, address: str = service.address, context: Any = None, **options: Any) -> Any:
        if context is None:
            context = browser.new_context(**{"locale": "en-US", "reduced_motion": "reduce", **options})
            context.set_default_timeout(WAIT)
            contexts.append((context, Watch(context, address)))
        page = context.new_page()
        page.watch = contexts[-1][1]
        page.goto(f"{address}#/{view}")
        page.wait_for_selector("h1, dialog")
        return page

    yield open_
    for context, watch in contexts:
        context.close()
        watch.check()


@pytest.fixture(scope="session")
def hopper_photos(hopper_file: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return variants(hopper_file, tmp_path_factory.mktemp("hopper"), 6)


@pytest.fixture(scope="session")
def collins_photos(collins_file: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return variants(collins_file, tmp_path_factory.mktemp("collins"), 6, side=320)


@pytest.fixture(scope="session")
def choose() -> Callable[..., None]:
    """Chooses files in the dialog that a button opens."""

    def choose_(page: Any, button: str, files: Any) -> None:
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name=button, exact=True).first.click()
        chooser.value.set_files(files)

    return choose_
