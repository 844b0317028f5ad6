"""Anchors, the codecs to compare with: JPEG, WebP and AVIF as Pillow writes them by default."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image, features
from torch import Tensor

from codecswap.console import warn
from codecswap.evaluation.measure import CodecResult, Coded, Lpips, Scores, evaluate_all, timed, to_image
from codecswap.metrics import bits_per_pixel

FORMATS = {"JPEG": "jpg", "WebP": "webp", "AVIF": "avif"}
"""Formats by name, and the names of their features in Pillow."""
CPU = torch.device("cpu")


class Anchors:
    """JPEG, WebP and AVIF; warns of a format that Pillow lacks and leaves it out.

    Args:
        qualities: 1 to 100.
        threads: how many formats and qualities of a picture are coded at the same time; with more than one the times say
            little.
    """

    def __init__(self, qualities: Sequence[int], threads: int = 1) -> None:
        self.qualities, self.threads = qualities, threads
        self.results: list[CodecResult] = []
        for name, feature in FORMATS.items():
            if features.check(feature):
                self.results += [CodecResult(f"{name} q{quality}", "anchor", curve=name) for quality in qualities]
            else:
                warn(f"This Pillow has no {name} and leaves it out: pip install --upgrade pillow.")

    def measure(self, picture: str, x: Tensor, lpips: Lpips | None = None) -> list[Coded]:
        """Code one picture ``(1, 3, H, W)`` in every format and quality."""
        pixels = to_image(x)
        coded: list[Coded] = []
        with self._workers() as run:
            names = dict.fromkeys(result.curve for result in self.results)
            begun = {name: run(partial(_code, picture, x, pixels, lpips, name), self.qualities) for name in names}
            for name, each in begun.items():
                try:
                    coded += list(each)
                except (OSError, ValueError) as error:  # WebP ends at 16,383 pixels
                    warn(f"{name} cannot code {picture} ({error}) and is left out.")
                    self.results = [result for result in self.results if result.curve != name]
        return coded

    @contextmanager
    def _workers(self) -> Iterator[Callable[..., Iterator[Coded]]]:
        """``map``, or the same in threads: Pillow and PyTorch leave Python to others while they compute."""
        if self.threads == 1:
            yield map
            return
        with ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool.map


def _code(picture: str, x: Tensor, pixels: Image.Image, lpips: Lpips | None, name: str, quality: int) -> Coded:
    content, encoding_time = timed(CPU, _encode, pixels, name, quality)
    decoded, decoding_time = timed(CPU, _decode, content)
    y = torch.from_numpy(decoded).to(x.device).permute(2, 0, 1)[None].float() / 255
    return Coded(picture, bits_per_pixel(8 * len(content), x), Scores.of(y, x, lpips), encoding_time, decoding_time)


def _encode(pixels: Image.Image, name: str, quality: int) -> bytes:
    """The bytes of a picture without metadata."""
    file = io.BytesIO()
    threads = {"max_threads": 1} if name == "AVIF" else {}  # more of them give other bytes
    pixels.copy().save(file, name, quality=quality, **threads)  # Pillow keeps the options in the picture
    return file.getvalue()


def _decode(content: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The pixels ``(H, W, 3)`` of a picture."""
    with Image.open(io.BytesIO(content)) as picture:
        return np.array(picture.convert("RGB"))


def anchors(
    pictures: Iterable[tuple[str, Tensor]], qualities: Sequence[int], *, lpips: Lpips | None = None, threads: int = 1
) -> list[CodecResult]:
    """Measure JPEG, WebP and AVIF on named pictures ``(3, H, W)`` in [0, 1].

    Args:
        qualities: 1 to 100.
        threads: `Anchors`.

    Returns: a result for each format and quality, named ``JPEG q30``; ``curve`` is the format.
    """
    measured = Anchors(qualities, threads)
    evaluate_all([measured], pictures, lpips=lpips)
    return measured.results
