"""CompressAI's published results of its zoo, and differences of measurements from them."""

import json
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import PurePath
from typing import Any

from codecswap.config import ZOO


@cache
def published(model: str) -> dict[str, Any]:
    """Published results of a model (mse) on Kodak, in CompressAI's results format: a point for each quality of the zoo, from 1;
    of a codec with variable rate for each of several gains; of ``elic2022_official`` those of its paper.

    The results of other architectures are empty.
    """
    path = files("codecswap") / "assets" / "published" / f"compressai-{model.replace('_', '-')}-mse-kodak.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else {"results": {}}


_KODAK = frozenset(f"kodim{number:02d}" for number in range(1, 25))


def is_kodak(pictures: Iterable[tuple[str, tuple[int, int]]]) -> bool:
    """Whether named pictures with their (height, width) are the 24 of Kodak, by names and sizes."""
    found = [(PurePath(name).stem.lower(), size) for name, size in pictures]
    sizes = all(sorted(size) == [512, 768] for _, size in found)
    return len(found) == len(_KODAK) and {name for name, _ in found} == _KODAK and sizes


def distance(mean: dict[str, float], quality: int, model: str = ZOO) -> dict[str, float]:
    """Difference of a measurement on Kodak from the published results of one quality: ``psnr`` (dB), ``ms_ssim``, ``bpp``."""
    figures = published(model)["results"]
    keys = {"psnr": "psnr-rgb", "ms_ssim": "ms-ssim-rgb", "bpp": "bpp"}
    return {name: mean[name] - figures[key][quality - 1] for name, key in keys.items()}
