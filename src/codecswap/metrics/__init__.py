"""Metrics per picture; `codecswap.metrics.table` lists all of them."""

from codecswap.metrics.pixels import bits_per_pixel, psnr, to_8_bits
from codecswap.metrics.structure import SMALLEST_SIDE, ms_ssim

__all__ = ["SMALLEST_SIDE", "bits_per_pixel", "ms_ssim", "psnr", "to_8_bits"]
