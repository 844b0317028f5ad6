"""Reading pictures, without PyTorch."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
"""What `load_picture` raises for a file that is not a readable picture."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""Formats that Pillow may read, whatever a file's name. For one of the others it would start Ghostscript."""
MOST_PIXELS = 120_000_000
"""Most pixels of a picture: the two copies needed to convert it stay below 1 GiB."""
SURE_PIXELS, PIXELS_PER_BYTE = 1 << 24, 100
"""Pixels that any picture may have; larger ones at most 100 per byte of the file (a decompression bomb has 1,000)."""
MOST_SCANNED = 4_000_000_000
"""Most pixels times scans of a progressive JPEG, which takes seconds. Ten scans are usual; a scan can be 40 bytes."""


def load_picture(path: str | Path, *, at_least: int | None = None) -> Image.Image:
    """Read a picture of any mode as 8-bit RGB, upright.

    16-bit gray is scaled to 8 bits; CMYK, palettes and transparency are converted by Pillow.

    Args:
        path: the picture's file.
        at_least: pixels that either side must keep; a JPEG is then decoded at the smallest of the scales 1/8,
            1/4, 1/2 and 1 that keeps them, which costs a fraction. Other formats are read whole.

    Raises:
        OSError, ValueError, SyntaxError, EOFError, PIL.Image.DecompressionBombError: it cannot be read
            (`UNREADABLE`).
    """
    with _opened(path) as file:
        picture: Image.Image = file
        whole = file.size
        if at_least is not None:
            file.draft(None, (at_least, at_least))
        _refuse_bomb(Path(path), whole if "progressive" in file.info else file.size, "progressive" in file.info)
        picture.load()
        ImageOps.exif_transpose(picture, in_place=True)
        if picture.mode.startswith(("I;16", "I")):
            picture = picture.convert("I").point([i / 257 for i in range(65536)], "L")
        return picture if picture.mode == "RGB" else picture.convert("RGB")


def picture_size(path: str | Path) -> tuple[int, int]:
    """Width and height from a picture's header, upright as `load_picture` has it; its pixels are not read.

    Raises:
        As `load_picture`.
    """
    with _opened(path) as file:
        # Pillow looks for the orientation of a PNG behind its pixels
        rotated = file.format != "PNG" and file.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return file.size[::-1] if rotated else file.size


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """A picture's file; any error while reading it is one of `UNREADABLE`."""
    try:
        with Image.open(path, formats=FORMATS) as file:
            yield file
    except UNREADABLE:
        raise
    except Exception as error:  # Pillow raises any kind of exception for damaged bytes
        raise ValueError(f"it is damaged ({type(error).__name__})") from error


def _refuse_bomb(path: Path, size: tuple[int, int], progressive: bool) -> None:
    """Raise ValueError if a picture of ``size`` would take too much memory or time for its file.

    A progressive JPEG needs memory for all its coefficients, at any scale of decoding.
    """
    pixels = size[0] * size[1]
    most = min(
        MOST_PIXELS * 2 // 3 if progressive else MOST_PIXELS, max(SURE_PIXELS, PIXELS_PER_BYTE * path.stat().st_size)
    )
    if pixels > most:
        raise ValueError(f"{size[0]}x{size[1]} pixels are more than {most:,}, the most for such a file")
    if progressive and pixels * path.read_bytes().count(b"\xff\xda") > MOST_SCANNED:
        raise ValueError(f"its {size[0]}x{size[1]} pixels are scanned too many times")


def to_array(picture: Image.Image) -> np.ndarray:
    """An RGB picture as ``(3, H, W)``, float32 in [0, 1]."""
    return np.ascontiguousarray(np.asarray(picture, np.float32).transpose(2, 0, 1) / np.float32(255))


def pad(picture: np.ndarray, factor: int) -> np.ndarray:
    """Repeat the lower and right edge of ``picture: (3, H, W)`` until both sides are multiples of ``factor``."""
    height, width = picture.shape[-2:]
    return np.pad(picture, ((0, 0), (0, -height % factor), (0, -width % factor)), mode="edge")


def to_picture(decoded: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Crop ``decoded: (3, H, W)`` to the height and width ``size``, clamp it to [0, 1] and round it to 8 bits."""
    values = decoded[:, : size[0], : size[1]].clip(0, 1)
    values *= 255
    pixels = np.rint(values, out=values).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)), "RGB")
