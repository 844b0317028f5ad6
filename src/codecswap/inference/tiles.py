"""Process large pictures in tiles that overlap by the receptive field.

A margin of latents on each side of a tile is computed and discarded. With the margin that a codec's layers need
(`codecswap.inference.manifest.Manifest`), the result equals that of the whole picture, up to float rounding.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise, product

import numpy as np

Size = tuple[int, int]

TILE: Size = (80, 80)
"""Largest tile in latents (1280x1280 pixels): a picture of 12 megapixels takes less than 4 GiB with N=192, M=320."""


def windows(length: int, size: int, margin: int) -> Iterator[tuple[int, int, int]]:
    """Cover ``length`` latents of one axis with windows of ``size`` (or of ``length``, where that is less).

    Yields: start of a window, and the range of the axis that is taken from it.
    """
    size = min(size, length)
    if size < length and size <= 2 * margin:
        raise ValueError(f"a tile of {size} latents has no inside: it takes more than {2 * margin}")
    count = 1 if size == length else math.ceil((length - 2 * margin) / (size - 2 * margin))
    starts = [index * (length - size) // max(1, count - 1) for index in range(count)]
    edges = [0, *((a + b + size) // 2 for a, b in pairwise(starts)), length]
    yield from zip(starts, edges[:-1], edges[1:], strict=True)


def in_tiles(
    run: Callable[[np.ndarray], np.ndarray], x: np.ndarray, size: Size, margin: int, *, scale_in: int, scale_out: int
) -> np.ndarray:
    """Compute ``run`` on ``x: (..., H, W)`` tile by tile.

    Args:
        run: takes a tile ``(..., h scale_in, w scale_in)``, returns ``(..., h scale_out, w scale_out)``.
        size: height and width of a tile, in latents.
        margin: latents on each side of a tile that are discarded.
        scale_in, scale_out: pixels per latent of the input and the output.

    Returns: the same as ``run(x)``, up to float rounding.
    """
    height, width = (side // scale_in for side in x.shape[-2:])
    tall, wide = min(size[0], height), min(size[1], width)
    result: np.ndarray | None = None
    for (top, first_row, last_row), (left, first, last) in product(
        windows(height, tall, margin), windows(width, wide, margin)
    ):
        rows, columns = slice(top * scale_in, (top + tall) * scale_in), slice(left * scale_in, (left + wide) * scale_in)
        tile = run(np.ascontiguousarray(x[..., rows, columns]))
        if result is None:
            result = np.empty((*tile.shape[:-2], height * scale_out, width * scale_out), tile.dtype)
        inside = tile[
            ...,
            (first_row - top) * scale_out : (last_row - top) * scale_out,
            (first - left) * scale_out : (last - left) * scale_out,
        ]
        result[..., first_row * scale_out : last_row * scale_out, first * scale_out : last * scale_out] = inside
    assert result is not None
    return result
