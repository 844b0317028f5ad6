"""The interface of a codec. Each architecture is one file that implements it (docs/architecture.md)."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codecswap.codecs.bottleneck import check_quantiles, quantize_with_likelihoods, tables_of
from codecswap.codecs.float32 import full_float32
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.entropy.bitstream import CodesPictures
from codecswap.entropy.model import FLOAT, EntropyModel, Parameters, Strings
from codecswap.entropy.passes import LATENTS, Pass, Region, has_context, hyperprior, predicted
from codecswap.entropy.rates import Rates
from codecswap.entropy.tables import EntropyTables

SCALES = 256
"""Most scales in a table; CompressAI has 64."""


class Codec(CodesPictures, nn.Module, ABC):
    """A learned codec: ``picture -> g_a -> y -> quantize -> y_hat -> g_s -> picture``.

    It is an abstract class, not a `typing.Protocol`, because callers also use the methods of `torch.nn.Module`.
    """

    factor: ClassVar[int]
    """Pixels per latent along each axis."""
    margin: ClassVar[int]
    """Overlap of tiles in latents: the radius of the receptive field; this many on each side of a tile are discarded."""
    bit_exact: ClassVar[tuple[str, ...]]
    """Modules (those of them that there are) that decide what a bitstream means: a student keeps its teacher's bit for bit,
    and no swap changes them."""
    zoo: ClassVar[Mapping[str, Mapping[int, str]]]
    """Addresses of CompressAI's pretrained weights, by metric and quality."""

    source: Any = None
    """Source it was loaded from, a `codecswap.codecs.source.Teacher`; a student has its teacher's."""
    record: Any = None
    """How a student was built, a `codecswap.students.record.StudentRecord`; None for other codecs."""
    gain: float = 1.0
    """Gain at which a codec with variable rate quantizes, one of `gains` or between them."""
    N: int
    """Channels inside the transforms."""
    M: int
    """Channels of the latents."""
    g_a: nn.Module
    """Analysis: ``(B, 3, H, W)`` in [0, 1] to ``(B, M, H/factor, W/factor)``."""
    g_s: nn.Module
    """Synthesis: ``(B, M, h, w)`` to ``(B, 3, factor h, factor w)``, not clamped."""

    @classmethod
    @abstractmethod
    def untrained(cls, state: Mapping[str, Tensor]) -> Self:
        """Build a codec of the sizes of these weights; the sizes are checked first, and the weights are not loaded.

        Args:
            state: of a codec or a student, whose decoder may have other names and shapes than the architecture's: go by the
                encoder and the entropy model.

        Raises:
            KeyError, ValueError, AttributeError, IndexError: the weights are not of this architecture.
        """

    def coder(self) -> TorchCodec:  # noqa: D102
        return TorchCodec(self)

    @property
    def multiple(self) -> int:
        """Pictures are padded to a multiple of this many pixels along each axis."""
        return self.factor

    @property
    @abstractmethod
    def passes(self) -> tuple[Pass, ...]:
        """The passes of entropy coding, in order."""

    @property
    def gains(self) -> tuple[float, ...]:
        """Gains of the levels of a codec with variable rate, ascending; empty: it has one rate."""
        return ()

    def rates(self) -> Rates | None:
        """The levels of a codec with variable rate, with an offset for each CDF index; None: it has one rate."""
        return None

    @property
    def hyperprior(self) -> "HyperCodec | None":
        """The codec itself if it has hyper-latents, else None."""
        return None

    @property
    def predicts_means(self) -> bool:
        """Whether means and tables are predicted for each latent; else each channel has a fixed median and table."""
        return bool(predicted(self.passes))

    @property
    def has_context(self) -> bool:
        """Whether latents are predicted from other latents. Only PyTorch computes that: such a codec cannot be exported."""
        return has_context(self.passes)

    def entropy_model(self) -> EntropyModel:
        """The entropy model, with the current entropy tables."""
        return EntropyModel(self.passes, self.entropy_tables())

    @abstractmethod
    def quantize(self, y: Tensor) -> Tensor:
        """Round ``y: (B, M, h, w)`` as a real bitstream carries it."""

    @abstractmethod
    def bits(self, y: Tensor, *, noisy: bool = False) -> Tensor:
        """Estimated bits of the bitstreams of ``y: (B, M, h, w)``, a scalar; ``noisy``: uniform noise instead of rounding."""

    @torch.no_grad()
    def compress_latents(self, y: Tensor) -> list[bytes]:
        """Code the latents of one picture, before rounding: the same strings, in the same order, as CompressAI's.

        Args:
            y: ``(1, M, h, w)``, for a picture that was padded to `multiple`.

        Raises:
            UserError: the latents are not finite.
        """
        strings = self.entropy_model().encode(y[0].cpu().numpy(), self.hyper_analyze)
        return [strings.latents, strings.hyper_latents] if self.predicts_means else [strings.latents]

    def decompress_latents(self, strings: Sequence[bytes], size: Sequence[int]) -> Tensor:
        """Decode the strings of `compress_latents` to rounded latents ``(1, M, *size)``.

        Raises:
            CorruptString: they are damaged, or another machine computed other CDF indexes.
        """
        latents, hyper_latents = (*strings, b"")[:2]
        quantized = self.entropy_model().decode(Strings(hyper_latents, latents), (size[0], size[1]))
        y_hat = torch.from_numpy(quantized.symbols.astype(np.float32) + quantized.means)
        return y_hat[None].to(next(self.parameters()).device)

    def hyper_analyze(self, latents: np.ndarray) -> np.ndarray:
        """Hyper-latents ``(N, h/f, w/f)``, before rounding, of latents ``(M, h, w)`` of a codec that has them."""
        raise NotImplementedError("this codec has no hyper-latents")

    @abstractmethod
    def entropy_tables(self) -> EntropyTables:
        """Entropy tables of the latents, or of the hyper-latents if there are some."""

    @abstractmethod
    def make_tables(self) -> None:
        """Compute the entropy tables if there are none yet, and check them.

        Raises:
            UserError, ValueError, RuntimeError, IndexError, TypeError: they are damaged.
        """

    @abstractmethod
    def aux_loss(self) -> Tensor:
        """Loss that trains the quantiles of the entropy model."""

    def same_latents(self, other: nn.Module) -> bool:
        """Whether all modules of `bit_exact` are equal bit for bit: then this codec decodes the other's bitstreams."""
        return self._equals(other, self.bit_exact)

    def same_entropy(self, other: nn.Module) -> bool:
        """Whether files can be exchanged with the other codec; the encoders may still differ."""
        return self._equals(other, [name for name in self.bit_exact if name != "g_a"])

    def _equals(self, other: nn.Module, parts: Sequence[str]) -> bool:
        mine, theirs = (
            {name: value for name, value in codec.state_dict().items() if name.split(".")[0] in parts}
            for codec in (self, other)
        )
        return mine.keys() == theirs.keys() and all(
            mine[name].shape == theirs[name].shape and torch.equal(mine[name].cpu(), theirs[name].cpu())
            for name in theirs
        )


