"""Gains: what an error of a layer's output adds to the error of the picture, or of the latents and their bits."""

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from codecswap.codecs.protocol import Codec, encode
from codecswap.graph.leaves import INPUT, Leaves
from codecswap.swaps.closed_form import PERCENT

DECIBELS = 10 / math.log(10)
"""Loss in dB of a small error, per share of the distortion."""
SAMPLES_PER_CHANNEL = 2
"""Positions that a metric is estimated from, for each channel of the layer."""


def output_metrics(
    tree: Leaves, samples: Sequence[Tensor], names: Collection[str], weight: Tensor | None = None
) -> dict[str, Tensor]:
    """The metric in which errors of some layers' outputs count, estimated by backpropagation.

    An error ``e: (O,)`` of a layer's output at one place adds ``e^T G e`` to the squared error of the transform's output, on
    average over places, where ``G = E[J^T J]`` and J is the Jacobian. With random signs s, ``J^T s`` has the covariance
    ``J^T J``.

    Args:
        tree: leaves of a float transform.
        samples: its inputs, ``(1, C, H, W)`` each; only as many are used as are needed.
        names: leaves whose outputs are meant.
        weight: weights of the squared errors of the transform's output, of a shape that broadcasts with it; None: 1.

    Returns: ``G: (O, O)``, float64, by the names of the leaves.
    """
    if not names:
        return {}
    found: dict[str, Tensor] = {}
    counts = dict.fromkeys(names, 0)
    generator = torch.Generator().manual_seed(0)
    for x in samples:
        for name, (_, slope) in values_and_slopes(tree, x, names, weight, generator).items():
            rows = slope.flatten(2).transpose(1, 2).flatten(0, 1)
            found[name] = found.get(name, 0) + (rows.T @ rows).double()
            counts[name] += len(rows)
        if all(counts[name] >= SAMPLES_PER_CHANNEL * len(one) for name, one in found.items()):
            break
    return {name: one / counts[name] for name, one in found.items()}


def values_and_slopes(
    tree: Leaves, x: Tensor, names: Collection[str], weight: Tensor | None, generator: torch.Generator
) -> dict[str, tuple[Tensor, Tensor]]:
    """Outputs of some leaves, and the gradients of the tree's output, with random signs, by them."""
    with torch.enable_grad():
        values = {INPUT: x}
        for leaf in tree.steps:
            result = leaf.compute(values)
            if leaf.name in names and not result.requires_grad:
                result.requires_grad_(True)
            values[leaf.name] = result
        shown = values[tree.output]
        signs = torch.randint(0, 2, shown.shape, generator=generator) * 2.0 - 1
        signs = signs if weight is None else signs * weight.sqrt()
        kept = [name for name in names if values[name].requires_grad]
        slopes = torch.autograd.grad((shown * signs).sum(), [values[name] for name in kept], allow_unused=True)
    return {name: (values[name].detach(), slope) for name, slope in zip(kept, slopes, strict=True) if slope is not None}


def latent_weight(codec: Codec, x: Tensor) -> Tensor:
    """What the squared error of a latent adds to distortion and bits, in shares of the distortion, ``(1, M, 1, 1)``.

    The weights are for a mean over all latents. A bit counts as distortion does along the curve of the two: 1 % more bits
    are `PERCENT` dB. An error e of a latent of variance v costs about ``e^2 / (2 ln 2 v)`` bits.

    Args:
        x: pictures ``(B, 3, H, W)`` in [0, 1], sides multiples of `Codec.multiple`.
    """
    latents = encode(codec, x).requires_grad_(True)
    with torch.enable_grad():
        shown = codec.g_s(latents)
        signs = torch.randint(0, 2, shown.shape, generator=torch.Generator().manual_seed(0)) * 2.0 - 1
        (slope,) = torch.autograd.grad((shown * signs).sum(), latents)
    latents = latents.detach()
    distortion, bits = (shown.detach() - x).square().sum().item(), codec.bits(latents).item()
    variance = latents.var((0, 2, 3), keepdim=True).clamp_min(1 / 12)
    of_bits = 100 * PERCENT / DECIBELS / bits / (2 * math.log(2) * variance)
    return (slope.square().mean((0, 2, 3), keepdim=True) / distortion + of_bits).detach() * latents.numel()
