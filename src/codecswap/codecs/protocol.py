"""What the rest of the project needs of a codec. An architecture is one file that provides it (docs/architecture.md)."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codecswap.codecs.bottleneck import check_quantiles, tables_of
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.entropy.bitstream import CodesPictures
from codecswap.entropy.model import FLOAT, EntropyModel, Parameters, Strings
from codecswap.entropy.passes import LATENTS, Pass, Region, has_context, hyperprior, predicted
from codecswap.entropy.tables import EntropyTables

SCALES = 256
"""Most rows that a table of scales may have; CompressAI's has 64."""


class Codec(CodesPictures, nn.Module, ABC):
    """A learned codec: ``picture -> g_a -> y -> quantize -> y_hat -> g_s -> picture``.

    It is a class and no `typing.Protocol`, because everyone needs `torch.nn.Module`'s methods of it, too.
    """

    factor: ClassVar[int]
    """Pixels that a latent stands for on either axis."""
    margin: ClassVar[int]
    """How far a transform sees, in latents: so many on each side of a tile are computed and thrown away."""
    bit_exact: ClassVar[tuple[str, ...]]
    """Modules that decide what a bitstream means: a student has its teacher's, bit for bit; no swap touches them."""
    zoo: ClassVar[Mapping[str, Mapping[int, str]]]
    """Addresses of CompressAI's pretrained weights, by metric and quality."""

    source: Any = None
    """Where it was loaded from, a `codecswap.codecs.source.Teacher`; a student's is its teacher's."""
    record: Any = None
    """How a student was made, a `codecswap.students.record.StudentRecord`; None for other codecs."""
    N: int
    """Channels inside the transforms."""
    M: int
    """Channels of the latents."""
    g_a: nn.Module
    """Analysis: ``(B, 3, H, W)`` in [0, 1] to ``(B, M, H/factor, W/factor)``."""
    g_s: nn.Module
    """Synthesis: the way back, not clamped."""

    @classmethod
    @abstractmethod
    def untrained(cls, state: Mapping[str, Tensor]) -> Self:
        """A codec of the sizes of these weights, which are not loaded, read off before anything of that size is built.

        Raises:
            KeyError, ValueError, AttributeError, IndexError: these are no weights of this architecture.
        """

    def coder(self) -> TorchCodec:  # noqa: D102
        return TorchCodec(self)

    @property
    def multiple(self) -> int:
        """Pictures are padded to multiples of so many pixels on either axis."""
        return self.factor

    @property
    @abstractmethod
    def passes(self) -> tuple[Pass, ...]:
        """The passes of entropy coding, in order."""

    @property
    def hyperprior(self) -> "HyperCodec | None":
        """The codec itself where it has hyper-latents."""
        return None

    @property
    def predicts_means(self) -> bool:
        """Whether a latent's mean and table are predicted, picture by picture; else each channel has a median and a table."""
        return bool(predicted(self.passes))

    @property
    def has_context(self) -> bool:
        """Whether latents are predicted from other latents, which only PyTorch computes: such a codec is not exported."""
        return has_context(self.passes)

    def entropy_model(self) -> EntropyModel:
        """How latents are coded, with the entropy tables as they are now."""
        return EntropyModel(self.passes, self.entropy_tables())

    @abstractmethod
    def quantize(self, y: Tensor) -> Tensor:
        """The latents that a real bitstream carries, rounded, for ``y: (B, M, h, w)``."""

    @abstractmethod
    def bits(self, y: Tensor, *, noisy: bool = False) -> Tensor:
        """Estimated bits of the bitstreams of ``y: (B, M, h, w)``, a scalar; ``noisy``: uniform noise instead of rounding."""

    @torch.no_grad()
    def compress_latents(self, y: Tensor) -> list[bytes]:
        """The strings of one picture from its latents before rounding: CompressAI's, in its order, where it has the codec.

        Args:
            y: ``(1, M, h, w)`` of a picture that was padded to `multiple`.

        Raises:
            UserError: the latents are not finite.
        """
        strings = self.entropy_model().encode(y[0].cpu().numpy(), self.hyper_analyze)
        return [strings.latents, strings.hyper_latents] if self.predicts_means else [strings.latents]

    def decompress_latents(self, strings: Sequence[bytes], size: Sequence[int]) -> Tensor:
        """The rounded latents ``(1, M, *size)`` of the strings that `compress_latents` gave.

        Raises:
            CorruptString: they are damaged, or another machine chose other tables.
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
        """The integers that encoder and decoder share: of the latents, or of the hyper-latents where there are some."""

    @abstractmethod
    def make_tables(self) -> None:
        """Compute the entropy tables where there are none yet, and check them.

        Raises:
            UserError, ValueError, RuntimeError, IndexError, TypeError: they are damaged.
        """

    @abstractmethod
    def aux_loss(self) -> Tensor:
        """Loss of the entropy model's quantiles, which nothing else trains."""

    def same_latents(self, other: nn.Module) -> bool:
        """Whether all that decides a bitstream is equal, bit for bit: then this codec decodes the other's bitstreams."""
        return self._equals(other, self.bit_exact)

    def same_entropy(self, other: nn.Module) -> bool:
        """Whether files can be exchanged with the other codec, although the encoders may choose other symbols."""
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
    """A codec whose latents are coded by what hyper-latents say of them: ``y -> h_a -> z -> round -> h_s -> Gaussians``.

    A latent is coded as the integer ``round(y - mean)`` with the table of the Gaussian whose standard deviation is next to
    its scale. Encoder and decoder must choose the same table: one scale that falls on the other side of a step, and all
    that follows is noise.
    """

    hyper_factor: ClassVar[int] = 4
    """Latents that a hyper-latent stands for on either axis."""
    predictors: ClassVar[tuple[str, ...]] = ("h_s",)
    """Modules that compute scales and means: two codecs whose weights of these are equal read each other's files."""

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
        """Hyper-latents, then all latents at once."""
        return hyperprior(self.N, Pass(LATENTS, (0, self.M)))

    @abstractmethod
    def hyper_latents(self, y: Tensor) -> Tensor:
        """Hyper-latents ``(B, N, h/f, w/f)``, before rounding, of ``y: (B, M, h, w)`` whose sides are multiples of f."""

    @abstractmethod
    def gaussians(self, side: Tensor, y_hat: Tensor, step: Pass, region: Region) -> tuple[Tensor, Tensor]:
        """Scales and means of a step's latents, each ``y_hat[:, *region]``'s shape.

        Args:
            side: what h_s gave, ``(B, C, h, w)``.
            y_hat: ``(B, M, h, w)``, rounded where earlier steps have decoded; what stands elsewhere must not matter.
            step: the pass.
            region: the part of it; all of it where ``y_hat`` is complete, so that a context model runs once.
        """

    def indexes(self, scales: Tensor) -> Tensor:
        """Which row of the Gaussians' table each scale is coded with, int32."""
        return self.gaussian_conditional.build_indexes(scales)

    @property
    def scale_table(self) -> Tensor:
        """The standard deviation of each row, ascending."""
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
            _, likelihoods = self.gaussian_conditional(y[..., *region], scales, means=means, training=noisy)
            total = total - likelihoods.log2().sum()
        return total

    def _side_information(self, y: Tensor, noisy: bool = False) -> tuple[Tensor, Tensor]:
        """What h_s gives, and the hyper-latents' likelihoods, for latents of any size, such as a training crop's.

        Their edges are repeated until the sides are multiples of `hyper_factor`.
        """
        height, width = y.shape[-2:]
        padding = (0, -width % self.hyper_factor, 0, -height % self.hyper_factor)
        z = self.hyper_latents(F.pad(y, padding, mode="replicate"))
        z_hat, likelihoods = self.entropy_bottleneck(z, training=noisy)
        return self.h_s(z_hat)[..., :height, :width], likelihoods

    @torch.no_grad()
    def _quantize(self, y: Tensor, side: Tensor) -> Tensor:
        y_hat = torch.zeros_like(y)
        for step in predicted(self.passes):
            for region in step.steps(*y.shape[-2:]):
                _, means = self.gaussians(side, y_hat, step, region)
                y_hat[..., *region] = torch.round(y[..., *region] - means) + means
        return y_hat

    def entropy_model(self) -> EntropyModel:  # noqa: D102
        tables = self.entropy_tables()
        return EntropyModel(
            self.passes, tables, self.gaussian_tables(), TorchPredictor(self, tables), self.hyper_factor
        )

    @torch.inference_mode()
    def hyper_analyze(self, latents: np.ndarray) -> np.ndarray:  # noqa: D102
        y = torch.from_numpy(latents)[None].to(next(self.parameters()).device)
        return self.hyper_latents(y)[0].cpu().numpy()

    def entropy_tables(self) -> EntropyTables:  # noqa: D102
        return tables_of(self.entropy_bottleneck, self.entropy_bottleneck.quantiles[:, 0, 1].detach())

    def gaussian_tables(self) -> EntropyTables:
        """The integers of all Gaussians, a row for each standard deviation; medians are 0."""
        return tables_of(self.gaussian_conditional, torch.zeros(len(self.scale_table)))

    def aux_loss(self) -> Tensor:  # noqa: D102
        return self.entropy_bottleneck.loss()

    @torch.no_grad()
    def make_tables(self) -> None:
        """As `Codec.make_tables`; weights that a context model's mask hides become 0, as its first use would make them."""
        for module in self.modules():
            mask, weight = getattr(module, "mask", None), getattr(module, "weight", None)
            if isinstance(mask, Tensor) and isinstance(weight, Tensor):
                weight *= mask
        check_quantiles(self.entropy_bottleneck)
        self.update()
        scales = self.scale_table
        if not 0 < len(scales) <= SCALES or not (
            scales.isfinite().all() and (scales.diff() > 0).all() and scales[0] > 0
        ):
            raise ValueError("the scales do not ascend")
        if self.entropy_tables().channels != self.N or self.gaussian_tables().channels != len(scales):
            raise ValueError("there is not one table for each channel, or for each scale")


