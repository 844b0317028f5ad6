"""Pictures as tensors for training and evaluation, cropped or uncropped.

A random crop is a function of (seed, epoch, base name): it does not depend on which process reads the picture.
"""

import hashlib
import math
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from codecswap.data.discovery import CROP, normal
from codecswap.data.pictures import UNREADABLE, load_picture, load_reduced, to_array

AREA, RATIO = (0.8, 1.0), (0.9, 1.1)
"""Share of a picture's area that a random crop has, and its width divided by its height."""
TRIES = 10
"""Crops drawn until one fits into the picture; then its center is taken."""
RESIZED = 256
"""Shorter side of a picture before its center is cut out for validation."""
AT_LEAST = 2 * RESIZED
"""A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if both sides keep this many pixels, twice what a crop needs: that changes
crops by less than JPEG itself, 45 dB and more (benchmarks/loader.py)."""
LONGEST = 4
"""Longer sides than four shorter ones are cut around the center before a picture is enlarged: a line of 40,000x1 pixels
would take 10 GB."""


def _to_tensor(picture: Image.Image) -> Tensor:
    """``(3, H, W)`` in [0, 1]."""
    return torch.from_numpy(to_array(picture))


def training_crop(path: Path, *, seed: int, epoch: int) -> Tensor:
    """A random crop ``(3, 224, 224)`` in [0, 1], half the time flipped, drawn from (seed, epoch, base name)."""
    with torch.random.fork_rng(devices=[]):
        digest = hashlib.sha256(f"{seed}/{epoch}/{normal(path.stem)}".encode("utf-8", "surrogateescape")).digest()
        torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        picture, size = load_reduced(path, AT_LEAST)
        left, top, width, height = _random_box(*size)
        reduction = round(size[0] / picture.width)
        box = left / reduction, top / reduction, (left + width) / reduction, (top + height) / reduction
        if reduction == 1:  # cut before it is resized, so that no pixel outside has a part in it
            picture, box = picture.crop((left, top, left + width, top + height)), (0, 0, width, height)
        crop = picture.resize((CROP, CROP), Image.Resampling.BILINEAR, box)
        return _to_tensor(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if torch.rand(1) < 0.5 else crop)


def _random_box(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of a random crop, drawn like torchvision's ``RandomResizedCrop``."""
    for _ in range(TRIES):
        area = width * height * torch.empty(1).uniform_(*AREA).item()
        ratio = math.exp(torch.empty(1).uniform_(*map(math.log, RATIO)).item())
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = (int(torch.randint(0, most + 1, (1,))) for most in (height - h, width - w))
            return left, top, w, h
    w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    return (width - w) // 2, (height - h) // 2, w, h


def validation_crop(path: Path) -> Tensor:
    """The center of a picture, ``(3, 224, 224)`` in [0, 1]; a prepared crop as it is."""
    picture = load_picture(path, at_least=AT_LEAST)
    if picture.size == (CROP, CROP):
        return _to_tensor(picture)
    shorter = min(picture.size)
    picture = _center(picture, min(picture.width, LONGEST * shorter), min(picture.height, LONGEST * shorter))
    width, height = (RESIZED if side == shorter else RESIZED * side // shorter for side in picture.size)
    return _to_tensor(_center(picture.resize((width, height), Image.Resampling.BILINEAR), CROP, CROP))


def _center(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The middle of a picture."""
    left, top = round((picture.width - width) / 2), round((picture.height - height) / 2)
    return picture.crop((left, top, left + width, top + height))


def whole_picture(path: Path | bytes) -> Tensor:
    """An uncropped picture, ``(3, H, W)`` in [0, 1], from its file or the bytes of it."""
    return _to_tensor(load_picture(path))


def first_readable(paths: list[Path], count: int) -> tuple[Tensor, list[Path]]:
    """Validation crops of the first ``count`` pictures that can be read, ``(n, 3, 224, 224)``, and their paths."""
    images: list[Tensor] = []
    taken: list[Path] = []
    for path in paths:
        if len(images) == count:
            break
        try:
            images.append(validation_crop(path))
            taken.append(path)
        except UNREADABLE:
            continue
    return torch.stack(images) if images else torch.empty(0, 3, CROP, CROP), taken
