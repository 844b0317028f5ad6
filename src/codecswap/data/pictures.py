"""Finding and reading pictures, without PyTorch."""

import os
from pathlib import Path

from PIL import Image, ImageOps

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
"""What Pillow raises for a picture that is none."""


def scan(folder: str | Path) -> list[Path]:
    """All pictures below a folder, by path; hidden files are none."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        paths = (Path(parent, name) for name in names if name[0] != ".")
        found += [path for path in paths if path.suffix.lower() in ENDINGS]
    return sorted(found)


def load_picture(path: str | Path, *, at_least: int | None = None) -> Image.Image:
    """Read a picture of any mode as 8-bit RGB, upright.

    16-bit grey is scaled to 8 bits; CMYK, palettes and transparency are converted by Pillow.

    Args:
        path: the picture's file.
        at_least: pixels that either side must keep; a JPEG is then decoded at the smallest of the scales 1/8,
            1/4, 1/2 and 1 that keeps them, which costs a fraction. Other formats are read whole.

    Raises:
        OSError, ValueError, SyntaxError, EOFError, PIL.Image.DecompressionBombError: it cannot be read
            (`UNREADABLE`).
    """
    with Image.open(path) as file:
        picture: Image.Image = file
        if at_least is not None:
            file.draft(None, (at_least, at_least))
        picture.load()
        ImageOps.exif_transpose(picture, in_place=True)
        if picture.mode.startswith(("I;16", "I")):
            picture = picture.convert("I").point([i / 257 for i in range(65536)], "L")
        return picture if picture.mode == "RGB" else picture.convert("RGB")
