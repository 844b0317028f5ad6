"""Read pictures, without PyTorch."""

import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, PngImagePlugin, TiffImagePlugin

from codecswap.console import CodecswapWarning

UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
"""Exceptions of `load_picture` for a file that is not a readable picture."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""Formats that Pillow may read. For some others it would start Ghostscript."""
MOST_PIXELS = 120_000_000
"""Most pixels of a picture: the two copies needed to convert it stay below 1 GiB."""
SURE_PIXELS, PIXELS_PER_BYTE = 1 << 24, 100
"""Any picture may have this many pixels; larger ones at most 100 per byte of the file (decompression bombs: 1,000)."""
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
"""Bytes of a profile or a text in a PNG, unpacked: Pillow refuses a picture for more than 1 MiB of either."""
MOST_SCANNED = 4_000_000_000
"""Most pixels times scans of a progressive JPEG, which takes seconds. Ten scans are usual; a scan can be 40 bytes."""

_T = Image.Transpose
UPRIGHT = {2: _T.FLIP_LEFT_RIGHT, 3: _T.ROTATE_180, 4: _T.FLIP_TOP_BOTTOM, 5: _T.TRANSPOSE, 6: _T.ROTATE_270}
UPRIGHT |= {7: _T.TRANSVERSE, 8: _T.ROTATE_90}
"""Operation that makes a picture upright, by its Exif orientation."""
THROUGH = {"La": ("LA",), "RGBa": ("RGBA",), "PA": ("RGBA",)}
"""Modes that Pillow converts to RGB in two steps."""
WHITE_IS_ZERO = 0
"""A TIFF's photometric interpretation; Pillow inverts 8 bits and less, but not more."""


def load_picture(path: str | Path | bytes, *, at_least: int | None = None) -> Image.Image:
    """Read a picture of any mode as 8-bit RGB, upright.

    Gray of 12 or 16 bits is scaled to 8 bits, floats from [0, 1]; CMYK, Lab and palettes become RGB, and transparency is
    dropped. Metadata is not looked at, but for the orientation.

    Args:
        path: the picture's file, or its bytes.
        at_least: pixels that either side must keep; a JPEG is then decoded at the smallest of the scales 1/8,
            1/4, 1/2 and 1 that keeps them, which costs a fraction. Other formats are read whole.

    Raises:
        OSError, ValueError, SyntaxError, EOFError, PIL.Image.DecompressionBombError: it cannot be read
            (`UNREADABLE`), or it tells no range of gray levels.
    """
    return load_reduced(path, at_least)[0]


def load_reduced(path: str | Path | bytes, at_least: int | None) -> tuple[Image.Image, tuple[int, int]]:
    """A picture as `load_picture` reads it, and the width and height of the whole picture, upright."""
    with _opened(path) as file:
        picture: Image.Image = file
        whole = file.size
        if at_least is not None:
            file.draft(None, (at_least, at_least))
        reduced = file.size != whole
        _refuse_bomb(path, whole if "progressive" in file.info else file.size, "progressive" in file.info)
        picture.load()
        if (turn := UPRIGHT.get(orientation := _orientation(picture))) is not None:
            picture = picture.transpose(turn)
        upright = whole[::-1] if reduced and orientation >= 5 else whole
        return _to_rgb(picture, file), upright if reduced else picture.size


def picture_size(path: str | Path) -> tuple[int, int]:
    """Width and height from a picture's header, upright as `load_picture` has it; its pixels are not read.

    Raises:
        As `load_picture`.
    """
    with _opened(path) as file:
        # Pillow turns a TIFF itself, and looks for the orientation of a PNG behind its pixels
        rotated = file.format not in ("PNG", "TIFF") and _orientation(file) >= 5
        return file.size[::-1] if rotated else file.size


@contextmanager
def _opened(path: str | Path | bytes) -> Iterator[Image.Image]:
    """A picture's file; any error while reading it is one of `UNREADABLE`."""
    try:
        with _no_warnings():  # about metadata, which does not matter
            if not isinstance(path, bytes) and not stat.S_ISREG(os.stat(path).st_mode):
                raise ValueError("it is no file")  # opening a pipe would wait for its writer
            with Image.open(io.BytesIO(path) if isinstance(path, bytes) else path, formats=FORMATS) as file:
                yield file
    except UNREADABLE:
        raise
    except Exception as error:  # Pillow raises any kind of exception for damaged bytes
        raise ValueError(f"it is damaged ({type(error).__name__})") from error


_lock = threading.Lock()
_reading = 0
_before: Any = None


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Ignore others' warnings while any thread reads; `warnings.catch_warnings` alone is for one thread."""
    global _reading, _before
    with _lock:
        if not _reading:
            _before = warnings.catch_warnings()
            _before.__enter__()
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", CodecswapWarning)
        _reading += 1
    try:
        yield
    finally:
        with _lock:
            _reading -= 1
            if not _reading:
                _before.__exit__(None, None, None)


def _orientation(picture: Image.Image) -> int:
    """1 to 8, as Exif numbers them; damaged metadata is as good as none."""
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises any kind of exception for damaged bytes
        return 1


def _to_rgb(picture: Image.Image, file: Image.Image) -> Image.Image:
    """Convert any mode that Pillow reads to 8-bit RGB, by the range that the format of its ``file`` documents.

    Raises:
        ValueError: the format documents none.
    """
    tags = file.tag_v2 if isinstance(file, TiffImagePlugin.TiffImageFile) else {}
    if picture.mode.startswith("I;16"):
        white = 4095 if tags.get(ExifTags.Base.BitsPerSample) == (12,) else 65535
        levels = np.asarray(picture.convert("I"), np.float32) / np.float32(white)
    elif picture.mode == "F":
        levels = np.asarray(picture)
        if not (levels.min() >= 0 and levels.max() <= 1):  # nor NaN
            raise ValueError("its floats are not in [0, 1], and nothing tells what white is: save it with 8 or 16 bits")
    elif picture.mode == "I":
        raise ValueError("it has signed or 32-bit integers, and nothing tells what white is: save it with 8 or 16 bits")
    elif picture.mode == "LAB":
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(picture, lab, rgb, outputMode="RGB")
        assert converted is not None
        return converted
    else:
        for mode in THROUGH.get(picture.mode, ()):
            picture = picture.convert(mode)
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    if tags.get(ExifTags.Base.PhotometricInterpretation) == WHITE_IS_ZERO:
        levels = 1 - levels
    return Image.fromarray(np.rint(levels * 255).astype(np.uint8)).convert("RGB")


def _refuse_bomb(path: str | Path | bytes, size: tuple[int, int], progressive: bool) -> None:
    """Raise ValueError if a picture of ``size`` would take too much memory or time for its file.

    A progressive JPEG needs memory for all its coefficients, at any scale of decoding.
    """
    pixels = size[0] * size[1]
    length = len(path) if isinstance(path, bytes) else Path(path).stat().st_size
    most = min(MOST_PIXELS * 2 // 3 if progressive else MOST_PIXELS, max(SURE_PIXELS, PIXELS_PER_BYTE * length))
    if pixels > most:
        raise ValueError(f"{size[0]}x{size[1]} pixels are more than {most:,}, the most for such a file")
    if not progressive:
        return
    content = path if isinstance(path, bytes) else Path(path).read_bytes()
    if pixels * content.count(b"\xff\xda") > MOST_SCANNED:
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
