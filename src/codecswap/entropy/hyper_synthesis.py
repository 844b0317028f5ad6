"""Hyper-synthesis in integer arithmetic: the same CDF indexes and means on every processor, with any library.

The C library computes it (c/network.c) in integers. Where the package was installed without a compiler, numpy does, with equal
results: weights and activations are integers of at most 16 bits; sums are computed in float64, which represents all integers
up to 2^53, and `Layer` refuses weights whose sums could exceed 2^52. So no product or partial sum is ever rounded, and a
matrix product of any BLAS, with any number of threads, gives the integers that int64 gives (numpy has no fast product of
int64). Everything else is integer arithmetic: shifts with rounding, and comparisons.

Source of the idea: Balle, Johnston and Minnen, "Integer networks for data compression with latent-variable models", 2019.
"""

import hashlib
import struct
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from codecswap.entropy.extension import coder
from codecswap.entropy.model import INTEGER, Parameters
from codecswap.entropy.rates import Rates
from codecswap.errors import UserError
from codecswap.inference.tiles import in_tiles

BITS = 16
"""Bits of weights and activations, including the sign."""
LIMIT = (1 << (BITS - 1)) - 1
"""Largest magnitude of activations and weights."""
MAX_SUM = 1 << 52
"""Bound of all sums: below it float64 represents integers and their halves exactly."""
FRACTIONAL_BITS = 16
"""Fractional bits of scales, and the most of means."""
TILE = 20
"""Height and width in hyper-latents above which a picture is computed in tiles."""
MARGIN = 3
"""Largest radius of the receptive field, in hyper-latents: the overlap of tiles."""
SLOPE_BITS = 16
"""Fractional bits of a slope."""
LAYERS, CHANNELS, ROWS, FACTOR = 8, 1 << 12, 256, 4
"""Limits against huge allocations: layers, channels of a layer, CDFs, and results per hyper-latent along an axis."""
_HEADER = struct.Struct("<4sBBHII")
"""Magic, version, fractional bits of the input, layers, channels of the hyper-latents, thresholds."""
_LAYER = struct.Struct("<HHBBi")
"""Outputs, inputs, kernel, whether PixelShuffle(2) follows, slope."""
_MAGIC, _VERSION = b"\x89CSI", 1
_DAMAGED = "This integer network is damaged: export the codec again."


