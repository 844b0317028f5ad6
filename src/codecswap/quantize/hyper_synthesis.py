"""Convert a codec's hyper-synthesis to integer arithmetic (`codecswap.entropy.hyper_synthesis`)."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from codecswap.codecs.protocol import HyperCodec
from codecswap.entropy.hyper_synthesis import BITS, FRACTIONAL_BITS, SLOPE_BITS, IntegerNetwork, Layer
from codecswap.entropy.tables import EntropyTables
from codecswap.errors import UserError
from codecswap.layers.upsampling import to_subpixel, transposed_phase_kernels, why_not_stride_2

WEIGHT_BITS, ACTIVATION_BITS = 12, 14
"""Bits of weights and activations, including the sign: of the format's `BITS` so many that the C library sums in 32 bits."""
MEAN_BITS = 4
"""Fractional bits of means: so few that latents fit into 8-bit inputs of a decoder (`codecswap.inference.split_inputs`)."""
HEADROOM = 2.0
"""Range of activations relative to their largest value on the samples."""
FINEST = 20
"""Most fractional bits of an activation or a weight."""
UNREACHED = -(1 << 62)
"""A threshold below all scales."""


@torch.no_grad()
def integer_network(codec: HyperCodec, samples: Sequence[np.ndarray]) -> IntegerNetwork:
    """Convert the hyper-synthesis of a codec to integers.

    Weights have `WEIGHT_BITS` and a power-of-two scale per output channel; activations have `ACTIVATION_BITS` and one such
    scale per layer, estimated from the samples. Means are rounded to `MEAN_BITS`.

    Args:
        samples: symbols of hyper-latents, ``(N, h, w)`` each.

    Raises:
        UserError: a layer has no integer version.
    """
    tables = codec.entropy_tables()
    steps = integer_layers(codec)
    inputs = [torch.from_numpy(tables.to_latents(one))[None] for one in samples]
    largest = _largest(codec.h_s, inputs)
    widest = max(_widest(tables), HEADROOM * max(x.abs().max().item() for x in inputs))
    input_bits = max(0, min(_fractional_bits(widest, BITS), BITS))
    medians = np.rint(np.ldexp(tables.medians.astype(np.float64), input_bits)).astype(np.int64)
    layers, before = [], input_bits
    for (conv, slope), reached in zip(steps[:-1], largest, strict=False):
        after = min(_fractional_bits(HEADROOM * reached, ACTIVATION_BITS), FINEST)
        layers.append(_layer(conv, slope, before, after))
        before = after
    conv, slope = steps[-1]
    units = np.repeat([FRACTIONAL_BITS, MEAN_BITS], codec.M)[: conv.out_channels]
    layers.append(_layer(conv, slope, before, units))
    return IntegerNetwork(input_bits, medians, tuple(layers), _thresholds(codec), _mean_bits(codec))


def latent_bits(codec: HyperCodec) -> int:
    """Fractional bits of the latents that an exported folder decodes: symbols plus means.

    Means that a context model predicts in floating point are rounded to the unit of those computed in integers. At a gain
    latents have no common unit; the rounding to this one, finer where gains exceed 1, is within 1/32 of a quantization step.
    """
    if not codec.gains:
        return MEAN_BITS if codec.has_context else _mean_bits(codec) or 0
    return MEAN_BITS + max(0, math.ceil(math.log2(codec.gains[-1])))


def _mean_bits(codec: HyperCodec) -> int | None:
    """Fractional bits of means; None: all are 0."""
    return MEAN_BITS if integer_layers(codec)[-1][0].out_channels == 2 * codec.M else None


