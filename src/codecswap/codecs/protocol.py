"""What the rest of the project needs of a codec. An architecture is one file that provides it (docs/architecture.md)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from codecswap.entropy.tables import EntropyTables


class Codec(nn.Module, ABC):
    """A learned codec: ``picture -> g_a -> y -> quantize -> y_hat -> g_s -> picture``.

    It is a class and no `typing.Protocol`, because everyone needs `torch.nn.Module`'s methods of it, too.
    """

    factor: ClassVar[int]
    """Pixels that a latent stands for on either axis."""
    margin: ClassVar[int]
    """How far a transform sees, in latents: so many on each side of a tile are computed and thrown away."""
    hyper_factor: ClassVar[int] = 1
    """Latents that a hyper-latent stands for on either axis; 1: the codec has none (`HyperCodec` has)."""
    bit_exact: ClassVar[tuple[str, ...]]
    """Modules that decide what a bitstream means: a student has its teacher's, bit for bit; no swap touches them."""
    zoo: ClassVar[Mapping[str, Mapping[int, str]]]
    """Addresses of CompressAI's pretrained weights, by metric and quality."""

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

    @property
    def multiple(self) -> int:
        """Pictures are padded to multiples of so many pixels on either axis."""
        return self.factor * self.hyper_factor

    @abstractmethod
    def quantize(self, y: Tensor) -> Tensor:
        """The latents that a real bitstream carries, rounded, for ``y: (B, M, h, w)``."""

    @abstractmethod
    def bits(self, y: Tensor, *, noisy: bool = False) -> Tensor:
        """Estimated bits of the bitstreams of ``y: (B, M, h, w)``, a scalar; ``noisy``: uniform noise instead of rounding."""

    @abstractmethod
    def compress_latents(self, y: Tensor) -> list[bytes]:
        """The strings of one picture, in CompressAI's order, from its latents before rounding.

        Args:
            y: ``(1, M, h, w)`` of a picture that was padded to `multiple`.
        """

    @abstractmethod
    def decompress_latents(self, strings: Sequence[bytes], size: Sequence[int]) -> Tensor:
        """The rounded latents ``(1, M, *size)`` of the strings that `compress_latents` gave."""

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

    serial: ClassVar[bool] = False
    """A latent's Gaussian depends on the latents before it, too: one position is decoded after the other."""

    h_a: nn.Module
    """Hyper-analysis."""
    h_s: nn.Module
    """Hyper-synthesis: ``(B, N, h, w)`` to what the Gaussians' parameters are made of, ``(B, M or 2 M, 4h, 4w)``."""

    @abstractmethod
    def hyper_latents(self, y: Tensor) -> Tensor:
        """Hyper-latents ``(B, N, h/4, w/4)``, before rounding, of ``y: (B, M, h, w)`` whose sides are multiples of 4."""

    @abstractmethod
    def gaussians(self, z_hat: Tensor) -> tuple[Tensor, Tensor]:
        """Scales and means of the Gaussians, each ``(B, M, 4h, 4w)``, from rounded hyper-latents ``(B, N, h, w)``.

        With `serial` these are not the last word, and only their count of channels is promised.
        """

    @abstractmethod
    def indexes(self, scales: Tensor) -> Tensor:
        """Which table each scale is coded with, int32."""

    @abstractmethod
    def gaussian_tables(self) -> EntropyTables:
        """The integers of all Gaussians, a row for each standard deviation; medians are 0."""

    @property
    @abstractmethod
    def scale_table(self) -> Tensor:
        """The standard deviation of each row, ascending."""


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
