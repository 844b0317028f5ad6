"""Anchors: JPEG, WebP and AVIF, written by Pillow with its default settings."""

import io
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, features
from torch import Tensor

from codecswap import __version__
from codecswap.console import warn
from codecswap.evaluation.measure import to_image
from codecswap.evaluation.result import CodecResult, Coded
from codecswap.files import atomic_write
from codecswap.metrics import bits_per_pixel
from codecswap.metrics.table import Metric, compare

FORMATS = {"JPEG": "jpg", "WebP": "webp", "AVIF": "avif"}
"""Formats by name, with the names of their features in Pillow."""


class Anchors:
    """Measures JPEG, WebP and AVIF; formats that Pillow lacks are left out with a warning.

    Each picture is coded once in each format and quality, and the results are cached in a folder
    (``$XDG_CACHE_HOME/codecswap/anchors``, by default in ``~/.cache``): the next evaluation of the same pixels with the
    same encoders reads them from there, times included. Times are CPU time of one core.

    Args:
        qualities: 1 to 100.
    """

    def __init__(self, qualities: Sequence[int]) -> None:
        self.qualities = qualities
        self.results: list[CodecResult] = []
        for name, feature in FORMATS.items():
            if not qualities or features.check(feature):
                self.results += [CodecResult(f"{name} q{quality}", "anchor", curve=name) for quality in qualities]
            else:
                warn(f"This Pillow has no {name} and leaves it out: pip install --upgrade pillow.")

    def measure(self, picture: str, x: Tensor, metrics: Sequence[Metric], pool: Executor) -> list[Coded]:
        """Code one picture ``(1, 3, H, W)`` in every format and quality, in the pool's threads; in the order of ``results``."""
        pixels = to_image(x)
        cache = _Cache(pixels, {metric.name for metric in metrics})
        coded: list[Coded] = []
        with _one_thread_for_avif():
            names = dict.fromkeys(result.curve for result in self.results)
            code = partial(_code, picture, x, pixels, metrics, cache)
            begun = {name: pool.map(partial(code, name), self.qualities) for name in reversed(names)}  # slowest first
            for name in names:
                try:
                    coded += list(begun[name])
                except (OSError, ValueError) as error:  # WebP is limited to 16,383 pixels
                    warn(f"{name} cannot code {picture} ({error}) and is left out.")
                    self.results = [result for result in self.results if result.curve != name]
        cache.write()
        return coded


def _code(
    picture: str, x: Tensor, pixels: Image.Image, metrics: Sequence[Metric], cache: "_Cache", name: str, quality: int
) -> Coded:
    key = f"{name} q{quality}, {_encoder(name)}"
    if known := cache.read(key, picture):
        return known
    content, encoding_time = _timed(_encode, pixels, name, quality)
    decoded, decoding_time = _timed(_decode, content)
    y = torch.from_numpy(decoded).to(x.device).permute(2, 0, 1)[None].float() / 255
    scores = compare(y, x, metrics)
    return cache.add(key, Coded(picture, bits_per_pixel(8 * len(content), x), scores, encoding_time, decoding_time))


def _timed(function: Any, *words: Any) -> tuple[Any, float]:
    """The result of a function, and its CPU time in this thread, in seconds."""
    began = time.thread_time()
    return function(*words), time.thread_time() - began


def _encode(pixels: Image.Image, name: str, quality: int) -> bytes:
    """Encode a picture without metadata."""
    file = io.BytesIO()
    threads = {"max_threads": 1} if name == "AVIF" else {}  # more threads give other bytes
    pixels.copy().save(file, name, quality=quality, **threads)  # Pillow keeps the options in the picture
    return file.getvalue()


def _decode(content: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decode a picture to pixels ``(H, W, 3)``."""
    with Image.open(io.BytesIO(content)) as picture:
        return np.array(picture.convert("RGB"))


def _encoder(name: str) -> str:
    """Name and version of the encoder of a format."""
    library = {"JPEG": "libjpeg_turbo", "WebP": "webp", "AVIF": "avif"}[name]
    return f"{library} {features.version(library)}, Pillow {features.version('pil')}, codecswap {__version__}"


@contextmanager
def _one_thread_for_avif() -> Iterator[None]:
    """Let Pillow decode AVIF in the calling thread: by default it starts one for every core, for each picture."""
    try:
        from PIL import AvifImagePlugin as avif
    except ImportError:  # an older Pillow
        yield
        return
    before = avif.DEFAULT_MAX_THREADS
    avif.DEFAULT_MAX_THREADS = 1
    try:
        yield
    finally:
        avif.DEFAULT_MAX_THREADS = before


class _Cache:
    """Cache of one picture's results, in a file that is named by a hash of its pixels.

    Args:
        pixels: the picture.
        metrics: names of metrics that an entry must have.
    """

    def __init__(self, pixels: Image.Image, metrics: set[str]) -> None:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "codecswap" / "anchors"
        self.path = folder / f"{sha256(f'{pixels.size}'.encode() + pixels.tobytes()).hexdigest()}.json"
        self.metrics, self.new = metrics, False
        self.entries: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            content = json.loads(self.path.read_text(encoding="utf-8"))
            self.entries = content if isinstance(content, dict) else {}

    def read(self, key: str, picture: str) -> Coded | None:
        """The results of a key, for a picture of that name; None if some are missing."""
        try:
            known = Coded(**self.entries[key] | {"picture": picture})
            return known if self.metrics <= set(known.scores) else None
        except (KeyError, TypeError):
            return None

    def add(self, key: str, coded: Coded) -> Coded:
        """Store results under a key."""
        self.entries[key], self.new = asdict(coded), True
        return coded

    def write(self) -> None:
        """Write the file; errors are ignored, since it is only a cache."""
        if self.new:
            with suppress(OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(self.path) as beside:
                    beside.write_text(json.dumps(self.entries), encoding="utf-8")
