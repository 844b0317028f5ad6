"""Exported folders of each kind, coded pictures, and ONNX Runtime for browsers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import missing, visits
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
    """Opens a page and waits for the codec."""
    with visits(browser, IDLE, 60) as visit:
        yield visit
