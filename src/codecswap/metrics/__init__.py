"""How close two pictures are, picture by picture, as the field reports it; `codecswap.metrics.table` lists all measures."""

from codecswap.metrics.pixels import bits_per_pixel, psnr, to_8_bits
from codecswap.metrics.structure import SMALLEST_SIDE, ms_ssim

__all__ = ["SMALLEST_SIDE", "bits_per_pixel", "ms_ssim", "psnr", "to_8_bits"]
