"""MS-SSIM, differentiable, without a read of the device: a training step on a GPU never waits for it."""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2
_AT_ONCE = 1_000_000
"""Most values of pictures whose channels are computed together (640x480)."""
SMALLEST_SIDE = (_WINDOW - 1) * 2 ** (len(_WEIGHTS) - 1) + 1
"""MS-SSIM is defined for pictures whose sides have at least this many pixels (161)."""


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """Multi-scale structural similarity of each picture, differentiable; 1 for identical pictures.

    Wang, Simoncelli and Bovik, "Multiscale structural similarity for image quality assessment", 2003; window 11, sigma
    1.5, five scales, the mean of the three channels: the values of ``pytorch_msssim.ms_ssim(data_range=1)``. The Gaussian
    window is applied axis by axis (`_filter`).
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
        if x.requires_grad or y.requires_grad or x.numel() <= _AT_ONCE:
            return _ms_ssim(x, y).mean(1)
        # a channel at a time: the maps of a picture stay in the processor's cache
        return torch.cat([_ms_ssim(*pair) for pair in zip(x.split(1, 1), y.split(1, 1), strict=True)], 1).mean(1)


def _ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """MS-SSIM of each channel, ``(B, C)``."""
    terms = []
    last = len(_WEIGHTS) - 1
    for scale in range(last + 1):
        terms.append(_ssim(x, y, whole=scale == last))
        if scale < last:
            x, y = _halve(x), _halve(y)
    stacked = torch.stack(terms)  # (scales, B, C)
    positive = (stacked > 0).all(dim=0)
    # the product of powers as a sum of logarithms: the gradient of `prod` looks for zeros, and waits for the device
    logarithms = stacked.clamp_min(1e-9).log() * _weights(stacked.dtype, stacked.device)
    return torch.where(positive, logarithms.sum(0).exp(), 0)


@lru_cache(maxsize=8)
def _weights(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The scales' weights, ``(scales, 1, 1)``; cached, since a copy from the host waits for the device."""
    with torch.inference_mode(False):
        return torch.tensor(_WEIGHTS, dtype=dtype, device=device).view(-1, 1, 1)


def _ssim(x: Tensor, y: Tensor, *, whole: bool) -> Tensor:
    """Mean contrast-structure term of one scale, ``(B, C)``; ``whole``: times the term of brightness, that is SSIM."""
    # the two variances only ever appear as their sum, so four filtered maps do
    mean_x, mean_y, power, cross = _filter([x, y, x * x + y * y, x * y]).unbind()
    squares, product = mean_x * mean_x + mean_y * mean_y, mean_x * mean_y
    terms = (2 * (cross - product) + _C2) / (power - squares + _C2)
    if whole:
        terms = terms * (2 * product + _C1) / (squares + _C1)
    return terms.flatten(2).mean(2)


def _halve(x: Tensor) -> Tensor:
    """Means of 2x2 pixels of ``x: (B, C, H, W)``; a row or column of zeros is set before an odd side."""
    if x.shape[-2] % 2 or x.shape[-1] % 2:
        x = F.pad(x, (x.shape[-1] % 2, 0, x.shape[-2] % 2, 0))
    rows = x[..., ::2, :] + x[..., 1::2, :]
    return (rows[..., ::2] + rows[..., 1::2]) * 0.25  # on a CPU a fraction of avg_pool2d's time


def _filter(maps: Sequence[Tensor]) -> Tensor:
    """The Gaussian window along both axes of four maps ``(B, C, H, W)``: ``(4, B, C, H - 10, W - 10)``.

    On a CPU without gradients the four are neighbors in memory: a depthwise convolution then takes them together. Else
    banded matrices: their gradient is one product, too, and a GPU does not round them to TF32 as it does convolutions.
    """
    if any(each.requires_grad for each in maps) or maps[0].device.type != "cpu":
        stacked = torch.stack(list(maps))
        rows, columns = (_window_matrix(side, stacked.dtype, stacked.device) for side in stacked.shape[-2:])
        return rows @ (stacked @ columns.T)
    window = _window().to(maps[0]).expand(len(maps), 1, 1, -1)
    together = torch.stack(list(maps), -1).flatten(0, 1).permute(0, 3, 1, 2)  # (B C, 4, H, W), channels last
    filtered = F.conv2d(together, window, groups=len(maps))
    filtered = F.conv2d(filtered, window.transpose(-1, -2), groups=len(maps))
    return filtered.transpose(0, 1).contiguous().unflatten(1, maps[0].shape[:2])


@lru_cache(maxsize=64)
def _window_matrix(side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The Gaussian window at every place of one axis, ``(side - 10, side)``."""
    with torch.inference_mode(False):  # cached: an inference tensor could not serve a training step later
        return _build_window_matrix(side).to(dtype=dtype, device=device)


def _build_window_matrix(side: int) -> Tensor:
    window = _window()
    matrix = torch.zeros(side - _WINDOW + 1, side, dtype=torch.float64)
    for place in range(matrix.shape[0]):
        matrix[place, place : place + _WINDOW] = window
    return matrix


def _window() -> Tensor:
    """The Gaussian window, float64; its sum is 1."""
    offsets = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
    return window / window.sum()
