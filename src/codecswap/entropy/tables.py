"""The entropy model as integers: what encoder and decoder must share to the last bit, on any machine."""

import hashlib
import json
import struct
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from codecswap.errors import UserError

PRECISION = 16
"""Cumulative frequencies count up to 2^16."""


LARGEST = 1 << 24
"""Bound of a symbol: beyond it float32 holds no consecutive integers."""
CHANNELS, CELLS = 1 << 14, 1 << 24
"""Most rows, and most entries of all rows together, each as long as the longest: no more memory is taken for them."""
_BINARY = struct.Struct("<4sBBHII32s")
"""Of the binary form: magic, version, precision, zero, channels, entries of all rows, digest."""
_DAMAGED = "These entropy tables are damaged: export the codec again."


@dataclass(frozen=True)
class EntropyTables:
    """Tables of a factorized prior, one row per channel of the latents.

    They are written once, by the machine that trained or exported the codec, and travel as they are: computed anew from
    the weights elsewhere, a float rounded differently could change one entry, and everything behind it would be garbage.
    """

    cdf: np.ndarray
    """``(M, L)``, int32: cumulative frequencies, 0 to 65536, ascending; zeros behind a row's length."""
    lengths: np.ndarray
    """``(M,)``, int32: entries of each row, 3 to L; the last interval stands for every symbol outside the table."""
    offsets: np.ndarray
    """``(M,)``, int32: the symbol that a row's first interval stands for."""
    medians: np.ndarray
    """``(M,)``, float32: a latent is ``symbol + median``."""

    def __post_init__(self) -> None:
        channels = (len(self.cdf),)
        if self.cdf.ndim != 2 or not channels == self.lengths.shape == self.offsets.shape == self.medians.shape:
            raise UserError(_DAMAGED)
        if not 0 < len(self.cdf) <= CHANNELS or not (np.abs(self.medians) < LARGEST).all():
            raise UserError(_DAMAGED)
        if (np.abs(self.offsets.astype(np.int64)) > 1 << PRECISION).any():
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
        """SHA-256 of everything that must match: two codecs with the same digest read each other's files."""
        text = f"codecswap factorized prior, {self.channels} channels"
        return hashlib.sha256(text.encode() + self._content()).digest()

    def _content(self) -> bytes:
        """Lengths, offsets, medians, and each row's frequencies, little-endian."""
        columns = [self.lengths.astype("<i4"), self.offsets.astype("<i4"), self.medians.astype("<f4")]
        rows = [row[:length].astype("<i4") for row, length in zip(self.cdf, self.lengths, strict=True)]
        return b"".join(part.tobytes() for part in columns + rows)

    @cached_property
    def binary(self) -> bytes:
        """As the C library reads them (docs/bitstream.md)."""
        header = _BINARY.pack(b"\x89CST", 1, PRECISION, 0, self.channels, int(self.lengths.sum()), self.digest())
        return header + self._content()

    def fewest_bits(self) -> float:
        """Bits that one place of the latents takes at least, all channels together: each at its most frequent symbol."""
        widest = np.array([np.diff(row[:n]).max() for row, n in zip(self.cdf, self.lengths, strict=True)], np.float64)
        return float(-np.log2(widest / (1 << PRECISION)).sum())

    def to_symbols(self, latents: np.ndarray) -> np.ndarray:
        """Round latents ``(..., M, h, w)``, float32, to the integers that are coded, int32.

        Raises:
            UserError: they are not finite (an encoder in float16 may overflow).
        """
        centered = np.rint(latents.astype(np.float32) - self.medians[:, None, None])
        if not (np.abs(centered) < LARGEST).all():
            raise UserError("The encoder gave latents that are not finite: export it in float32.")
        return centered.astype(np.int32)

    def to_latents(self, symbols: np.ndarray) -> np.ndarray:
        """The latents ``(..., M, h, w)``, float32, that symbols stand for."""
        return symbols.astype(np.float32) + self.medians[:, None, None]

    def to_json(self) -> str:
        """As JSON, for readers in any language; floats are written so that they read back exactly."""
        rows = [row[:length].tolist() for row, length in zip(self.cdf, self.lengths, strict=True)]
        content = {
            "precision": PRECISION,
            "offsets": self.offsets.tolist(),
            "medians": self.medians.tolist(),
            "cdf": rows,
        }
        return json.dumps(content, separators=(",", ":")) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "EntropyTables":
        """Read what `to_json` wrote.

        Raises:
            UserError: it is damaged.
        """
        try:
            content = json.loads(text)
            rows, precision = content["cdf"], content["precision"]
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
        return cls(cdf, lengths, offsets, medians)
