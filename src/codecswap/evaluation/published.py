"""Figures that CompressAI publishes for its zoo, and how far a measurement is from them."""

import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import PurePath
from typing import Any

PUBLISHED: dict[str, Any] = json.loads(
    (files("codecswap") / "assets" / "published" / "compressai-bmshj2018-factorized-mse-kodak.json").read_text("utf-8")
)
"""``bmshj2018_factorized`` (mse), qualities 1 to 8 on Kodak, in CompressAI's results format (its source in ``description``)."""

_KODAK = frozenset(f"kodim{number:02d}" for number in range(1, 25))


def is_kodak(pictures: Iterable[tuple[str, tuple[int, int]]]) -> bool:
    """Whether named pictures with their (height, width) are the 24 of Kodak, by names and sizes."""
    found = [(PurePath(name).stem.lower(), size) for name, size in pictures]
    sizes = all(sorted(size) == [512, 768] for _, size in found)
    return len(found) == len(_KODAK) and {name for name, _ in found} == _KODAK and sizes


def distance(mean: dict[str, float], quality: int) -> dict[str, float]:
    """How far a measurement on Kodak is from the published figures of one quality: ``psnr`` (dB), ``ms_ssim``, ``bpp``."""
    published = PUBLISHED["results"]
    keys = {"psnr": "psnr-rgb", "ms_ssim": "ms-ssim-rgb", "bpp": "bpp"}
    return {name: mean[name] - published[key][quality - 1] for name, key in keys.items()}
