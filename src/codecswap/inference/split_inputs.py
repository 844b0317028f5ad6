"""Split inputs: the lossless input of an integer decoder. Symbols are split into 8-bit integers at scale 1.

A latent is ``symbol + median``. The rounded median is added to the symbol, which stays an integer. The fraction that is left,
constant over the picture, becomes one more input, a constant; its weights are the sum of the others', each times what is left
of its median, so that a layer's zero padding treats it as it treats the latents, borders included. A channel whose
symbols need more than 8 bits is split into several inputs that add up to it, with equal weights.
"""

from dataclasses import dataclass

import numpy as np

from codecswap.entropy.tables import EntropyTables

LARGEST = 127
"""Largest magnitude of an 8-bit integer."""


@dataclass(frozen=True)
class SplitInputs:
    """The layout of a decoder's input ``(1, len(channels) + 1, h, w)``."""

    channels: list[int]
    """Latent channel of each input; a channel's second input takes what exceeds +-127, and so on."""
    shift: list[int]
    """Rounded median of each channel, added to its symbols."""
    constant: int
    """The value of the last input."""

    @classmethod
    def for_tables(cls, tables: EntropyTables, constant: int = 1) -> "SplitInputs":
        """Layout with enough inputs for all symbols in the tables (escaped symbols may be clipped)."""
        shift = np.rint(tables.medians).astype(int)
        first = tables.offsets + shift
        last = first + tables.lengths - 3  # the last interval is the escape
        needed = np.maximum(1, -(-np.maximum(abs(first), abs(last)) // LARGEST))
        return cls(np.repeat(np.arange(tables.channels), needed).tolist(), shift.tolist(), constant)

    def split(self, symbols: np.ndarray) -> np.ndarray:
        """Split ``symbols: (M, h, w)`` into ``(len(channels) + 1, h, w)``, float32, integers in +-127."""
        channels = np.array(self.channels)
        shifted = (symbols + np.array(self.shift)[:, None, None])[channels]
        first = np.searchsorted(channels, channels)  # index of the first input of the same channel
        taken = LARGEST * (np.arange(len(channels)) - first)[:, None, None]
        parts = np.sign(shifted) * (abs(shifted) - taken).clip(0, LARGEST)
        constant = np.full((1, *symbols.shape[1:]), self.constant)
        return np.concatenate([parts, constant]).astype(np.float32)