class HyperCodec(Codec):
    """A codec with a hyperprior: ``y -> h_a -> z -> round -> h_s -> Gaussians``.

    A latent is coded as the integer ``round(y - mean)`` with the table of the Gaussian whose standard deviation is closest to
    its scale. Encoder and decoder must choose the same tables: if one scale is rounded to another table, everything
    after it is decoded wrongly.
    """

    hyper_factor: ClassVar[int] = 4
    """Latents per hyper-latent along each axis."""
    predictors: ClassVar[tuple[str, ...]] = ("h_s",)
    """Modules that compute scales and means: codecs that share their weights can exchange files."""

    h_a: nn.Module
    """Hyper-analysis."""
    h_s: nn.Module
    """Hyper-synthesis: ``(B, N, h, w)`` to side information ``(B, C, f h, f w)`` with f = `hyper_factor`."""
    entropy_bottleneck: Any
    """CompressAI's `EntropyBottleneck` of the hyper-latents."""
    gaussian_conditional: Any
    """CompressAI's `GaussianConditional` of the latents."""
    update: Any
    """CompressAI's method that computes the entropy tables."""

    @property
    def hyperprior(self) -> "HyperCodec":  # noqa: D102
        return self

    @property
    def multiple(self) -> int:  # noqa: D102
        return self.factor * self.hyper_factor

    @property
    def passes(self) -> tuple[Pass, ...]:
        """Hyper-latents, then all latents in one pass."""
        return hyperprior(self.N, Pass(LATENTS, (0, self.M)))

    @abstractmethod
    def hyper_latents(self, y: Tensor) -> Tensor:
        """Hyper-latents ``(B, N, h/f, w/f)``, before rounding, of ``y: (B, M, h, w)`` whose sides are multiples of f."""

    @abstractmethod
    def gaussians(self, side: Tensor, y_hat: Tensor, step: Pass, region: Region) -> tuple[Tensor, Tensor]:
        """Scales and means of the latents of a region, each of the shape of ``y_hat[:, *region]``.

        Args:
            side: side information, the output of h_s, ``(B, C, h, w)``.
            y_hat: ``(B, M, h, w)``, rounded latents of earlier steps; other values must not be used.
            step: the pass.
            region: the part of the pass; all of it if ``y_hat`` is complete, so that a context model runs once.
        """

    def indexes(self, scales: Tensor) -> Tensor:
        """CDF index of each scale, int32."""
        return self.gaussian_conditional.build_indexes(scales)

    @property
    def scale_table(self) -> Tensor:
        """Standard deviation of the Gaussian of each CDF index, ascending."""
        return self.gaussian_conditional.scale_table

    @torch.no_grad()
    def quantize(self, y: Tensor) -> Tensor:  # noqa: D102
        return self._quantize(y, self._side_information(y)[0])

    def bits(self, y: Tensor, *, noisy: bool = False) -> Tensor:  # noqa: D102
        side, z_likelihoods = self._side_information(y, noisy)
        context = self.has_context
        y_hat = y
        if context:
            y_hat = (
                self.gaussian_conditional.quantize(y, "noise") if noisy else self._quantize(y.detach(), side.detach())
            )
        total = -z_likelihoods.log2().sum()
        for step in predicted(self.passes):
            region = step.region(*y.shape[-2:])
            scales, means = self.gaussians(side, y_hat, step, region)
            likelihoods = self.likelihoods(y[..., *region], scales, means, noisy)
            total = total - likelihoods.log2().sum()
        return total

    def _side_information(self, y: Tensor, noisy: bool = False) -> tuple[Tensor, Tensor]:
        """Side information (the output of h_s) and likelihoods of the hyper-latents, for latents of any size.

        Latents are padded to multiples of `hyper_factor` by repeating their edges.
        """
        height, width = y.shape[-2:]
        padding = (0, -width % self.hyper_factor, 0, -height % self.hyper_factor)
        z = self.hyper_latents(F.pad(y, padding, mode="replicate"))
        z_hat, likelihoods = self.round_hyper_latents(z, noisy)
        return self.h_s(z_hat)[..., :height, :width], likelihoods

    @torch.no_grad()
    def _quantize(self, y: Tensor, side: Tensor) -> Tensor:
        y_hat = torch.zeros_like(y)
        for step in predicted(self.passes):
            for region in step.steps(*y.shape[-2:]):
                scales, means = self.gaussians(side, y_hat, step, region)
                y_hat[..., *region] = self.round(y[..., *region], scales, means)
        return y_hat

    def round(self, y: Tensor, scales: Tensor, means: Tensor) -> Tensor:
        """Rounded latents of a region."""
        return torch.round(y - means) + means

    def likelihoods(self, y: Tensor, scales: Tensor, means: Tensor, noisy: bool) -> Tensor:
        """Likelihoods of latents of a region, before rounding; ``noisy``: with uniform noise."""
        return self.gaussian_conditional(y, scales, means=means, training=noisy)[1]

    def round_hyper_latents(self, z: Tensor, noisy: bool) -> tuple[Tensor, Tensor]:
        """Rounded hyper-latents, or with uniform noise, and their likelihoods."""
        return quantize_with_likelihoods(self.entropy_bottleneck, z, noisy=noisy)

    def entropy_model(self) -> EntropyModel:  # noqa: D102
        tables = self.entropy_tables()
        return EntropyModel(
            self.passes, tables, self.gaussian_tables(), TorchPredictor(self, tables), self.hyper_factor
        )

    @torch.inference_mode()
    def hyper_analyze(self, latents: np.ndarray) -> np.ndarray:  # noqa: D102
        y = torch.from_numpy(latents)[None].to(next(self.parameters()).device)
        with full_float32(y.device):
            return self.hyper_latents(y)[0].cpu().numpy()

    def entropy_tables(self) -> EntropyTables:  # noqa: D102
        return tables_of(self.entropy_bottleneck, self.entropy_bottleneck.quantiles[:, 0, 1].detach())

    def gaussian_tables(self) -> EntropyTables:
        """Entropy tables of the Gaussians, one CDF per standard deviation; medians are 0."""
        return tables_of(self.gaussian_conditional, torch.zeros(len(self.scale_table)))

    def aux_loss(self) -> Tensor:  # noqa: D102
        return self.entropy_bottleneck.loss()

    @torch.no_grad()
    def make_tables(self) -> None:
        """Like `Codec.make_tables`; also sets the masked weights of a context model to 0, as its first use does."""
        for module in self.modules():
            mask, weight = getattr(module, "mask", None), getattr(module, "weight", None)
            if isinstance(mask, Tensor) and isinstance(weight, Tensor):
                weight *= mask
        check_quantiles(self.entropy_bottleneck)
        self.update(self.scale_table if len(self.scale_table) else None)
        scales = self.scale_table
        if not 0 < len(scales) <= SCALES or not (
            scales.isfinite().all() and (scales.diff() > 0).all() and scales[0] > 0
        ):
            raise ValueError("the scales do not ascend")
        if self.entropy_tables().channels != self.N or self.gaussian_tables().channels != len(scales):
            raise ValueError("there is not one table for each channel, or for each scale")


