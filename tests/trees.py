"""Random decoders of any shape, from CompressAI's own layers, for tests of what walks them."""

import random

import torch
from compressai.layers import AttentionBlock, ResidualBlock, ResidualBlockUpsample, subpel_conv3x3
from compressai.models.sensetime import ResidualBottleneckBlock
from compressai.models.utils import deconv
from torch import Tensor, nn

from codecswap.layers.gdn import GDN, RampGDN, RsqrtGDN
from codecswap.layers.upsampling import SubpixelConv2d, UpsampleConv2d

CHANNELS = 8
SIZE = (4, 6)
"""Of a decoder's input."""


class Gated(nn.Module):
    """A block whose arithmetic is all in its ``forward``, around an inner tree."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.mix = nn.Conv2d(2 * CHANNELS, CHANNELS, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Compute ``(B, C, H, W) -> (B, C, H, W)``."""
        y = self.inner(x)
        first, second = torch.cat([x - y, 0.5 * y], 1).chunk(2, 1)
        y = self.mix(torch.cat((first.clamp(-1, 1), second), dim=1))
        kept = y
        z = self.relu(y)  # in place: what is kept changes, too
        return kept + z * torch.sigmoid(y)


def tree(seed: int, doublings: int = 2) -> nn.Sequential:
    """A decoder ``(B, 8, h, w) -> (B, 3, 2^d h, 2^d w)`` of random blocks and weights."""
    torch.manual_seed(seed)
    pick = random.Random(seed)
    same = [
        lambda: AttentionBlock(CHANNELS),
        lambda: ResidualBottleneckBlock(CHANNELS, CHANNELS),
        lambda: ResidualBlock(CHANNELS, CHANNELS),
        lambda: GDN(CHANNELS, inverse=True),
        lambda: RsqrtGDN(CHANNELS),
        lambda: nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 3, padding="same", bias=False), nn.LeakyReLU(0.2)),
        lambda: Gated(pick.choice(same[:3])()),
        lambda: RampGDN(CHANNELS, 2),
    ]
    upward = [
        lambda out: deconv(CHANNELS, out),
        lambda out: subpel_conv3x3(CHANNELS, out, 2),
        lambda out: UpsampleConv2d(CHANNELS, out, 5),
        lambda out: UpsampleConv2d(CHANNELS, out, 5, masked=True),
        lambda out: SubpixelConv2d(CHANNELS, out),
        lambda out: ResidualBlockUpsample(CHANNELS, out),
    ]
    layers: list[nn.Module] = []
    for place in range(doublings):
        layers += [pick.choice(same)(), pick.choice(same)()]
        layers.append(pick.choice(upward)(3 if place == doublings - 1 else CHANNELS))
    return nn.Sequential(*layers).eval()
