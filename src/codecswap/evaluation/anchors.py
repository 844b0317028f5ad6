"""Familiar codecs to compare with: JPEG, WebP and AVIF as Pillow writes them by default."""

import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, features
from torch import Tensor

from codecswap.console import warn
from codecswap.evaluation.measure import CodecResult, Coded, Lpips, Scores, evaluate_all, timed
from codecswap.metrics import bits_per_pixel

QUALITIES = (10, 30, 50, 70, 90)
"""What Pillow calls quality, of every format."""
FORMATS = {"JPEG": "jpg", "WebP": "webp", "AVIF": "avif"}
"""Formats by name, and what Pillow calls their support."""


class Anchors:
    """JPEG, WebP and AVIF at several qualities; a format that this Pillow cannot write is left out with a sentence."""

    def __init__(self, qualities: Sequence[int] = QUALITIES) -> None:
        there = [name for name, feature in FORMATS.items() if features.check(feature)]
        for name in FORMATS:
            if name not in there:
                warn(f"This Pillow has no {name} and leaves it out: pip install --upgrade pillow.")
        self.settings = [(name, quality) for name in there for quality in qualities]
        self.results = [CodecResult(f"{name} q{quality}", "anchor", curve=name) for name, quality in self.settings]
        self._warm = False

    def measure(self, picture: str, x: Tensor, lpips: Lpips | None = None) -> list[Coded]:
        """One picture ``(1, 3, H, W)`` through every format and quality; the first one twice, to warm them up."""
        if not self._warm:
            self._warm = True
            self.measure(picture, x)
        pixels = Image.fromarray((x[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy())
        coded = []
        for name in dict.fromkeys(name for name, _ in self.settings):
            try:
                made = [self._code(picture, x, pixels, *s, lpips) for s in self.settings if s[0] == name]
            except (OSError, ValueError) as error:  # WebP ends at 16,383 pixels
                warn(f"{name} cannot code {picture} ({error}) and is left out.")
                kept = [index for index, setting in enumerate(self.settings) if setting[0] != name]
                self.settings = [self.settings[index] for index in kept]
                self.results = [self.results[index] for index in kept]
            else:
                coded += made
        return coded

    @staticmethod
    def _code(picture: str, x: Tensor, pixels: Image.Image, name: str, quality: int, lpips: Lpips | None) -> Coded:
        content, encoding_time = timed(lambda: _encode(pixels, name, quality))
        decoded, decoding_time = timed(lambda: _decode(content))
        y = torch.from_numpy(decoded).to(x.device).permute(2, 0, 1)[None].float() / 255
        return Coded(picture, bits_per_pixel(8 * len(content), x), Scores.of(y, x, lpips), encoding_time, decoding_time)


def _encode(pixels: Image.Image, name: str, quality: int) -> bytes:
    """The bytes of a picture without metadata."""
    file = io.BytesIO()
    threads = {"max_threads": 1} if name == "AVIF" else {}  # more of them give other bytes
    pixels.save(file, name, quality=quality, **threads)
    return file.getvalue()


def _decode(content: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The pixels ``(H, W, 3)`` of a picture."""
    with Image.open(io.BytesIO(content)) as picture:
        return np.array(picture.convert("RGB"))


def anchors(
    pictures: Iterable[tuple[str, Tensor]], qualities: Sequence[int] = QUALITIES, *, lpips: Lpips | None = None
) -> list[CodecResult]:
    """Measure JPEG, WebP and AVIF on named pictures ``(3, H, W)`` in [0, 1].

    Returns: a result for each format and quality, named ``JPEG q30``; ``curve`` is the format.
    """
    contender = Anchors(qualities)
    evaluate_all([contender], pictures, lpips=lpips)
    return contender.results
