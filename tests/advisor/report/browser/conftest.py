"""A real browser for tests of pages: Chromium, driven by Playwright, with no network.

`tests/browser.py` says which one. Screenshots are kept in the folder ADVISOR_TEST_ARTEFACTS, else with pytest's
temporary files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.browser import find_browser, start_browser


@dataclass
class Opened:
    """A page that is open, and what it has tried: `wrongs` are console errors, uncaught ones, dialogs and requests."""

    page: Any
    wrongs: list[str] = field(default_factory=list)


OpenPage = Callable[..., Opened]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    path = find_browser()
    if path is None:
        pytest.skip("no Chromium: apt-get install chromium, or name one in ADVISOR_TEST_BROWSER")
    with playwright.sync_playwright() as driver:
        started = start_browser(driver, path)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[OpenPage]:
    """Open a file in a window of its own: `open_page(path, width=400, scheme="dark", touch=True)`.

    The network is cut; a request for anything but a file or data is one of the page's `wrongs`.
    """
    windows = []

    def opened(
        path: Path, *, width: int = 1280, height: int = 900, scheme: str = "light", touch: bool = False
    ) -> Opened:
        window = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            has_touch=touch,
            is_mobile=touch,
            reduced_motion="reduce",
            offline=True,
        )
        window.set_default_timeout(10_000)
        windows.append(window)
        tab = Opened(window.new_page())
        _watch(window, tab)
        tab.page.goto(path.resolve().as_uri())
        return tab

    yield opened
    for window in windows:
        window.close()


def _watch(window: Any, tab: Opened) -> None:
    def on_request(request: Any) -> None:
        if not request.url.startswith(("file:", "data:")):
            tab.wrongs.append(f"request: {request.url}")

    def on_dialog(dialog: Any) -> None:
        tab.wrongs.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def on_console(message: Any) -> None:
        if message.type in {"error", "warning"}:
            tab.wrongs.append(f"console: {message.text}")

    window.on("request", on_request)
    window.on("page", lambda page: tab.wrongs.append(f"window: {page.url}"))
    tab.page.on("dialog", on_dialog)
    tab.page.on("console", on_console)
    tab.page.on("pageerror", lambda error: tab.wrongs.append(f"error: {error}"))


@pytest.fixture
def artefact(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[Opened, str], Path]:
    """Keep a picture of the whole page: `artefact(opened, "wide-dark")`."""
    folder = Path(os.environ.get("ADVISOR_TEST_ARTEFACTS") or tmp_path)

    def keep(opened: Opened, name: str) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{request.node.path.stem}-{name}.png"
        opened.page.screenshot(path=path, full_page=True)
        return path

    return keep
