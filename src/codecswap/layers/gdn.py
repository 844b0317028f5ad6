"""CompressAI's GDN, its inverse, and their replacements: ``x / sqrt(n)`` and ``x * sqrt(n)`` with ``n = beta + gamma x^2``."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codecswap.layers.compressai import GDN, GDN1

__all__ = [
    "GDN",
    "GDN1",
    "NoActivation",
    "PlainActivation",
    "RampGDN",
    "ReluActivation",
    "RsqrtGDN",
    "effective",
]


def effective(gdn: GDN) -> tuple[Tensor, Tensor]:
    """Parameters of a GDN after its reparametrization: ``beta: (C,)`` and ``gamma: (C, C)``, non-negative."""
    return gdn.beta_reparam(gdn.beta).detach(), gdn.gamma_reparam(gdn.gamma).detach()


class RsqrtGDN(GDN):
    """GDN with a reciprocal square root instead of square root and division; parameters as GDN's.

    With ``n = beta + gamma x^2``: ``x * rsqrt(n)``, and ``x * (n * rsqrt(n))`` for the inverse.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Compute ``(B, C, H, W) -> (B, C, H, W)``."""
        beta, gamma = self.beta_reparam(self.beta), self.gamma_reparam(self.gamma)
        norm = F.conv2d(x * x, gamma[:, :, None, None], beta)
        root = torch.rsqrt(norm)
        return x * (norm * root) if self.inverse else x * root


class PlainActivation(nn.Module, ABC):
    """Base class of replacements of a GDN that are exported unchanged: ``(B, C, H, W) -> (B, C, H, W)``."""

    homogeneous = False
    """Outputs scale with the inputs, per channel; else `rescale` can set their scale."""

    @abstractmethod
    def rescale(self, inside: Tensor, outside: Tensor) -> None:
        """Adapt the layer, in place, to inputs divided by ``inside: (C,)`` and outputs multiplied by ``outside: (C,)``.

        Both are positive; ``outside`` is ``1 / inside`` where the function is homogeneous.
        """


class RampGDN(PlainActivation):
    """GDN with a piecewise-linear square root: ``x * root(relu(norm(x * x)))``, two 1x1 convolutions around a ReLU.

    Each channel has ``pieces`` ramps ``relu(n - t)`` (inverse GDN) or ``relu(t - n)`` (GDN) of its norm ``n``. Parameters:
    ``norm.weight: (pieces C, C, 1, 1)``, ``root.weight: (C, pieces C, 1, 1)``, and their biases.
    """

    def __init__(self, channels: int, pieces: int) -> None:
        super().__init__()
        self.norm = nn.Conv2d(channels, pieces * channels, 1)
        self.relu = nn.ReLU()
        self.root = nn.Conv2d(pieces * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute ``(B, C, H, W) -> (B, C, H, W)``."""
        return x * self.root(self.relu(self.norm(x * x)))  # x ** 2 would be exported as Pow

    def rescale(self, inside: Tensor, outside: Tensor) -> None:  # noqa: D102
        self.norm.weight *= inside.square()[None, :, None, None]
        scale = inside * outside
        self.root.weight *= scale[:, None, None, None]
        assert self.root.bias is not None
        self.root.bias *= scale


class ReluActivation(PlainActivation):
    """A ReLU."""

    homogeneous = True

    def forward(self, x: Tensor) -> Tensor:
        """Compute ``(B, C, H, W) -> (B, C, H, W)``."""
        return torch.relu(x)

    def rescale(self, inside: Tensor, outside: Tensor) -> None:  # noqa: D102
        pass


class NoActivation(PlainActivation):
    """Nothing between two convolutions."""

    homogeneous = True

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``."""
        return x

    def rescale(self, inside: Tensor, outside: Tensor) -> None:  # noqa: D102
        pass
