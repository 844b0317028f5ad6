"""The site of docs/: it builds, every link leads somewhere, nothing comes from elsewhere, and it fits a desk and a phone."""

from pathlib import Path
from typing import Any

import pytest
from chromium import SIZES
from scripts import site

zensical = pytest.importorskip("zensical", reason="zensical is not installed (the extra docs)")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "site"
    assert site.build(folder) == []
    return folder


@pytest.mark.slow
def test_a_link_that_leads_nowhere_is_found(built: Path) -> None:
    page = built / "broken.html"
    page.write_text('<a href="none.html">x</a><a href="npu.html#none">y</a><img src="https://other.example/z.png">')
    try:
        assert [words.split(",")[0] for words in site.check(built)] == [
            "broken.html links to none.html",
            "broken.html links to npu.html#none",
            "broken.html loads https://other.example/z.png",
        ]
    finally:
        page.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_pages_fit_the_screen_and_load_nothing_from_elsewhere(built: Path, browser: Any, size: str) -> None:
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for name in ("index", "npu", "options", "api", "notes/gdn"):
        page.goto((built / f"{name}.html").as_uri())
        assert page.locator("h1").first.is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    page.close()
    assert asked and all(url.startswith(("file:", "data:", "blob:")) for url in asked)
