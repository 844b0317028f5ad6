"""Clip rare large values of 8-bit tensors, where finer steps for all others gain more at the output."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from codecswap.quantized.compute import compute
from codecswap.quantized.representation import TransformGraph

Range = tuple[float, float]
"""Smallest and largest value of a tensor."""
SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)
"""Shares of the whole range that are tried."""
PICTURES = 8
"""Number of inputs on which errors are estimated."""
VALUES = 1 << 18
"""Number of values of each tensor and input that are looked at."""
STEPS = 255
"""Steps of an 8-bit tensor."""


def clipped_ranges(
    graph: TransformGraph, feeds: Sequence[np.ndarray], ranges: Mapping[str, Range], weight: Tensor | None = None
) -> dict[str, Range]:
    """Choose each tensor's range for the least error of the transform's output.

    An error e of a value adds ``(g e)^2`` to the squared error of the output, to first order and on average over random signs
    s, where ``g = J^T s`` and J is the Jacobian. e is the rounding error within a range, and what is cut off beyond it. The
    norm of a GDN gains most: its largest values belong to small inputs, which they hardly change.

    Args:
        graph: a float transform.
        feeds: its inputs, ``(B, C, H, W)`` each.
        ranges: whole ranges of some tensors, 0 included.
        weight: weights of the squared errors of the output, of a shape that broadcasts with it; None: 1.
    """
    if not ranges:
        return {}
    generator = torch.Generator().manual_seed(0)
    errors = {name: torch.zeros(len(SHARES), dtype=torch.float64) for name in ranges}
    places = np.linspace(0, len(feeds) - 1, min(PICTURES, len(feeds))).round().astype(int)
    for feed in (feeds[place] for place in places):
        for name, (values, slopes) in _values_and_slopes(graph, feed, ranges, weight, generator).items():
            errors[name] += _errors(values, slopes, ranges[name])
    chosen = {name: SHARES[int(error.argmin())] for name, error in errors.items()}
    return {name: (share * ranges[name][0], share * ranges[name][1]) for name, share in chosen.items()}


def _values_and_slopes(
    graph: TransformGraph,
    feed: np.ndarray,
    names: Mapping[str, Range],
    weight: Tensor | None,
    generator: torch.Generator,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Some values of tensors, and the gradients of the output, with random signs, by them."""
    found: dict[str, Tensor] = {}

    def look(name: str, values: Tensor) -> Tensor:
        if name in names:
            found[name] = values
        return values

    with torch.enable_grad():
        shown = compute(graph, torch.from_numpy(feed).requires_grad_(True), each=look)
        signs = torch.randint(0, 2, shown.shape, generator=generator) * 2.0 - 1
        signs = signs if weight is None else signs * weight.sqrt()
        slopes = torch.autograd.grad((shown * signs).sum(), list(found.values()), allow_unused=True)
    result = {}
    for (name, values), slope in zip(found.items(), slopes, strict=True):
        if slope is not None:
            every = slice(None, None, -(-values.numel() // VALUES))
            result[name] = values.detach().flatten()[every], slope.flatten()[every]
    return result


def _errors(values: Tensor, slopes: Tensor, whole: Range) -> Tensor:
    """Error of the output with each of `SHARES` of the range of ``values: (N,)``; ``slopes`` by them."""
    found = []
    for share in SHARES:
        low, high = share * whole[0], share * whole[1]
        step = max((high - low) / STEPS, 1e-30)
        inside = values.clamp(low, high)
        found.append((((inside / step).round() * step - values) * slopes).square().sum(dtype=torch.float64))
    return torch.stack(found)
