"""A headless Chromium for the tests of pages."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
QUIET += ["--disable-background-networking", "--disable-component-update"]
SIZES = {"desk": (1280, 800), "phone": (390, 844)}


@contextmanager
def chromium() -> Iterator[Any]:
    """Playwright's browser; skips where there is none, or fails where CI says that there is one."""
    if reason := _missing():
        missing(reason)
    from playwright.sync_api import sync_playwright

    path = next(path for path in map(shutil.which, BROWSERS) if path)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


@contextmanager
def visits(browser: Any, ready: str, seconds: float) -> Iterator[Callable]:
    """Opens pages and waits for a selector; at the end, no console message, no error and no request may have come of it."""
    contexts, faults = [], []

    def visit(address: Path | str, size: str = "desk", **settings: Any) -> Any:
        address = address.as_uri() if isinstance(address, Path) else address
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, **({"locale": "en-US"} | settings))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(1000 * seconds)
        page.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: faults.append(str(error)))
        own = ("blob:", "data:", address)
        context.on("request", lambda one: None if one.url.startswith(own) else faults.append(one.url))
        page.goto(address)
        page.wait_for_selector(ready, state="attached")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not faults


def missing(reason: str) -> None:
    """Skip, or fail where CI says that everything is there."""
    if os.environ.get("CODECSWAP_REQUIRE_BROWSER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def _missing() -> str | None:
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "Playwright is not installed: pip install playwright"
    if not any(map(shutil.which, BROWSERS)):
        return "there is no Chromium: apt-get install chromium"
    return None


def luminance(color: str) -> float:
    """Relative luminance of a color as browsers compute it, ``rgb(...)``; for contrast."""
    parts = [int(value) / 255 for value in color[color.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
