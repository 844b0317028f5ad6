"""Process large pictures in tiles that overlap by the receptive field.

A margin of latents on each side of a tile is computed and discarded. With the margin that a codec's layers need
(`codecswap.inference.manifest.Manifest`), the result equals that of the whole picture, up to float rounding.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise, product

import numpy as np

Size = tuple[int, int]
Region = tuple[slice, slice]
"""Rows and columns of latents."""

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
    run: Callable[[np.ndarray], np.ndarray],
    x: np.ndarray,
    size: Size,
    margin: int,
    *,
    scale_in: int,
    scale_out: int,
    region: Region | None = None,
) -> np.ndarray:
    """Compute ``run`` on ``x: (..., H, W)`` tile by tile.

    Args:
        run: takes a tile ``(..., h scale_in, w scale_in)``, returns ``(..., h scale_out, w scale_out)``.
        size: height and width of a tile, in latents.
        margin: latents on each side of a tile that are discarded.
        scale_in, scale_out: pixels per latent of the input and the output.
        region: rows and columns to compute; the tiles are those of all of ``x``, so the values are the same to the last bit.

    Returns: the same as ``run(x)``, up to float rounding, or its ``region``.
    """
    height, width = (side // scale_in for side in x.shape[-2:])
    tall, wide = min(size[0], height), min(size[1], width)
    rows_wanted, columns_wanted = region or (slice(0, height), slice(0, width))
    result: np.ndarray | None = None
    for (top, first_row, last_row), (left, first, last) in product(
        windows(height, tall, margin), windows(width, wide, margin)
    ):
        first_row, last_row = max(first_row, rows_wanted.start), min(last_row, rows_wanted.stop)
        first, last = max(first, columns_wanted.start), min(last, columns_wanted.stop)
        if first_row >= last_row or first >= last:
            continue
        rows, columns = slice(top * scale_in, (top + tall) * scale_in), slice(left * scale_in, (left + wide) * scale_in)
        tile = run(np.ascontiguousarray(x[..., rows, columns]))
        if result is None:
            sides = (scale_out * (wanted.stop - wanted.start) for wanted in (rows_wanted, columns_wanted))
            result = np.empty((*tile.shape[:-2], *sides), tile.dtype)
        inside = tile[
            ...,
            (first_row - top) * scale_out : (last_row - top) * scale_out,
            (first - left) * scale_out : (last - left) * scale_out,
        ]
        above, left_of = rows_wanted.start, columns_wanted.start
        result[
            ...,
            (first_row - above) * scale_out : (last_row - above) * scale_out,
            (first - left_of) * scale_out : (last - left_of) * scale_out,
        ] = inside
    assert result is not None
    return result