def integer_layers(codec: HyperCodec) -> list[tuple[nn.Conv2d | nn.ConvTranspose2d, float]]:
    """Each convolution of the hyper-synthesis, and the negative slope of the activation after it (1: none).

    Raises:
        UserError: a layer has no integer version.
    """
    steps: list[tuple[nn.Conv2d | nn.ConvTranspose2d, float]] = []
    if not isinstance(codec.h_s, nn.Sequential):
        raise UserError(
            f"h_s is a {type(codec.h_s).__name__}, not a Sequential, and has no integer version: the codec cannot be exported."
        )
    for name, layer in codec.h_s.named_children():
        if isinstance(layer, nn.ReLU | nn.LeakyReLU) and steps and steps[-1][1] == 1:
            steps[-1] = (steps[-1][0], layer.negative_slope if isinstance(layer, nn.LeakyReLU) else 0.0)
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and _is_plain(layer):
            steps.append((layer, 1.0))
        else:
            raise UserError(f"The layer h_s.{name} ({layer}) has no integer version: the codec cannot be exported.")
    return steps


def _is_plain(layer: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    """Whether a convolution upsamples by 2 (transposed), or has stride 1 and "same" padding."""
    if isinstance(layer, nn.ConvTranspose2d):
        return not why_not_stride_2(layer)
    kernel = layer.kernel_size[0]
    plain = (layer.stride, layer.dilation, layer.groups, layer.padding_mode) == ((1, 1), (1, 1), 1, "zeros")
    return plain and layer.kernel_size == (kernel, kernel) and layer.padding == (kernel // 2, kernel // 2)


def _largest(transform: nn.Module, inputs: Sequence[Tensor]) -> list[float]:
    """Largest absolute value after each convolution and its activation."""
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
    """Largest magnitude of a hyper-latent in the tables."""
    first, last = tables.offsets, tables.offsets + tables.lengths - 3
    return float((np.maximum(abs(first), abs(last)) + np.abs(tables.medians)).max())


def _fractional_bits(largest: float, bits: int) -> int:
    """Most fractional bits with which ``largest`` fits into a signed integer of so many bits."""
    limit = (1 << (bits - 1)) - 1
    return math.floor(math.log2(limit / max(largest, limit * 2.0**-FINEST)))


def _layer(conv: nn.Conv2d | nn.ConvTranspose2d, slope: float, before: int, after: int | np.ndarray) -> Layer:
    """Convert a convolution; ``before`` and ``after``: fractional bits of its input and output."""
    weight, bias = conv.weight.detach().double().cpu(), torch.zeros(conv.out_channels)
    if conv.bias is not None:
        bias = conv.bias.detach()
    pixel_shuffle = isinstance(conv, nn.ConvTranspose2d)
    if isinstance(conv, nn.ConvTranspose2d):
        weight = to_subpixel(transposed_phase_kernels(conv)).double().cpu()
        bias = bias.repeat_interleave(4)
    values, offsets = weight.numpy(), bias.double().cpu().numpy()
    largest = np.abs(values).max((1, 2, 3))
    weight_bits = np.array([min(_fractional_bits(float(one), WEIGHT_BITS), FINEST) for one in largest], np.int32)
    limit = (1 << (WEIGHT_BITS - 1)) - 1
    rounded = np.rint(np.ldexp(values, weight_bits[:, None, None, None])).clip(-limit, limit).astype(np.int16)
    units = weight_bits + before
    return Layer(
        weight=rounded,
        bias=np.rint(np.ldexp(offsets, units)).astype(np.int64),
        shift=(units - after).astype(np.int32),
        slope=round(slope * (1 << SLOPE_BITS)),
        pixel_shuffle=pixel_shuffle,
    )


def _thresholds(codec: HyperCodec) -> np.ndarray:
    """Thresholds of the scale table as integers, rounded down."""
    steps = codec.scale_table[:-1].double().cpu()
    least = int(codec.indexes(torch.full((1,), -1.0).to(codec.scale_table))[0])
    limits = np.floor(np.ldexp(steps.numpy(), FRACTIONAL_BITS)).astype(np.int64)
    limits[:least] = UNREACHED  # the codec clips scales to a lower bound
    return limits
