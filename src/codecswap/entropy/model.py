"""Entropy model of a codec: codes latents as strings, pass by pass.

Hyper-latents are coded first, each channel with its own table. From them, and from the latents decoded so far, encoder and
decoder compute for each further latent its mean, which is subtracted before rounding, and its CDF index: the Gaussian
whose table codes it. Both must compute exactly the same indexes; `Predictor` states the arithmetic.

Source: Balle, Johnston and Minnen, "Integer networks for data compression with latent-variable models", 2019.
"""

import hashlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from codecswap.entropy import rans
from codecswap.entropy.passes import Pass, Region, predicted
from codecswap.entropy.rates import Rates
from codecswap.entropy.tables import LARGEST, EntropyTables
from codecswap.errors import UserError

FLOAT, INTEGER = 0, 1
"""Arithmetic of a predictor, as stored in files: floating point (differs between machines), or integers (does not)."""

Parameters = Callable[[Pass, Region, np.ndarray], tuple[np.ndarray, ...]]
"""Maps a pass, a region of it and the latents decoded so far, ``(M, h, w)``, float32, 0 elsewhere, to the region's CDF
indexes, uint8, and means, float32; at a gain (`Rates`) also to offsets, float32, unless there are none."""


class Predictor(Protocol):
    """Computes CDF indexes and means."""

    @property
    def arithmetic(self) -> int:
        """`FLOAT` or `INTEGER`."""

    @property
    def digest(self) -> bytes:
        """SHA-256 of all weights."""

    def begin(self, hyper_symbols: np.ndarray) -> Parameters:
        """Take the symbols of a picture's hyper-latents ``(N, h/f, w/f)``, int32."""


class OtherIndexes(ValueError):
    """This machine computes other CDF indexes than those a string was written with."""


@dataclass(frozen=True)
class Quantized:
    """Rounded latents of a picture."""

    symbols: np.ndarray
    """``(M, h, w)``, int32."""
    means: np.ndarray
    """``(M, h, w)``, float32: a latent is ``symbol + mean``; the medians of a factorized prior. At a gain, where a latent is
    ``mean + (symbol + offset) / gain``, it is that minus the symbol."""
    predicted: np.ndarray | None = None
    """``(M, h, w)``, float32: at a gain, the predicted means."""


@dataclass(frozen=True)
class Strings:
    """Coded bytes of a picture."""

    hyper_latents: bytes
    """Empty with a factorized prior."""
    latents: bytes
    """The symbols of all passes, one after the other."""
    indexes_crc: int | None = None
    """CRC-32 of the CDF indexes of the latents, in coding order; None: unknown."""

    @property
    def size(self) -> int:
        """Bytes of both strings."""
        return len(self.hyper_latents) + len(self.latents)


