"""How close two pictures are: PSNR and MS-SSIM, per picture, as the field reports them."""

from functools import lru_cache
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

Bits = TypeVar("Bits", float, Tensor)

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW, _SIGMA = 11, 1.5
_WHOLE, _PIECE = 400, 22
"""Axes of up to 400 pixels are filtered by one matrix, longer ones 22 places at a time (measured: docs/report.md)."""
_C1, _C2 = 0.01**2, 0.03**2
SMALLEST_SIDE = (_WINDOW - 1) * 2 ** (len(_WEIGHTS) - 1) + 1
"""MS-SSIM is defined for pictures whose sides have at least this many pixels (161)."""


def to_8_bits(x: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to the 256 levels that a picture file has."""
    return (x.float().clamp(0, 1) * 255).round() / 255


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture, in dB; infinite where two pictures are identical.

    Args:
        x, y: ``(B, 3, H, W)``, RGB in [0, 1]; rounding to 8 bits is the caller's choice (`to_8_bits`).

    Returns: ``(B,)``.
    """
    error = (x.double() - y.double()).square().flatten(1).mean(1)
    return -10 * error.log10()


def bits_per_pixel(bits: Bits, x: Tensor) -> Bits:
    """The rate of a batch of pictures ``x: (B, 3, H, W)`` that take ``bits`` together, counted or estimated."""
    return bits / (x.shape[0] * x.shape[2] * x.shape[3])


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """Multi-scale structural similarity of each picture, differentiable; 1 for identical pictures.

    Wang, Simoncelli and Bovik, "Multiscale structural similarity for image quality assessment", 2003; window 11, sigma
    1.5, five scales, the mean of the three channels: the values of ``pytorch_msssim.ms_ssim(data_range=1)``. The Gaussian
    window is applied by products with banded matrices, which on a CPU is faster than depthwise convolution.
    Where a scale's contrast term is negative its channel counts 0 and gets no gradient (instead of NaN).

    Args:
        x, y: ``(B, C, H, W)`` in [0, 1], sides of at least 161 pixels, float32 or float64.

    Returns: ``(B,)``.

    Raises:
        ValueError: a side is too small.
    """
    if min(x.shape[-2:]) < SMALLEST_SIDE:
        raise ValueError(f"MS-SSIM needs sides of at least {SMALLEST_SIDE} pixels, not {tuple(x.shape[-2:])}")
    with torch.autocast(x.device.type, enabled=False):  # its matrix products would lose two digits in bfloat16
        if max(x.shape[-2:]) <= _WHOLE:
            return _ms_ssim(x, y).mean(1)
        # a channel at a time: the maps of a large picture stay in the processor's cache
        return torch.cat([_ms_ssim(*pair) for pair in zip(x.split(1, 1), y.split(1, 1), strict=True)], 1).mean(1)


def _ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """Of each channel, ``(B, C)``."""
    terms = []
    last = len(_WEIGHTS) - 1
    for scale in range(last + 1):
        similarity, contrast = _ssim(x, y)
        terms.append(similarity if scale == last else contrast)
        if scale < last:
            padding = [side % 2 for side in x.shape[-2:]]
            x, y = F.avg_pool2d(x, 2, padding=padding), F.avg_pool2d(y, 2, padding=padding)
    stacked = torch.stack(terms)  # (scales, B, C)
    positive = (stacked > 0).all(dim=0)
    weights = stacked.new_tensor(_WEIGHTS).view(-1, 1, 1)
    product = (stacked.clamp_min(1e-9) ** weights).prod(dim=0)
    return torch.where(positive, product, 0)


def _ssim(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean SSIM and mean contrast-structure term of one scale, each ``(B, C)``."""
    # the two variances only ever appear as their sum, so four filtered maps do
    mean_x, mean_y, power, cross = _filter(_filter(torch.stack([x, y, x * x + y * y, x * y]), -1), -2).unbind()
    squares, product = mean_x * mean_x + mean_y * mean_y, mean_x * mean_y
    contrast = (2 * (cross - product) + _C2) / (power - squares + _C2)
    similarity = contrast * (2 * product + _C1) / (squares + _C1)
    return similarity.flatten(2).mean(2), contrast.flatten(2).mean(2)


def _filter(x: Tensor, axis: int) -> Tensor:
    """The Gaussian window along one axis (-1 or -2) of ``x: (..., H, W)``; it gets 10 shorter.

    A long axis is filtered in short overlapping pieces, one small matrix for all: the full one is nearly all zeros.
    """
    side = x.shape[axis]
    places = side - _WINDOW + 1
    piece = places if side <= _WHOLE else _PIECE
    matrix = _window_matrix(piece + _WINDOW - 1, x.dtype, x.device)
    if piece == places:
        return x @ matrix.T if axis == -1 else matrix @ x
    missing = -places % piece
    x = F.pad(x, (0, missing) if axis == -1 else (0, 0, 0, missing)).unfold(axis, piece + _WINDOW - 1, piece)
    if axis == -1:  # (..., H, pieces, piece + 10)
        return (x @ matrix.T).flatten(-2)[..., :places]
    return (matrix @ x.transpose(-1, -2)).flatten(-3, -2)[..., :places, :]  # (..., pieces, W, piece + 10)


@lru_cache(maxsize=64)
def _window_matrix(side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The Gaussian window at every place of one axis, ``(side - 10, side)``."""
    with torch.inference_mode(False):  # cached: an inference tensor could not serve a training step later
        return _build_window_matrix(side).to(dtype=dtype, device=device)


def _build_window_matrix(side: int) -> Tensor:
    offsets = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
    window /= window.sum()
    matrix = torch.zeros(side - _WINDOW + 1, side, dtype=torch.float64)
    for place in range(matrix.shape[0]):
        matrix[place, place : place + _WINDOW] = window
    return matrix