@dataclass(frozen=True)
class Layer:
    """A convolution of stride 1 with "same" padding, rounding, an activation, and optionally PixelShuffle(2)."""

    weight: np.ndarray
    """``(O, I, k, k)``, int16."""
    bias: np.ndarray
    """``(O,)``, int64, in the units of the sums."""
    shift: np.ndarray
    """``(O,)``, int32: sums are divided by ``2^shift``; negative: multiplied."""
    slope: int
    """Factor of negative sums, in units of 2^-16: 0 is ReLU, 65536 no activation."""
    pixel_shuffle: bool
    """PixelShuffle(2) follows: four outputs become one channel at twice the resolution."""

    def __post_init__(self) -> None:
        outputs, inputs, kernel, other = self.weight.shape
        if not 0 < inputs <= CHANNELS or not 0 < outputs <= CHANNELS or kernel not in (1, 3, 5) or kernel != other:
            raise UserError(_DAMAGED)
        if self.bias.shape != (outputs,) or self.shift.shape != (outputs,) or (self.pixel_shuffle and outputs % 4):
            raise UserError(_DAMAGED)
        if not 0 <= self.slope <= 1 << SLOPE_BITS or not (np.abs(self.shift.astype(int)) < 48).all():
            raise UserError(_DAMAGED)
        largest = np.abs(self.weight.astype(np.int64)).sum((1, 2, 3)) * (LIMIT + 1) + np.abs(
            self.bias.astype(np.float64)
        )
        raised = largest * 2.0 ** np.maximum(0, -self.shift.astype(np.float64))
        most = MAX_SUM if self.slope == 1 << SLOPE_BITS else MAX_SUM >> 6  # multiplied by a slope, it stays below 2^62
        if not (largest < most).all() or not (raised < 2.0**62).all():
            raise UserError(_DAMAGED)

    def __call__(self, x: np.ndarray, limit: int | None) -> np.ndarray:
        """Compute ``(I, h, w) -> (O, h, w)`` or ``(O/4, 2h, 2w)``, integers in float64; results are clipped to +-``limit``."""
        value = self._sums(x) + self.bias[:, None, None]
        if self.slope != 1 << SLOPE_BITS:
            value = np.where(value < 0, _rounded(value * self.slope, np.array(SLOPE_BITS)), value)
        value = _rounded(value, self.shift[:, None, None])
        value = value if limit is None else value.clip(-limit, limit)
        if self.pixel_shuffle:
            channels, height, width = len(value) // 4, *value.shape[1:]
            phases = value.reshape(channels, 2, 2, height, width).transpose(0, 3, 1, 4, 2)
            value = phases.reshape(channels, 2 * height, 2 * width)
        return value

    def _sums(self, x: np.ndarray) -> np.ndarray:
        """The convolution, int64: one matrix product per tap."""
        height, width = x.shape[1:]
        kernel = self.weight.shape[-1]
        edge = kernel // 2
        padded = np.pad(x.astype(np.float64), ((0, 0), (edge, edge), (edge, edge)))
        result = np.zeros((len(self.weight), height * width))
        for row, column in np.ndindex(kernel, kernel):
            seen = padded[:, row : row + height, column : column + width].reshape(len(padded), -1)
            result += self._taps[row, column] @ seen
        return _integers(result.reshape(-1, height, width))

    @cached_property
    def _taps(self) -> np.ndarray:
        return np.ascontiguousarray(self.weight.transpose(2, 3, 0, 1).astype(np.float64))


def _integers(sums: np.ndarray) -> np.ndarray:
    """Sums as int64; an error of one unit in the last place of the float would not change them."""
    return np.rint(sums).astype(np.int64)


def _rounded(value: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """``value / 2^shift``, int64, rounded half up."""
    half = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0).astype(np.int64), 0)
    right, left = np.maximum(shift, 0).astype(np.int64), np.maximum(-shift, 0).astype(np.int64)
    return ((value + half) >> right) << left


