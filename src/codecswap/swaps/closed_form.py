"""GDN swaps without training: fitted on pictures, with the smallest size that meets a tolerance."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from codecswap.codecs.protocol import Codec, encode, estimate_bits
from codecswap.metrics import psnr, to_8_bits
from codecswap.swaps import GDN_SWAPS, UNCHANGED
from codecswap.swaps.apply import PARTS, Replaced, swap_gdn
from codecswap.swaps.calibrate import calibrate

PERCENT = 0.05
"""Loss in dB that equals 1 % more bits: twice the rate gives about 3.5 dB (0.90 to 1.86 bpp, 31.26 to 34.85 dB)."""

AnyCodec = TypeVar("AnyCodec", bound=Codec)


@dataclass(frozen=True)
class Loss:
    """A changed codec against the original one on the same pictures; each uses its own encoder."""

    psnr_before: float
    psnr: float
    """Mean PSNR of the 8-bit reconstructions against the pictures, in dB."""
    bits_before: float
    bits: float
    """Estimated bits of all pictures."""
    symbols: float
    """Share of symbols that changed."""

    @property
    def percent(self) -> float:
        """Change of the bits, in percent."""
        return 100 * (self.bits / self.bits_before - 1)

    @property
    def decibels(self) -> float:
        """Loss in dB, including the change of the bits (`PERCENT`)."""
        return self.psnr_before - self.psnr + PERCENT * self.percent

    def __str__(self) -> str:
        decoder = f"{self.psnr_before:.3f} dB before, {self.psnr:.3f} dB after ({self.psnr - self.psnr_before:+.3f} dB)"
        return decoder + (
            f", {self.percent:+.2f} % bits, {self.symbols:.2%} of the symbols changed" * (self.symbols > 0)
        )


@dataclass(frozen=True)
class FittedGdn(Generic[AnyCodec]):
    """Result of `fit_gdn`."""

    codec: AnyCodec
    gdn: str
    """A name in `codecswap.swaps.GDN_SWAPS`, or ``sqrt``."""
    replaced: tuple[Replaced, ...] = ()
    pieces: int | None = None
    """Size of the swap, where it has sizes."""
    pictures: int = 0
    """How many the loss was measured on."""
    loss: Loss | None = None
    """On pictures that nothing was fitted to; None: the swap is exact."""


@torch.no_grad()
def measure(before: Codec, after: Codec, pictures: Sequence[Tensor]) -> Loss:
    """Encode and decode ``pictures``, ``(B, 3, H, W)`` with sides that are multiples of the factor, with both codecs."""
    sums = [0.0] * 4
    count = changed = symbols = 0
    for x in pictures:
        old, new = encode(before, x), encode(after, x)
        for place, (codec, latents) in enumerate(((before, old), (after, new))):
            sums[place] += psnr(to_8_bits(codec.g_s(latents)), x).sum().item()
            sums[place + 2] += estimate_bits(codec, latents).item()
        count, symbols = count + len(x), symbols + old.numel()
        changed += int((old != new).sum())
    return Loss(sums[0] / count, sums[1] / count, sums[2], sums[3], changed / symbols)


def swap_and_fit(
    codec: AnyCodec,
    gdn: str,
    part: str,
    pictures: Tensor,
    *,
    tolerance: float,
    seed: int = 0,
) -> tuple[AnyCodec, list[Replaced], int | None]:
    """Copy a codec, replace its GDNs (`codecswap.swaps.apply.swap_gdn`), and calibrate inexact layers on pictures.

    If the swap has sizes (the pieces of ``ramps``), the smallest size that loses at most ``tolerance`` dB on these
    pictures is used, or else the largest.

    Args:
        pictures: ``(n, 3, H, W)`` in [0, 1], sides multiples of the factor.

    Returns: the copy, the replaced layers, and the size.
    """
    chosen = GDN_SWAPS.get(gdn)
    if chosen is None or chosen.exact:
        return *swap_gdn(codec, gdn, part), None
    inputs = {"g_a": pictures, "g_s": encode(codec, pictures)}
    for size in chosen.sizes or (None,):
        student, report = swap_gdn(codec, gdn, part, pieces=size)
        for transform in PARTS[part]:
            calibrate(codec, student, inputs[transform], seed=seed, transform=transform)
        if size is None or measure(codec, student, pictures.split(1)).decibels <= tolerance:
            break
    return student, report, size


def fit_gdn(
    codec: AnyCodec,
    gdn: str,
    part: str,
    *,
    calibration: Iterable[np.ndarray],
    held_out: Iterable[np.ndarray],
    tolerance: float,
) -> FittedGdn[AnyCodec]:
    """Replace a codec's GDNs without training (`swap_and_fit`), and measure what that costs.

    Args:
        codec: it is left as it is.
        calibration, held_out: pictures ``(3, H, W)`` in [0, 1], sides multiples of the factor, those to calibrate on of one
            size; they are read only where the swap needs them.

    Raises:
        UserError: the codec has no GDNs that could be replaced.
    """
    if gdn == UNCHANGED:
        return FittedGdn(codec, gdn)
    pictures = torch.stack([torch.from_numpy(one) for one in calibration])
    made, replaced, pieces = swap_and_fit(codec, gdn, part, pictures, tolerance=tolerance)
    made.requires_grad_(False)
    if GDN_SWAPS[gdn].exact:
        return FittedGdn(made, gdn, tuple(replaced), pieces)
    shown = [torch.from_numpy(one)[None] for one in held_out]
    return FittedGdn(made, gdn, tuple(replaced), pieces, len(shown), measure(codec, made, shown))