class TorchPredictor:
    """CDF indexes and means computed in PyTorch (`codecswap.entropy.model.Predictor`).

    Another machine, another number of threads or another version of PyTorch may round a scale to the other side of a step.
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
        """Compute the side information of the whole picture, as CompressAI does: in tiles other roundings would come out."""
        codec, device = self.codec, next(self.codec.parameters()).device
        side = codec.h_s(torch.from_numpy(self._tables.to_latents(hyper_symbols))[None].to(device))

        @torch.inference_mode()
        def parameters(step: Pass, region: Region, decoded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            scales, means = codec.gaussians(side, torch.from_numpy(decoded)[None].to(device), step, region)
            return codec.indexes(scales)[0].to(torch.uint8).cpu().numpy(), means[0].cpu().numpy()

        return parameters


def analyze(codec: Codec, x: Tensor) -> Tensor:
    """A codec's latents before rounding, in float32 whatever the surrounding precision: `encode` says why."""
    with torch.autocast(x.device.type, enabled=False):
        return codec.g_a(x.float())


@torch.no_grad()
def encode(codec: Codec, x: Tensor) -> Tensor:
    """A codec's rounded latents ``(B, M, H/16, W/16)`` of pictures ``x: (B, 3, H, W)`` in [0, 1].

    In float32 whatever the surrounding precision: in bfloat16 other symbols than the bitstream's would come out.
    """
    with torch.autocast(x.device.type, enabled=False):
        return codec.quantize(analyze(codec, x))
