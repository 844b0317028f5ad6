"""The kinds of folders that pages are made of, and how they are made."""

from pathlib import Path

import numpy as np
from PIL import Image

from codecswap import cli

FOLDERS = {  # how each is exported
    "latents": ["export", "--replacement", "subpixel"],
    "symbols": [
        "export",
        "--replacement",
        "none",
        "--input",
        "symbols",
        "--part",
        "decoder",
        "--height",
        "128",
        "--width",
        "112",
    ],
    "split_inputs": ["quantize", "--replacement", "subpixel", "--calibration_count", "2", "--refit", "false"],
}


IDLE = "#cards[aria-busy=false]"
"""All files are done; scripts may not be evaluated to wait for it, says the page's policy."""


def call(*arguments: object) -> None:
    assert cli.main(list(map(str, arguments))) == 0


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.mode in ("RGB", "RGBA")
        return np.asarray(picture.convert("RGB"), int)
