"""Pictures as tensors for training and evaluation, cropped or uncropped.

A random crop is a function of (seed, epoch, base name): it does not depend on which process reads the picture.
"""

import hashlib
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms import v2

from codecswap.data.discovery import CROP, normal
from codecswap.data.pictures import UNREADABLE, load_picture

_to_tensor = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
_train_crop = v2.Compose(
    [
        v2.RandomResizedCrop(CROP, scale=(0.8, 1.0), ratio=(0.9, 1.1), antialias=True),
        v2.RandomHorizontalFlip(),
        _to_tensor,
    ]
)
LONGEST = 4
"""Longer sides than four shorter ones are cut around the center before a picture is enlarged: a line of 40,000x1 pixels
would take 10 GB."""
_val_crop = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(CROP), _to_tensor])


def training_crop(path: Path, *, seed: int, epoch: int) -> Tensor:
    """A random crop ``(3, 224, 224)`` in [0, 1], half the time flipped, drawn from (seed, epoch, base name)."""
    with torch.random.fork_rng(devices=[]):
        digest = hashlib.sha256(f"{seed}/{epoch}/{normal(path.stem)}".encode("utf-8", "surrogateescape")).digest()
        torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        return _train_crop(load_picture(path))


def validation_crop(path: Path) -> Tensor:
    """The center of a picture, ``(3, 224, 224)`` in [0, 1]; a prepared crop as it is."""
    picture = load_picture(path)
    if picture.size == (CROP, CROP):
        return _to_tensor(picture)
    height, width = (min(side, LONGEST * min(picture.size)) for side in (picture.height, picture.width))
    return _val_crop(
        picture if (width, height) == picture.size else v2.functional.center_crop(picture, [height, width])
    )


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
