"""Random decoders of any shape, from CompressAI's own layers, for tests of what walks them."""

import random
from dataclasses import replace

import numpy as np
import torch
from compressai.layers import AttentionBlock, ResidualBlock, ResidualBlockUpsample, subpel_conv3x3
from compressai.models.sensetime import ResidualBottleneckBlock
from compressai.models.utils import deconv
from torch import Tensor, nn

from codecswap.layers.gdn import GDN, RampGDN, RsqrtGDN
from codecswap.layers.phase_grid import Axis
from codecswap.layers.upsampling import SubpixelConv, UpsampleConv2d
from codecswap.quantized.compute import compute
from codecswap.quantized.representation import Constant, Quantization, TransformGraph

CHANNELS = 8
SIZE = (4, 6)
"""Size of a decoder's input."""


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
        lambda out: SubpixelConv(CHANNELS, out, [Axis.of(5, 2, pads=(2, 2), output_padding=1)] * 2),
        lambda out: ResidualBlockUpsample(CHANNELS, out),
    ]
    layers: list[nn.Module] = []
    for place in range(doublings):
        layers += [pick.choice(same)(), pick.choice(same)()]
        layers.append(pick.choice(upward)(3 if place == doublings - 1 else CHANNELS))
    return nn.Sequential(*layers).eval()


def signal_to_noise(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(10 * np.log10(np.square(wanted).mean() / np.square(found - wanted).mean()))


def quantized(graph: TransformGraph, x: torch.Tensor, kind: str) -> TransformGraph:
    """A graph in integers whose ranges are those of one input; 8-bit weights."""
    ranges: dict[str, Quantization] = {}
    limits = np.iinfo(kind)

    def look(name: str, value: torch.Tensor) -> torch.Tensor:
        low, high = min(0.0, value.min().item()), max(1e-3, value.max().item())
        if kind == "int16":
            ranges[name] = Quantization(np.array(max(-low, high) / 32767, np.float32), np.array(0, kind))
        else:
            scale = (high - low) / (limits.max - limits.min)
            ranges[name] = Quantization.fixed(scale, round(low / scale), kind)
        return value

    compute(graph, x, each=look)
    constants = dict(graph.constants)
    for step in graph.operations:
        if step.operator in ("Conv", "ConvTranspose"):
            given, weight, bias = step.inputs
            axis = int(step.operator == "ConvTranspose")
            values = constants[weight].values
            scale = np.abs(values).max(tuple({0, 1, 2, 3} - {axis})).astype(np.float32) / np.float32(127)
            of_weight = Quantization(scale, np.zeros(len(scale), np.int8), axis)
            of_bias = Quantization(ranges[given].scale * scale, np.zeros(len(scale), np.int32), 0)
            constants[weight] = Constant(of_weight.quantize(values), of_weight)
            constants[bias] = Constant(of_bias.quantize(constants[bias].values.astype(np.float64)), of_bias)
    return replace(graph, constants=constants, activations=ranges)
