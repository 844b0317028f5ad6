"""What the rest of the project needs of a codec. An architecture is one file that provides it (docs/architecture.md)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from codecswap.inference.tables import EntropyTables


class Codec(nn.Module, ABC):
    """A learned codec: ``picture -> g_a -> y -> quantise -> y_hat -> g_s -> picture``.

    It is a class and no `typing.Protocol`, because everyone needs `torch.nn.Module`'s methods of it, too.
    """

    factor: ClassVar[int]
    """Pixels that a latent stands for on either axis; pictures are padded to multiples of it."""
    margin: ClassVar[int]
    """How far a transform sees, in latents: so many on each side of a tile are computed and thrown away."""
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
    @abstractmethod
    def medians(self) -> Tensor:
        """What rounding is centred on, ``(1, M, 1, 1)``."""

    @abstractmethod
    def bits(self, latents: Tensor, *, noisy: bool = False) -> Tensor:
        """Estimated bits of latents ``(B, M, h, w)``, a scalar; ``noisy``: uniform noise is added to them first."""

    @abstractmethod
    def compress_latents(self, y: Tensor) -> list[bytes]:
        """The string of each picture of a batch, from its latents before rounding."""

    @abstractmethod
    def decompress_latents(self, strings: Sequence[bytes], size: Sequence[int]) -> Tensor:
        """The rounded latents ``(B, M, *size)`` of strings."""

    @abstractmethod
    def entropy_tables(self) -> EntropyTables:
        """The integers that encoder and decoder share."""

    @abstractmethod
    def make_tables(self) -> None:
        """Compute the entropy tables where there are none yet, and check them.

        Raises:
            UserError, ValueError, RuntimeError, IndexError, TypeError: they are damaged.
        """

    @abstractmethod
    def aux_loss(self) -> Tensor:
        """Loss of the entropy model's quantiles, which nothing else trains."""

    def quantise(self, y: Tensor) -> Tensor:
        """The latents that a real bitstream carries, ``round(y - median) + median``, for ``y: (B, M, h, w)``."""
        return torch.round(y - self.medians) + self.medians

    def same_latents(self, other: nn.Module) -> bool:
        """Whether all that decides a bitstream is equal, bit for bit: then this codec decodes the other's bitstreams."""
        mine, theirs = self.state_dict(), other.state_dict()
        names = [name for name in theirs if name.split(".")[0] in self.bit_exact]
        return all(torch.equal(mine[name].cpu(), theirs[name].cpu()) for name in names)


@torch.no_grad()
def encode(codec: Codec, x: Tensor) -> Tensor:
    """A codec's rounded latents ``(B, M, H/16, W/16)`` of pictures ``x: (B, 3, H, W)`` in [0, 1].

    In float32 whatever the surrounding precision: in bfloat16 other symbols than the bitstream's would come out.
    """
    with torch.autocast(x.device.type, enabled=False):
        return codec.quantise(codec.g_a(x.float()))
