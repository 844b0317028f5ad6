"""Rates of a codec with variable rate: latents are multiplied by a gain before they are rounded, and divided by it afterwards.

A larger gain means finer steps, more bits and a better picture. The gain is one number for all channels and positions; any
value between the smallest and the largest trained one may be chosen, and each file states its own.

Source: Kamisli, Racape and Choi, "Variable-rate learned image compression with multi-objective optimization and
quantization-reconstruction offsets", 2024.
"""

import hashlib
import struct
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from codecswap.entropy.tables import EntropyTables
from codecswap.errors import UserError

_BINARY = struct.Struct("<4sB3xIII32s")
"""Header of the binary format: magic, version, levels, steps, CDFs, SHA-256 of what follows."""


@dataclass(frozen=True)
class Rates:
    """The trained levels of a codec with variable rate.

    Raises:
        ValueError: the gains do not ascend, or the numbers of levels differ.
    """

    gains: tuple[float, ...]
    """Gain of each level, ascending; float32 numbers."""
    tables: tuple[EntropyTables, ...]
    """Tables of the hyper-latents, with their step: one for each level, or one for all."""
    offsets: np.ndarray | None = None
    """``(levels, CDFs)``, float32: what is added to the magnitude of a symbol that is not 0, by the CDF index of its latent
    (`EntropyModel`); interpolated linearly in the gain. None: the predictor computes them."""

    def __post_init__(self) -> None:
        levels, gains = len(self.gains), np.array(self.gains)
        if (
            not levels
            or not (np.isfinite(gains) & (gains > 2**-12) & (gains < 2**12)).all()
            or (np.diff(gains) <= 0).any()
        ):
            raise ValueError(self.gains)
        if len(self.tables) not in (1, levels):
            raise ValueError(f"{len(self.tables)} tables of {levels} levels")
        if self.offsets is not None and (len(self.offsets) != levels or not (np.abs(self.offsets) <= 1).all()):
            raise ValueError("offsets")

    def check(self, gain: float) -> float:
        """The gain as a float32 number.

        Raises:
            UserError: it is outside the trained range.
        """
        value = float(np.float32(gain))
        if not self.gains[0] <= value <= self.gains[-1]:
            least, most = self.gains[0], self.gains[-1]
            raise UserError(f"The gain of this codec is {least:.4g} (fewest bits) to {most:.4g}, not {gain:.4g}.")
        return value

    def level(self, gain: float) -> int:
        """The level whose gain is closest, by ratio; of two that are equally close, the lower one."""
        gains = np.array(self.gains)  # products of two float32 numbers are exact in float64
        return int(np.count_nonzero(np.square(np.float64(gain)) > gains[1:] * gains[:-1]))

    def tables_at(self, gain: float) -> EntropyTables:
        """Tables of the hyper-latents: those of the closest level."""
        return self.tables[self.level(gain) if len(self.tables) > 1 else 0]

    def offsets_at(self, gain: float) -> np.ndarray | None:
        """The offset of each CDF index, ``(CDFs,)``, float32: in these operations, each rounded, as in every implementation."""
        if self.offsets is None:
            return None
        gains, value = np.array(self.gains, np.float32), np.float32(gain)
        level = np.count_nonzero(gains <= value) - 1
        if level + 1 == len(gains):
            return self.offsets[level]
        share = (value - gains[level]) / (gains[level + 1] - gains[level])
        return self.offsets[level] + share * (self.offsets[level + 1] - self.offsets[level])

    @cached_property
    def binary(self) -> bytes:
        """The binary format that the C library reads (docs/bitstream.md): all but the last tables, which it has already."""
        assert self.offsets is not None
        numbers = (*self.gains, *(each.step for each in self.tables), *self.offsets.ravel())
        content = np.array(numbers, "<f4").tobytes() + b"".join(each.binary for each in self.tables[:-1])
        sizes = len(self.gains), len(self.tables), self.offsets.shape[1]
        return _BINARY.pack(b"\x89CSR", 1, *sizes, hashlib.sha256(content).digest()) + content
