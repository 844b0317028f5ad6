"""Latents whose probabilities are told by hyper-latents: what encoder and decoder share, and the strings of a picture.

Hyper-latents are coded first, each channel with its own table. Of them encoder and decoder compute, for every latent, the mean
that is taken off before it is rounded, and the row of the Gaussians' table that it is coded with. Both must compute the same
rows to the last one: `Prediction` says in which arithmetic.

Source: Balle, Johnston and Minnen, "Integer networks for data compression with latent-variable models", 2019.
"""

import hashlib
import zlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from codecswap.entropy import rans
from codecswap.entropy.tables import LARGEST, EntropyTables
from codecswap.errors import UserError

FLOAT, INTEGER = 0, 1
"""Arithmetics, as files name them: floating point, which differs between machines; integers, which do not."""


class Prediction(Protocol):
    """What is computed of hyper-latents."""

    @property
    def arithmetic(self) -> int:
        """`FLOAT` or `INTEGER`."""

    @property
    def digest(self) -> bytes:
        """SHA-256 of all weights."""

    def __call__(self, symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of hyper-latents' symbols ``(N, h, w)``, int32: rows, uint8, and means, float32, each ``(M, f h, f w)``."""


class OtherRows(ValueError):
    """The rows computed here are not those that a string was written with."""


@dataclass(frozen=True)
class Strings:
    """A picture's bytes."""

    hyper: bytes
    latents: bytes
    rows_crc: int
    """CRC-32 of the rows that the latents were coded with."""

    @property
    def size(self) -> int:
        """Bytes of both strings."""
        return len(self.hyper) + len(self.latents)


@dataclass(frozen=True)
class SideInformation:
    """How a codec with hyper-latents codes its latents."""

    tables: EntropyTables
    """Of the hyper-latents, one row for each of their N channels."""
    gaussians: EntropyTables
    """Of the latents, one row for each standard deviation; medians are 0."""
    predict: Prediction
    factor: int
    """Latents that a hyper-latent stands for on either axis."""

    @property
    def digest(self) -> bytes:
        """SHA-256 of everything that must match: two codecs with the same digest read each other's files."""
        parts = (self.tables.digest(), self.gaussians.digest(), self.predict.digest)
        return hashlib.sha256(b"codecswap side information" + b"".join(parts)).digest()

    def quantize(self, latents: np.ndarray, hyper: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Round a picture's latents ``(M, h, w)`` and hyper-latents ``(N, h/f, w/f)``, float32.

        Returns: symbols of the latents and of the hyper-latents, int32; the latents' rows and means.

        Raises:
            UserError: they are not finite.
        """
        hyper_symbols = self.tables.to_symbols(hyper)
        rows, means = self.predict(hyper_symbols)
        centerd = np.rint(latents.astype(np.float32) - means)
        if not (np.abs(centerd) < LARGEST).all():
            raise UserError("The encoder gave latents that are not finite: export it in float32.")
        return centerd.astype(np.int32), hyper_symbols, rows, means

    def encode(self, latents: np.ndarray, hyper: np.ndarray) -> Strings:
        """Code what `quantize` takes."""
        symbols, hyper_symbols, rows, _ = self.quantize(latents, hyper)
        strings = rans.encode(hyper_symbols, self.tables), rans.encode_rows(symbols, rows, self.gaussians)
        return Strings(*strings, zlib.crc32(rows.tobytes()))

    def decode(self, strings: Strings, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Read what `encode` wrote.

        Args:
            shape: of the hyper-latents.

        Returns: symbols ``(M, f h, f w)``, int32, and means, float32: a latent is their sum.

        Raises:
            CorruptString: a string is too short, too long, or was not written with these tables.
            OtherRows: this machine computes other rows.
        """
        rows, means = self.predict(rans.decode(strings.hyper, shape, self.tables))
        if zlib.crc32(rows.tobytes()) != strings.rows_crc:
            raise OtherRows
        return rans.decode_rows(strings.latents, rows, self.gaussians), means
