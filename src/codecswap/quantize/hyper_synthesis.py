"""A codec's hyper-synthesis in integers (`codecswap.entropy.hyper_synthesis`), made from its weights and a few pictures."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from codecswap.codecs.protocol import HyperCodec
from codecswap.entropy.hyper_synthesis import BITS, FRACTIONAL_BITS, LIMIT, SLOPE_BITS, IntegerNetwork, Layer
from codecswap.entropy.tables import EntropyTables
from codecswap.errors import UserError
from codecswap.layers.upsampling import to_subpixel, transposed_phase_kernels, why_not_doubling

HEADROOM = 2.0
"""How much larger than on the pictures an activation may become before it is clipped."""
FINEST = 20
"""Most bits behind the point of an activation or a weight."""
UNREACHED = -(1 << 62)
"""Threshold that every scale exceeds."""


@torch.no_grad()
def integer_network(codec: HyperCodec, samples: Sequence[np.ndarray]) -> IntegerNetwork:
    """Round the hyper-synthesis of a codec to integers.

    Weights have 16 bits, each output channel its own power of two; activations have 16 bits and one power of two a layer, taken
    from what the pictures need.

    Args:
        samples: hyper-latents' symbols ``(N, h, w)`` of pictures.

    Raises:
        UserError: a layer is none that this arithmetic has.
    """
    tables = codec.entropy_tables()
    steps = _steps(codec.h_s)
    inputs = [torch.from_numpy(tables.to_latents(one))[None] for one in samples]
    largest = _largest(codec.h_s, inputs)
    widest = max(_widest(tables), HEADROOM * max(x.abs().max().item() for x in inputs))
    point = max(0, min(_point(widest), BITS))
    medians = np.rint(np.ldexp(tables.medians.astype(np.float64), point)).astype(np.int64)
    layers, before = [], point
    for index, (conv, slope) in enumerate(steps):
        after = FRACTIONAL_BITS if index == len(steps) - 1 else min(_point(HEADROOM * largest[index]), FINEST)
        layers.append(_layer(conv, slope, before, after))
        before = after
    return IntegerNetwork(point, medians, tuple(layers), _thresholds(codec), len(layers[-1].weight) == 2 * codec.M)


def _steps(transform: nn.Module) -> list[tuple[nn.Conv2d | nn.ConvTranspose2d, float]]:
    """Each convolution and the slope below 0 of the activation behind it (1: none)."""
    steps: list[tuple[nn.Conv2d | nn.ConvTranspose2d, float]] = []
    for name, layer in transform.named_children():
        if isinstance(layer, nn.ReLU | nn.LeakyReLU) and steps and steps[-1][1] == 1:
            steps[-1] = (steps[-1][0], layer.negative_slope if isinstance(layer, nn.LeakyReLU) else 0.0)
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and _is_plain(layer):
            steps.append((layer, 1.0))
        else:
            raise UserError(f"The layer h_s.{name} ({layer}) has no form in integers: the codec cannot be exported.")
    return steps


def _is_plain(layer: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    """Whether a convolution pixel_shuffle the size (transposed) or keeps it."""
    if isinstance(layer, nn.ConvTranspose2d):
        return not why_not_doubling(layer)
    kernel = layer.kernel_size[0]
    plain = (layer.stride, layer.dilation, layer.groups, layer.padding_mode) == ((1, 1), (1, 1), 1, "zeros")
    return plain and layer.kernel_size == (kernel, kernel) and layer.padding == (kernel // 2, kernel // 2)


def _largest(transform: nn.Module, inputs: Sequence[Tensor]) -> list[float]:
    """The largest absolute value behind each convolution and its activation."""
    found: list[float] = []
    for x in inputs:
        x = x.to(next(transform.parameters()))
        values: list[float] = []
        for layer in transform.children():
            x = layer(x)
            if isinstance(layer, nn.ReLU | nn.LeakyReLU):
                values[-1] = x.abs().max().item()
            else:
                values.append(x.abs().max().item())
        found = [max(pair) for pair in zip(found or values, values, strict=True)]
    return found


def _widest(tables: EntropyTables) -> float:
    """The largest hyper-latent that the tables hold."""
    first, last = tables.offsets, tables.offsets + tables.lengths - 3
    return float((np.maximum(abs(first), abs(last)) + np.abs(tables.medians)).max())


def _point(largest: float) -> int:
    """Bits behind the point with which ``largest`` still fits."""
    return math.floor(math.log2(LIMIT / max(largest, LIMIT * 2.0**-FINEST)))


def _layer(conv: nn.Conv2d | nn.ConvTranspose2d, slope: float, before: int, after: int) -> Layer:
    """A convolution whose input and output have so many bits behind the point."""
    weight, bias = conv.weight.detach().double().cpu(), torch.zeros(conv.out_channels)
    if conv.bias is not None:
        bias = conv.bias.detach()
    pixel_shuffle = isinstance(conv, nn.ConvTranspose2d)
    if isinstance(conv, nn.ConvTranspose2d):
        weight = to_subpixel(transposed_phase_kernels(conv)).double().cpu()
        bias = bias.repeat_interleave(4)
    values, offsets = weight.numpy(), bias.double().cpu().numpy()
    points = np.array([min(_point(float(np.abs(one).max())), FINEST) for one in values], np.int32)
    rounded = np.rint(np.ldexp(values, points[:, None, None, None])).clip(-LIMIT, LIMIT).astype(np.int16)
    units = points + before
    return Layer(
        weight=rounded,
        bias=np.rint(np.ldexp(offsets, units)).astype(np.int64),
        shift=(units - after).astype(np.int32),
        slope=round(slope * (1 << SLOPE_BITS)),
        pixel_shuffle=pixel_shuffle,
    )


def _thresholds(codec: HyperCodec) -> np.ndarray:
    """A scale exceeds a step of the table where its integer exceeds the step rounded down."""
    steps = codec.scale_table[:-1].double().cpu()
    least = int(codec.indexes(torch.full((1,), -1.0).to(codec.scale_table))[0])
    limits = np.floor(np.ldexp(steps.numpy(), FRACTIONAL_BITS)).astype(np.int64)
    limits[:least] = UNREACHED  # the codec takes no scale below its bound
    return limits