@dataclass(frozen=True)
class IntegerNetwork:
    """Hyper-synthesis in integer arithmetic, a `codecswap.entropy.model.Predictor`.

    Raises:
        UserError: it is damaged: the layers do not match, or a sum could exceed `MAX_SUM`.
    """

    fractional_bits: int
    """Fractional bits of the hyper-latents."""
    medians: np.ndarray
    """``(N,)``, int64: added to symbols, in units of 2^-fractional_bits."""
    layers: tuple[Layer, ...]
    thresholds: np.ndarray
    """``(R - 1,)``, int64, ascending, in units of 2^-16: a CDF index is the number of thresholds below the scale."""
    mean_bits: int | None
    """The last layer computes M scales, then M means with so many fractional bits; None: M scales, and all means are 0."""

    arithmetic = INTEGER

    def __post_init__(self) -> None:
        channels = len(self.medians)
        if (
            not 0 <= self.fractional_bits <= BITS
            or not 0 < len(self.layers) <= LAYERS
            or not 0 < len(self.thresholds) < ROWS
            or not 0 <= (self.mean_bits or 0) <= FRACTIONAL_BITS
        ):
            raise UserError(_DAMAGED)
        bound = 1 << 40
        if (self.medians <= -bound).any() or (self.medians >= bound).any():
            raise UserError(_DAMAGED)
        if (self.thresholds[1:] < self.thresholds[:-1]).any():  # (a difference of two may overflow)
            raise UserError(_DAMAGED)
        for layer in self.layers:
            if layer.weight.shape[1] != channels:
                raise UserError(_DAMAGED)
            channels = len(layer.weight) // (4 if layer.pixel_shuffle else 1)
        if (self.mean_bits is not None and channels % 2) or self.receptive_field > MARGIN or self.factor > FACTOR:
            raise UserError(_DAMAGED)

    @property
    def receptive_field(self) -> float:
        """Radius of the receptive field of a result, in hyper-latents."""
        radius, scale = 0.0, 1.0
        for layer in self.layers:
            radius += scale * (layer.weight.shape[-1] // 2)
            scale = scale / 2 if layer.pixel_shuffle else scale
        return radius

    @property
    def factor(self) -> int:
        """Results per hyper-latent along each axis."""
        return 1 << sum(layer.pixel_shuffle for layer in self.layers)

    @property
    def channels(self) -> int:
        """M, the number of channels of CDF indexes and means."""
        last = self.layers[-1]
        return len(last.weight) // (4 if last.pixel_shuffle else 1) // (1 if self.mean_bits is None else 2)

    def begin(self, hyper_symbols: np.ndarray) -> Parameters:
        """Compute CDF indexes and means of the whole picture at once; they depend only on the hyper-latents."""
        indexes, means = self(hyper_symbols)
        return lambda step, region, decoded: (indexes[region], means[region])

    def at(self, gain: float, rates: Rates) -> "NetworkAtGain":
        """The network at a gain of a codec with variable rate."""
        return NetworkAtGain(self, gain, rates)

    def __call__(self, symbols: np.ndarray, gain: float = 1.0, step: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Compute CDF indexes, uint8, and means, float32, each ``(M, f h, f w)``, from symbols ``(N, h, w)``, int32.

        Args:
            gain: a float32 number that scales are multiplied by before they are compared with thresholds.
            step: quantization step of the hyper-latents in units of 2^-fractional_bits; 0: a step of 1.
        """
        if not hasattr(coder, "predict"):  # no compiler, or the extension of an earlier version
            return self.in_numpy(symbols, gain, step)
        height, width = symbols.shape[1:]
        shape = (self.channels, self.factor * height, self.factor * width)
        indexes, means = np.empty(shape, np.uint8), np.empty(shape, np.float32)
        x = np.ascontiguousarray(symbols, np.int32)
        coder.predict(self._opened, x, height, width, gain, step, indexes, means)
        return indexes, means

    @cached_property
    def _opened(self) -> Any:
        return coder.open_network(self.binary)

    def in_numpy(self, symbols: np.ndarray, gain: float = 1.0, step: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Compute what a call does, without the C library.

        A scale s times the gain exceeds a threshold t where s exceeds ``floor(t / gain)``: both are integers, and the gain is
        a ratio of integers. So the CDF indexes are exact at any gain. (Scales are below 2^62.)
        """
        numerator, denominator = gain.as_integer_ratio()
        most = 1 << 62
        thresholds = [min(max(int(each) * denominator // numerator, -most), most) for each in self.thresholds]
        results = partial(self._results, step=step)
        result = in_tiles(results, symbols, (TILE, TILE), MARGIN, scale_in=1, scale_out=self.factor)
        indexes = np.searchsorted(np.array(thresholds, np.int64), result[: self.channels]).astype(np.uint8)
        if self.mean_bits is None:
            return indexes, np.zeros(indexes.shape, np.float32)
        return indexes, (result[self.channels :].astype(np.float64) / (1 << self.mean_bits)).astype(np.float32)

    def _results(self, symbols: np.ndarray, step: int = 0) -> np.ndarray:
        """Output of the last layer, int64: scales in units of 2^-16, means in units of 2^-mean_bits."""
        x = symbols.astype(np.int64) * (step or 1 << self.fractional_bits) + self.medians[:, None, None]
        x = x.clip(-LIMIT, LIMIT)
        for layer in self.layers[:-1]:
            x = layer(x, LIMIT)
        return self.layers[-1](x, None)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of `binary`."""
        return hashlib.sha256(self.binary).digest()

    @cached_property
    def binary(self) -> bytes:
        """The file's content (docs/bitstream.md)."""
        start = _HEADER.pack(
            _MAGIC, _VERSION, self.fractional_bits, len(self.layers), len(self.medians), len(self.thresholds)
        )
        parts = [
            start,
            bytes([0 if self.mean_bits is None else FRACTIONAL_BITS + 1 - self.mean_bits]),
            self.medians.astype("<i8").tobytes(),
            self.thresholds.astype("<i8").tobytes(),
        ]
        for layer in self.layers:
            outputs, inputs, kernel, _ = layer.weight.shape
            parts.append(_LAYER.pack(outputs, inputs, kernel, layer.pixel_shuffle, layer.slope))
            arrays = (layer.weight.astype("<i2"), layer.bias.astype("<i8"), layer.shift.astype("<i4"))
            parts += [array.tobytes() for array in arrays]
        return b"".join(parts)

    @classmethod
    def from_binary(cls, content: bytes) -> "IntegerNetwork":
        """Read what `binary` gave.

        Raises:
            UserError: it is damaged, or of a newer version.
        """
        take = _Reader(content)
        try:
            magic, version, fractional_bits, count, channels, thresholds = take.struct(_HEADER)
            if magic != _MAGIC:
                raise UserError(_DAMAGED)
            if version != _VERSION:
                raise UserError(
                    f"This integer network has version {version}, this program reads {_VERSION}: update codecswap."
                )
            if count > LAYERS:
                raise UserError(_DAMAGED)
            means = int(take.array("<u1", 1)[0])
            medians, limits = take.array("<i8", channels), take.array("<i8", thresholds)
            layers = [take.layer() for _ in range(count)]
        except struct.error as error:
            raise UserError(_DAMAGED) from error
        if take.place != len(content) or means > FRACTIONAL_BITS + 1:
            raise UserError(_DAMAGED)
        return cls(fractional_bits, medians, tuple(layers), limits, FRACTIONAL_BITS + 1 - means if means else None)


class NetworkAtGain:
    """A network at a gain of a codec with variable rate, a `codecswap.entropy.model.Predictor`."""

    arithmetic = INTEGER

    def __init__(self, network: IntegerNetwork, gain: float, rates: Rates) -> None:
        self.digest, self.network, self.gain = network.digest, network, gain
        self.step = max(1, round(rates.tables_at(gain).step * (1 << network.fractional_bits)))
        self._offsets = rates.offsets_at(gain)

    def at(self, gain: float, rates: Rates) -> "NetworkAtGain":
        """The same network at another gain."""
        return self.network.at(gain, rates)

    def begin(self, hyper_symbols: np.ndarray) -> Parameters:
        """Compute CDF indexes and means of the whole picture at once, and look up the offsets."""
        indexes, means = self.network(hyper_symbols, self.gain, self.step)
        found = (indexes, means) if self._offsets is None else (indexes, means, self._offsets[indexes])
        return lambda step, region, decoded: tuple(each[region] for each in found)


class _Reader:
    """Reads arrays from bytes; raises `struct.error` if there are too few."""

    def __init__(self, content: bytes) -> None:
        self.content, self.place = content, 0

    def struct(self, form: struct.Struct) -> tuple[int, ...]:
        values = form.unpack_from(self.content, self.place)
        self.place += form.size
        return values

    def array(self, kind: str, *shape: int) -> np.ndarray:
        count = int(np.prod(shape, dtype=object))
        size = count * np.dtype(kind).itemsize
        if size > len(self.content) - self.place:
            raise struct.error
        values = np.frombuffer(self.content, kind, count, self.place).reshape(shape)
        self.place += size
        return values.astype(values.dtype.newbyteorder("="))

    def layer(self) -> Layer:
        outputs, inputs, kernel, pixel_shuffle, slope = self.struct(_LAYER)
        if pixel_shuffle > 1:
            raise struct.error
        weight = self.array("<i2", outputs, inputs, kernel, kernel)
        return Layer(weight, self.array("<i8", outputs), self.array("<i4", outputs), slope, bool(pixel_shuffle))
