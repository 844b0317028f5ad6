"""Exported folders of each kind, coded pictures, and ONNX Runtime for browsers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import SIZES, missing
from page_folders import FOLDERS, IDLE, call
from PIL import Image

from codecswap.data.pictures import load_picture
from codecswap.errors import UserError
from codecswap.page import onnxruntime_web


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> dict[str, Path]:
    """An exported folder of each kind; that of symbols has a fixed size, that of latents an encoder."""
    root = tmp_path_factory.mktemp("folders")
    for name, (command, *more) in FOLDERS.items():
        call(command, "--teacher", "tiny", *more, "--output", root / name, "--images", pictures / "val")
    return {name: root / name for name in FOLDERS}


@pytest.fixture(scope="session")
def coded(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> Path:
    """A folder with a.png (301x215) and b.png (1000x800), and a.csw and b.csw."""
    folder = tmp_path_factory.mktemp("coded")
    load_picture(photos[0]).crop((0, 0, 301, 215)).save(folder / "a.png")
    load_picture(photos[1]).resize((1000, 800), Image.Resampling.BICUBIC).save(folder / "b.png")
    for name in "ab":
        call("encode", "--codec", "tiny", "--input", folder / f"{name}.png", "--output", folder / f"{name}.csw")
    return folder


@pytest.fixture(scope="session")
def runtime() -> Path:
    """ONNX Runtime for browsers, from the cache: tests download nothing (`codecswap page` and .ci/run do)."""
    folder = onnxruntime_web.cache()
    try:
        onnxruntime_web.load(folder)
    except UserError as error:
        missing(f"{error} `codecswap page` fetches it")
    return folder


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable]:
    """Opens a page and waits for the codec; at the end, no console message, no error and no request may have come of it."""
    contexts, faults = [], []

    def visit(address: Path | str, size: str = "desk", **settings: Any) -> Any:
        address = address.as_uri() if isinstance(address, Path) else address
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, **({"locale": "en-US"} | settings))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: faults.append(str(error)))
        own = ("blob:", "data:", address)
        context.on("request", lambda one: None if one.url.startswith(own) else faults.append(one.url))
        page.goto(address)
        page.wait_for_selector(IDLE, state="attached")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not faults
