"""Entropy tables as integers, which encoder and decoder must share bit for bit on any machine."""

import hashlib
import json
import struct
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from codecswap.errors import UserError

PRECISION = 16
"""Bits of cumulative frequencies: they end at 2^16."""


LARGEST = 1 << 24
"""Bound of symbols: beyond it float32 does not represent all integers."""
CHANNELS, CELLS = 1 << 14, 1 << 24
"""Limits against huge allocations: CDFs, and entries of the padded array of all CDFs."""
_BINARY = struct.Struct("<4sBBHII32s")
"""Header of the binary format: magic, version, precision, zero, channels, entries of all CDFs, digest."""
_DAMAGED = "These entropy tables are damaged: export the codec again."


@dataclass(frozen=True)
class EntropyTables:
    """CDFs of an entropy model: one per channel of the latents, or one per Gaussian.

    They are computed once, by the machine that trained or exported the codec, and then copied: recomputed from
    the weights elsewhere, one entry could be rounded differently, and everything after it would be decoded wrongly.
    """

    cdf: np.ndarray
    """``(M, L)``, int32: cumulative frequencies, 0 to 65536, ascending; zeros after each CDF's length."""
    lengths: np.ndarray
    """``(M,)``, int32: entries of each CDF, 3 to L; the last interval is the escape for symbols outside the table."""
    offsets: np.ndarray
    """``(M,)``, int32: the symbol of each CDF's first interval."""
    medians: np.ndarray
    """``(M,)``, float32: a latent is ``symbol * step + median``."""
    step: float = 1.0
    """Quantization step, a float32 number. Only hyper-latents of codecs with variable rate have others than 1."""

    def __post_init__(self) -> None:
        channels = (len(self.cdf),)
        if self.cdf.ndim != 2 or not channels == self.lengths.shape == self.offsets.shape == self.medians.shape:
            raise UserError(_DAMAGED)
        if not 0 < len(self.cdf) <= CHANNELS or not (np.abs(self.medians) < LARGEST).all():
            raise UserError(_DAMAGED)
        if (np.abs(self.offsets.astype(np.int64)) > 1 << PRECISION).any():
            raise UserError(_DAMAGED)
        if not 2**-12 < self.step < 2**12:
            raise UserError(_DAMAGED)
        for row, length in zip(self.cdf, self.lengths, strict=True):
            if not 3 <= length <= len(row) or row[0] or row[length - 1] != 1 << PRECISION:
                raise UserError(_DAMAGED)
            if not (row[: length - 1] < row[1:length]).all():  # (a difference of two may overflow)
                raise UserError(_DAMAGED)

    @property
    def channels(self) -> int:
        """M, the channels of the latents."""
        return len(self.lengths)

    def digest(self) -> bytes:
        """SHA-256 of all that must match: codecs with the same digest read each other's files."""
        text = f"codecswap factorized prior, {self.channels} channels"
        return hashlib.sha256(text.encode() + self._content()).digest()

    def _content(self) -> bytes:
        """Lengths, offsets, medians, and each CDF, little-endian."""
        columns = [self.lengths.astype("<i4"), self.offsets.astype("<i4"), self.medians.astype("<f4")]
        rows = [row[:length].astype("<i4") for row, length in zip(self.cdf, self.lengths, strict=True)]
        return b"".join(part.tobytes() for part in columns + rows)

    @cached_property
    def binary(self) -> bytes:
        """The binary format that the C library reads (docs/bitstream.md)."""
        header = _BINARY.pack(b"\x89CST", 1, PRECISION, 0, self.channels, int(self.lengths.sum()), self.digest())
        return header + self._content()

    def fewest_bits(self) -> float:
        """Fewest bits that one position of the latents can take (all channels with their most frequent symbol)."""
        widest = np.array([np.diff(row[:n]).max() for row, n in zip(self.cdf, self.lengths, strict=True)], np.float64)
        return float(-np.log2(widest / (1 << PRECISION)).sum())

    def to_symbols(self, latents: np.ndarray) -> np.ndarray:
        """Round latents ``(..., M, h, w)``, float32, to the integers that are coded, int32.

        Raises:
            UserError: they are not finite (an encoder in float16 may overflow).
        """
        centered = np.rint((latents.astype(np.float32) - self.medians[:, None, None]) / np.float32(self.step))
        if not (np.abs(centered) < LARGEST).all():
            raise UserError("The encoder gave latents that are not finite: export it in float32.")
        return centered.astype(np.int32)

    def to_latents(self, symbols: np.ndarray) -> np.ndarray:
        """Convert symbols to latents ``(..., M, h, w)``, float32."""
        return symbols.astype(np.float32) * np.float32(self.step) + self.medians[:, None, None]

    def to_json(self) -> str:
        """Write as JSON; floats are written so that they are read back exactly."""
        rows = [row[:length].tolist() for row, length in zip(self.cdf, self.lengths, strict=True)]
        content = {
            "precision": PRECISION,
            "offsets": self.offsets.tolist(),
            "medians": self.medians.tolist(),
            "cdf": rows,
        }
        if self.step != 1:
            content["step"] = self.step
        return json.dumps(content, separators=(",", ":")) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "EntropyTables":
        """Read what `to_json` wrote.

        Raises:
            UserError: it is damaged.
        """
        try:
            content = json.loads(text)
            rows, precision, step = content["cdf"], content["precision"], float(content.get("step", 1))
            if len(rows) * max(map(len, rows)) > CELLS:
                raise ValueError("rows of very different lengths")
            cdf = np.zeros((len(rows), max(map(len, rows))), np.int32)
            for row, values in zip(cdf, rows, strict=True):
                row[: len(values)] = values
            lengths = np.array([len(values) for values in rows], np.int32)
            offsets = np.array(content["offsets"], np.int32)
            with np.errstate(over="ignore"):  # refused as infinite
                medians = np.array(content["medians"], np.float32)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise UserError(_DAMAGED) from error
        if precision != PRECISION:
            raise UserError(f"These entropy tables have {precision} bits, not {PRECISION}: export the codec again.")
        return cls(cdf, lengths, offsets, medians, step)
