"""Sample pictures as arrays, from a folder or from the package."""

from collections.abc import Iterator
from importlib.resources import files
from itertools import islice

import numpy as np
from PIL import Image, ImageOps

from codecswap.data.discovery import scan
from codecswap.data.pictures import UNREADABLE, load_picture, pad, to_array
from codecswap.errors import UserError

CROP = (384, 256)
"""Width and height of a calibration picture if no size is fixed."""
VERIFIED_ON = 3
"""Number of pictures on which written files are verified."""


def sample_pictures(
    folder: str | None, option: str, side: str, size: tuple[int, int] | None, factor: int = 1
) -> Iterator[np.ndarray]:
    """Pictures of a folder, or the package's photographs, ``(3, H, W)``, float32 in [0, 1].

    Args:
        folder: folder of pictures; None: the package's photographs.
        option: the option that named the folder, for messages.
        side: split of the package's photographs, ``train`` or ``val``.
        size: width and height to crop to; None: uncropped.
        factor: sides are padded to multiples of it.

    Raises:
        UserError: the folder holds none that can be read.
    """
    found = 0
    for path in scan(folder or str(files("codecswap") / "assets" / "photos" / side)):
        try:
            picture = load_picture(path)
        except UNREADABLE:
            continue
        found += 1
        cut = ImageOps.fit(picture, size, Image.Resampling.LANCZOS) if size else picture
        yield pad(to_array(cut), factor)
    if not found:
        raise UserError(f"{option} {folder} holds no picture that can be read.")


def calibration_pictures(folder: str | None, size: tuple[int, int] | None, count: int) -> Iterator[np.ndarray]:
    """The first ``count`` pictures of ``--calibration_images`` (None: the package's), cut to a width and height or `CROP`."""
    return islice(sample_pictures(folder, "--calibration_images", "train", size or CROP), count)


def held_out_pictures(folder: str | None, size: tuple[int, int] | None, factor: int) -> Iterator[np.ndarray]:
    """Pictures of ``--images`` (None: photographs of the package that are not calibrated on): see `sample_pictures`."""
    return sample_pictures(folder, "--images", "val", size, factor)
