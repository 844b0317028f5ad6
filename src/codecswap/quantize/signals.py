"""Scales of the channels around inverse GDNs, and ranges of these tensors, for the least error of the picture.

Equalization (`codecswap.quantize.equalize`) gives each channel its largest value on the calibration pictures. Here each channel
gets the range with the least sum of rounding error and of what is cut off, and other pictures are asked, too: `varied` ones, of
stronger colors and contrast, since colors of 13 pictures say little about those of others.

The square roots of many channels are nearly constant. If a channel has such a scale that its usual root is exactly 1, and the
same step before and after the GDN, then the product is the integer that the signal was, and is not rounded again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codecswap.graph.leaves import Leaves, leaves
from codecswap.quantize.clipping import Range
from codecswap.quantize.equalize import Scaling, around_gdns, rescale_around
from codecswap.quantize.gains import values_and_slopes

STEPS = 255
"""Steps of an 8-bit tensor."""
SCALES = torch.arange(0.3, 3.0, 0.05, dtype=torch.float64)
"""Ranges that are tried, in shares of the largest value on the calibration pictures."""
BINS, MOST = 400, 4.0
"""Number of bins of a channel's values, and the largest one, in the same shares."""
LEVELS = (231, 203, 171, 127, 85)
"""Integers that may stand for a root of 1, of 255; odd, so that no product is exactly between two integers."""
DRAWN = 256
"""Positions of each picture at which the rounding of products is looked at."""
SATURATION, CONTRAST = 2.0, 1.6
"""Factors of `varied` pictures."""


@dataclass(frozen=True)
class Signals:
    """How the tensors around an inverse GDN are rounded."""

    leaves: tuple[str, ...]
    """Leaves before and after it that have the same range."""
    root: str
    """Leaf that computes its square root."""
    range: Range
    """Range of ``leaves``."""
    root_range: Range
    """Range of ``root``; 1 is a whole number of its steps."""
    repeated: Tensor
    """Share of each channel's products that is rounded again, ``(C,)``: 0 where they are integers already, else 1."""

    @property
    def ranges(self) -> dict[str, Range]:
        """Ranges by leaf."""
        return dict.fromkeys(self.leaves, self.range) | {self.root: self.root_range}


