"""Pixel-wise measures: rounding to 8 bits, PSNR, bits per pixel."""

from typing import TypeVar

from torch import Tensor

Bits = TypeVar("Bits", float, Tensor)


def to_8_bits(x: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to the 256 levels that a picture file has."""
    return (x.float().clamp(0, 1) * 255).round() / 255


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture, in dB; infinite where two pictures are identical.

    Args:
        x, y: ``(B, 3, H, W)``, RGB in [0, 1]; rounding to 8 bits is the caller's choice (`to_8_bits`).

    Returns: ``(B,)``, float64.
    """
    error = (x.double() - y.double()).square().flatten(1).mean(1)
    return -10 * error.log10()


def bits_per_pixel(bits: Bits, x: Tensor) -> Bits:
    """The rate of a batch of pictures ``x: (B, 3, H, W)`` that take ``bits`` together, counted or estimated."""
    return bits / (x.shape[0] * x.shape[2] * x.shape[3])
