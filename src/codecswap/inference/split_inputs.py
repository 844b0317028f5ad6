"""Split inputs: the lossless input of an integer decoder. Latents are split into 8-bit integers at scale 1.

With fixed medians, a latent is ``symbol + median``. The rounded median is added to the symbol, which stays an integer. The
fraction that is left, constant over the picture, becomes one more input, a constant; its weights are the sum of the others',
each times what is left of its median, so that a layer's zero padding treats it as it treats the latents, borders included.

With predicted means, a latent is ``symbol + mean``. Exported folders compute means in units of ``2^-b``
(`codecswap.entropy.hyper_synthesis`), so latents are integers in these units, and the inputs' weights are ``2^-b`` times
those of the latents.

A channel whose integers need more than 8 bits is split into several inputs that add up to it, with equal weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from codecswap.entropy.tables import EntropyTables

LARGEST = 127
"""Largest magnitude of an 8-bit integer."""
HEADROOM = 1.5
"""Range of latents with predicted means relative to their largest magnitude on the samples; what exceeds it is clipped."""
MOST_INPUTS = 4096
"""Largest number of inputs that a layout describes, against huge allocations."""


@dataclass(frozen=True)
class SplitInputs:
    """The layout of a decoder's input ``(1, len(channels) + 1, h, w)``."""

    channels: list[int]
    """Latent channel of each input; a channel's second input takes what exceeds +-127, and so on."""
    shift: list[int] | None
    """Rounded median of each channel, added to its symbols; None: means are predicted."""
    constant: int = 1
    """The value of the last input."""
    fractional_bits: int = 0
    """Latents are integers in units of 2^-fractional_bits."""

    @classmethod
    def for_tables(cls, tables: EntropyTables, constant: int = 1) -> "SplitInputs":
        """Layout with enough inputs for all symbols in the tables (escaped symbols may be clipped)."""
        shift = np.rint(tables.medians).astype(int)
        first = tables.offsets + shift
        last = first + tables.lengths - 3  # the last interval is the escape
        return cls(_channels(np.maximum(abs(first), abs(last))), shift.tolist(), constant)

    @classmethod
    def for_latents(cls, latents: Sequence[np.ndarray], fractional_bits: int) -> "SplitInputs":
        """Layout with enough inputs for `HEADROOM` times the range of latents ``(M, h, w)``, whose means are predicted."""
        largest = np.max([np.abs(one).max((1, 2)) for one in latents], 0)
        return cls(_channels(np.ceil(HEADROOM * np.ldexp(largest, fractional_bits))), None, 1, fractional_bits)

    def describes(self, channels: int) -> bool:
        """Whether it is a layout of so many channels whose means are predicted."""
        whole = all(type(one) is int for one in (*self.channels, self.constant, self.fractional_bits))
        if not whole or self.shift is not None or not len(self.channels) <= MOST_INPUTS:
            return False
        known = self.channels == sorted(self.channels) and set(self.channels) == set(range(channels))
        return known and 0 <= self.fractional_bits <= 16

    def split(self, symbols: np.ndarray, means: np.ndarray | None = None) -> np.ndarray:
        """Split latents into ``(len(channels) + 1, h, w)``, float32, integers in +-127.

        Args:
            symbols: ``(M, h, w)``, int32.
            means: predicted means, ``(M, h, w)``, float32; not used where ``shift`` is given.
        """
        channels = np.array(self.channels)
        if self.shift is not None:
            integers = symbols + np.array(self.shift)[:, None, None]
        else:
            latents = symbols.astype(np.float32) + (np.float32(0) if means is None else means)
            integers = np.rint(np.ldexp(latents, self.fractional_bits))
        integers = integers[channels]
        first = np.searchsorted(channels, channels)  # index of the first input of the same channel
        taken = LARGEST * (np.arange(len(channels)) - first)[:, None, None]
        parts = np.sign(integers) * (abs(integers) - taken).clip(0, LARGEST)
        constant = np.full((1, *symbols.shape[1:]), self.constant)
        return np.concatenate([parts, constant]).astype(np.float32)


def _channels(largest: np.ndarray) -> list[int]:
    """Each channel as often as its largest magnitude needs inputs."""
    needed = np.maximum(1, -(-largest // LARGEST)).astype(int)
    return np.repeat(np.arange(len(largest)), needed).tolist()
