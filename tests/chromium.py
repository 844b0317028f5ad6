"""A headless Chromium for the tests of pages."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
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