def varied(pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The pictures ``(3, H, W)`` in [0, 1] with more saturation, more contrast or permuted colors, in turn."""
    made = []
    for index, picture in enumerate(pictures):
        gray = picture.mean(0, keepdims=True)
        changed = (
            gray + SATURATION * (picture - gray),
            0.5 + CONTRAST * (picture - 0.5),
            np.roll(picture, 1 + index // 3 % 2, 0),
        )[index % 3]
        made.append(np.ascontiguousarray(changed.clip(0, 1), np.float32))
    return made


class _Seen:
    """How the error of the picture grows with errors of a tensor, ``(B, C, H, W)``, and with limits to its values.

    As in `codecswap.quantize.clipping`, an error counts by the squared gradient of the output.
    """

    def __init__(self, channels: int) -> None:
        self.moments = torch.zeros(3, channels, BINS, dtype=torch.float64)
        self.gain = torch.zeros(channels, dtype=torch.float64)

    def add(self, values: Tensor, slopes: Tensor, weight: float) -> None:
        """Add the values ``(1, C, H, W)`` of one picture, and the gradients of the output by them."""
        sizes, energy = values[0].flatten(1).abs(), slopes[0].flatten(1).square() * weight
        self.gain += energy.sum(1, dtype=torch.float64)
        rows, columns = (sizes > SCALES[0]).nonzero(as_tuple=True)  # few; the others are never cut off
        far, energy = sizes[rows, columns].double(), energy[rows, columns].double()
        place = rows * BINS + (far * (BINS / MOST)).long().clamp_max(BINS - 1)
        for power, moment in enumerate(self.moments):
            moment.view(-1).index_add_(0, place, energy * far**power)

    def rounding(self, limits: Tensor) -> Tensor:
        """Error from rounding with ranges of +-``limits: (C, S)``."""
        return self.gain[:, None] * (2 * limits / STEPS).square() / 12

    def cut(self, limits: Tensor) -> Tensor:
        """Error from cutting values off at +-``limits: (C, S)``."""
        beyond = self.moments.flip(2).cumsum(2).flip(2)
        place = (limits * (BINS / MOST)).round().long().clamp(0, BINS - 1)
        energy, first, second = (one.gather(1, place) for one in beyond)
        return (second - 2 * limits * first + limits**2 * energy).clamp_min(0)

    def error(self, limits: Tensor) -> Tensor:
        """Error from both."""
        return self.rounding(limits) + self.cut(limits)


@torch.no_grad()
def fit_signals(transform: nn.Module, samples: Sequence[Tensor], others: Sequence[Tensor] = ()) -> dict[str, Signals]:
    """Choose the scales around each inverse GDN, in place; the function does not change.

    Args:
        transform: an equalized lowered transform.
        samples: its inputs, ``(1, C, H, W)``.
        others: inputs of other pictures, which count as much for what is cut off.

    Returns: how to round the tensors, by the GDN's path.
    """
    tree = leaves(transform)
    pairs = _pairs(transform, tree)
    if not pairs:
        return {}
    names = [one.tensor for pair in pairs.values() for one in pair]
    generator = torch.Generator().manual_seed(0)
    seen: dict[str, _Seen] = {}
    drawn: dict[str, list[list[Tensor]]] = {path: [] for path in pairs}
    highest = {path: torch.zeros(1) for path in pairs}
    for number, x in enumerate([*samples, *others]):
        known = number < len(samples)
        weight = 1 / len(samples if known else others) / (2 if others else 1)
        found = values_and_slopes(tree, x, names, None, generator)
        for name, (values, slopes) in found.items():
            seen.setdefault(name, _Seen(values.shape[1])).add(values, slopes, weight)
        for path, (first, second) in pairs.items() if known else ():
            gdn: Any = first.sink.module
            signal, slopes = found[first.tensor][0], found[second.tensor][1]
            root = gdn.norm(signal * signal).sqrt()
            highest[path] = torch.maximum(highest[path], root.amax((0, 2, 3)))
            places = torch.randint(0, root[0, 0].numel(), (DRAWN,), generator=generator)
            some = [values[0].flatten(1)[:, places].double() for values in (signal, root, slopes)]
            some[2] = some[2].square() * (root[0, 0].numel() / DRAWN / len(samples))  # sums are those of all positions
            drawn[path].append(some)
    made = {}
    for path, (first, second) in pairs.items():
        signal, root, energy = (torch.cat(parts, 1) for parts in zip(*drawn[path], strict=True))
        products = _Products(signal, root, energy, highest[path].double())
        choices = [_choose(seen[first.tensor], seen[second.tensor], products, STEPS / level) for level in LEVELS]
        best = min(choices, key=lambda one: one.error)
        rescale_around(first, second, best.inside.float(), best.outside.float())
        product = next(leaf for leaf in first.sink.steps if leaf.name == first.sink.output)
        root_leaf = next(name for name in product.inputs if name != first.tensor)
        around = (first.source.output, *(one.output for one in first.passed), second.tensor)
        made[path] = Signals(around, root_leaf, (-1.0, 1.0), (0.0, best.highest), best.repeated.float())
    return made


@dataclass(frozen=True)
class _Products:
    """Values from which a GDN's products are computed, drawn from the calibration pictures."""

    signal: Tensor
    root: Tensor
    energy: Tensor
    """Squared gradients of the output by the products; all are ``(C, N)``."""
    highest: Tensor
    """Largest root of each channel, ``(C,)``."""

    def repeated(self, usual: Tensor, highest: float) -> Tensor:
        """Share of the error of rounding that products of the scale ``1 / usual`` have, ``(C,)``."""
        integers = (self.signal * (STEPS / 2)).round()
        level = STEPS / highest
        exact = integers * (self.root / usual[:, None] * level).round() / level
        errors = 12 * (exact - exact.round()).square()
        return (errors * self.energy).sum(1) / self.energy.sum(1).clamp_min(1e-30)

    def of_roots(self, inside: Tensor, outside: Tensor, highest: float) -> Tensor:
        """Error from rounding norms and roots, ``(C,)``."""
        scale = (outside / inside)[:, None]
        root, step = self.root / scale, highest**2 / STEPS
        of_norm = step**2 / 48 / root.square().clamp_min(step / 4)  # the slope of a root is 1 / (2 root)
        return ((self.signal * scale).square() * self.energy * ((highest / STEPS) ** 2 / 12 + of_norm)).sum(1)


@dataclass(frozen=True)
class _Choice:
    """Scales around a GDN."""

    inside: Tensor
    """Range of each channel before the GDN."""
    outside: Tensor
    """Range of each channel after it."""
    repeated: Tensor
    """As in `Signals`."""
    highest: float
    """End of the range of the roots."""
    error: float
    """Error of the picture."""


def _choose(before: _Seen, after: _Seen, products: _Products, highest: float) -> _Choice:
    """The best ranges of all channels if roots go up to ``highest``."""
    scales = SCALES.expand(len(before.gain), -1)
    # the product has the integer of the signal, where the root is the usual one
    usual = products.root.median(1).values.clamp_min(1e-6)
    repeated = products.repeated(usual, highest)
    limits = scales * usual[:, None]
    aligned, place = (before.error(scales) + after.cut(limits) + repeated[:, None] * after.rounding(limits)).min(1)
    aligned = aligned + products.of_roots(SCALES[place], SCALES[place] * usual, highest)
    aligned = torch.where(products.highest > usual * highest, torch.inf, aligned)
    inside = SCALES[before.error(scales).argmin(1)]
    outside = torch.maximum(SCALES[after.error(scales).argmin(1)], inside * products.highest / highest)
    free = before.error(inside[:, None])[:, 0] + after.error(outside[:, None])[:, 0]
    free = free + products.of_roots(inside, outside, highest)
    chosen = aligned < free
    return _Choice(
        torch.where(chosen, SCALES[place], inside),
        torch.where(chosen, SCALES[place] * usual, outside),
        torch.where(chosen, repeated, 1.0),
        highest,
        torch.minimum(aligned, free).sum().item(),
    )


def _pairs(transform: nn.Module, tree: Leaves) -> dict[str, tuple[Scaling, Scaling]]:
    """The scalings before and after each inverse GDN between two convolutions, by its path."""
    gdns: dict[str, Any] = dict(transform.named_modules())
    pairs = around_gdns(transform, tree)
    return {path: pair for path, pair in pairs.items() if gdns[path].inverse and not gdns[path].reciprocal}