@dataclass(frozen=True)
class EntropyModel:
    """Codes the latents of a codec."""

    passes: tuple[Pass, ...]
    tables: EntropyTables
    """Tables of the first pass, one CDF per channel."""
    gaussians: EntropyTables | None = None
    """Tables of the predicted passes, one CDF per standard deviation; medians are 0."""
    predictor: Predictor | None = None
    """None for a factorized prior."""
    factor: int = 1
    """Latents per hyper-latent along each axis."""
    rates: Rates | None = None
    """Levels of a codec with variable rate."""
    gain: float = 1.0
    """Gain that latents are multiplied by before they are rounded (`at`)."""

    def at(self, gain: float) -> "EntropyModel":
        """The entropy model of a codec with variable rate, at a gain.

        Raises:
            UserError: the codec has one rate, or the gain is outside its range.
        """
        if self.rates is None or self.predictor is None:
            raise UserError(
                "This codec has one rate: leave the gain or size out, and for fewer or more bits take a codec of another "
                "quality, or one with variable rate (mbt2018_mean_vbr)."
            )
        gain = self.rates.check(gain)
        predictor: Any = self.predictor  # that of a codec with variable rate has ``at``, which keeps the digest
        return replace(self, tables=self.rates.tables_at(gain), predictor=predictor.at(gain, self.rates), gain=gain)

    @property
    def digest(self) -> bytes:
        """SHA-256 of everything that must match: two codecs with the same digest read each other's files."""
        if self.predictor is None or self.gaussians is None:
            return self.tables.digest()
        tables = self.rates.tables if self.rates else (self.tables,)
        parts = (*(each.digest() for each in tables), self.gaussians.digest(), self.predictor.digest)
        if self.rates:
            parts += (np.array([*self.rates.gains, *(each.step for each in tables)], "<f4").tobytes(),)
        return hashlib.sha256(b"codecswap side information" + b"".join(parts)).digest()

    def quantize(self, latents: np.ndarray, hyper_analyze: Callable[[np.ndarray], np.ndarray]) -> Quantized:
        """Round a picture's latents ``(M, h, w)``, float32.

        Args:
            hyper_analyze: computes hyper-latents ``(N, h/f, w/f)`` before rounding; not called for a factorized prior.

        Raises:
            UserError: they are not finite.
        """
        return self._quantize(latents, hyper_analyze)[0]

    def encode(self, latents: np.ndarray, hyper_analyze: Callable[[np.ndarray], np.ndarray]) -> Strings:
        """Round and code latents; arguments and errors as in `quantize`."""
        quantized, hyper_symbols, indexes = self._quantize(latents, hyper_analyze)
        if hyper_symbols is None or self.gaussians is None:
            return Strings(b"", rans.encode(quantized.symbols, self.tables))
        coded = np.concatenate([quantized.symbols[region].ravel() for _, region in self._steps(latents.shape)])
        together = np.concatenate([each.ravel() for each in indexes])
        strings = rans.encode(hyper_symbols, self.tables), rans.encode_indexes(coded, together, self.gaussians)
        return Strings(*strings, zlib.crc32(together.tobytes()))

    def decode(self, strings: Strings, size: tuple[int, int]) -> Quantized:
        """Read what `encode` wrote.

        Args:
            size: height and width of the latents.

        Raises:
            CorruptString: a string is too short, too long, or was not written with these tables.
            OtherIndexes: this machine computes other CDF indexes.
        """
        if self.gaussians is None:
            return self._centered(rans.decode(strings.latents, size, self.tables))
        height, width = size
        hyper = rans.decode(strings.hyper_latents, (height // self.factor, width // self.factor), self.tables)
        shape = (max(each.channels[1] for each in predicted(self.passes)), *size)
        left, crc = sum(1 for _ in self._steps(shape)), 0
        gaussians, reader = self.gaussians, rans.Reader(strings.latents, self.gaussians) if left > 1 else None

        def read(region: Region, indexes: np.ndarray, means: np.ndarray) -> np.ndarray:
            nonlocal left, crc
            left, crc = left - 1, zlib.crc32(indexes.tobytes(), crc)
            if not left and strings.indexes_crc not in (None, crc):
                raise OtherIndexes
            return reader.read(indexes) if reader else rans.decode_indexes(strings.latents, indexes, gaussians)

        try:
            quantized = self._run(hyper, shape, read)
            if reader:
                reader.finish()
        except rans.CorruptString as error:
            raise (OtherIndexes if left else error) from None  # wrong indexes rarely decode to the end
        return quantized

    def _quantize(
        self, latents: np.ndarray, hyper_analyze: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[Quantized, np.ndarray | None, list[np.ndarray]]:
        """The rounded latents, the symbols of the hyper-latents, and the CDF indexes of each step."""
        if self.predictor is None:
            return self._centered(self.tables.to_symbols(latents)), None, []
        hyper_symbols, chosen = self.tables.to_symbols(hyper_analyze(latents)), []

        def rounded(region: Region, indexes: np.ndarray, means: np.ndarray) -> np.ndarray:
            gain = np.float32(self.gain)
            centered = np.rint(latents[region].astype(np.float32) * gain - means * gain)
            if not (np.abs(centered) < LARGEST).all():
                raise UserError("The encoder gave latents that are not finite: export it in float32.")
            chosen.append(indexes)
            return centered.astype(np.int32)

        return self._run(hyper_symbols, latents.shape, rounded), hyper_symbols, chosen

    def _run(
        self,
        hyper_symbols: np.ndarray,
        shape: tuple[int, ...],
        symbols_of: Callable[[Region, np.ndarray, np.ndarray], np.ndarray],
    ) -> Quantized:
        """Run the predicted passes; ``symbols_of`` maps a step's region, CDF indexes and means to its symbols."""
        assert self.predictor
        parameters = self.predictor.begin(hyper_symbols)
        symbols, means = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        decoded = np.zeros(shape, np.float32)
        for step, region in self._steps(shape):
            indexes, center, *offsets = parameters(step, region, decoded)
            symbols[region] = symbols_of(region, indexes, center)
            decoded[region] = self._latents(symbols[region], center, *offsets)
            means[region] = center
        if self.rates:
            return Quantized(symbols, decoded - symbols.astype(np.float32), means)
        return Quantized(symbols, means)

    def _latents(self, symbols: np.ndarray, means: np.ndarray, offsets: np.ndarray | float = 0.0) -> np.ndarray:
        """Latents of symbols: float32."""
        if not self.rates:
            return symbols + means
        magnitudes = np.where(symbols, np.abs(symbols) + offsets, 0).astype(np.float32)
        return np.sign(symbols).astype(np.float32) * magnitudes * (np.float32(1) / np.float32(self.gain)) + means

    def _steps(self, shape: tuple[int, ...]) -> Iterator[tuple[Pass, Region]]:
        for each in predicted(self.passes):
            for region in each.steps(*shape[1:]):
                yield each, region

    def _centered(self, symbols: np.ndarray) -> Quantized:
        return Quantized(symbols, np.broadcast_to(self.tables.medians[:, None, None], symbols.shape))