class TorchPredictor:
    """CDF indexes and means computed in PyTorch (`codecswap.entropy.model.Predictor`).

    Another machine, number of threads or version of PyTorch may round a scale to another CDF index.
    """

    arithmetic = FLOAT

    def __init__(self, codec: HyperCodec, tables: EntropyTables) -> None:
        self.codec = codec
        self._tables = tables

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the scales and of the weights of `HyperCodec.predictors`."""
        digest = hashlib.sha256(self.codec.scale_table.detach().cpu().numpy().tobytes())
        for part in self.codec.predictors:
            for name, value in sorted(self.codec.get_submodule(part).state_dict().items()):
                digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        return digest.digest()

    @torch.inference_mode()
    def begin(self, hyper_symbols: np.ndarray) -> Parameters:
        """Compute the side information of the whole picture at once, as CompressAI does: tiles would change the rounding."""
        codec, device = self.codec, next(self.codec.parameters()).device
        with full_float32(device):
            side = codec.h_s(torch.from_numpy(self._tables.to_latents(hyper_symbols))[None].to(device))

        @torch.inference_mode()
        def parameters(step: Pass, region: Region, decoded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            with full_float32(device):
                scales, means = codec.gaussians(side, torch.from_numpy(decoded)[None].to(device), step, region)
            return codec.indexes(scales)[0].to(torch.uint8).cpu().numpy(), means[0].cpu().numpy()

        return parameters


def analyze(codec: Codec, x: Tensor) -> Tensor:
    """A codec's latents before rounding, ``(B, M, H/factor, W/factor)``, always in full float32 (see `encode`)."""
    with full_float32(x.device):
        return codec.g_a(x.float())


@torch.no_grad()
def encode(codec: Codec, x: Tensor) -> Tensor:
    """Encode pictures to the rounded latents that a bitstream carries.

    Always computed in full float32, also under autocast: bfloat16 or TF32 would give other symbols than the bitstream's.

    Args:
        codec: a teacher or a student.
        x: ``(B, 3, H, W)``, RGB in [0, 1], sides multiples of ``codec.multiple``.

    Returns: ``(B, M, H/16, W/16)``: integers around the medians (factorized prior) or the predicted means.
    """
    return round_latents(codec, analyze(codec, x))


def round_latents(codec: Codec, y: Tensor) -> Tensor:
    """`Codec.quantize`, always in full float32."""
    with full_float32(y.device):
        return codec.quantize(y)


def estimate_bits(codec: Codec, y: Tensor, *, noisy: bool = False) -> Tensor:
    """`Codec.bits`, always in full float32."""
    with full_float32(y.device):
        return codec.bits(y.float(), noisy=noisy)
