"""Quantize to a budget: the cheapest remedies with which a quantized codec loses at most so many dB.

The model is linear: errors of tensors are small, so that their energies at the output add up. Each tensor's energy is measured
alone (`codecswap.quantize.sensitivity`), in shares of the codec's own distortion, and each remedy (`REMEDIES`) of a layer
removes some of them and costs multiply-adds. The sets of remedies that are best for some price of a multiply-add are the
frontier. Candidates from it are quantized, and decode pictures that nothing was fitted to; only what that confirms is taken.
"""

import copy
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codecswap.codecs.protocol import Codec, encode
from codecswap.config import Form, Part
from codecswap.errors import UserError
from codecswap.metrics import psnr, to_8_bits
from codecswap.quantize.codec import (
    QuantizedCodec,
    QuantizedNetwork,
    Samples,
    for_training,
    layer_names,
    quantize,
    trainable,
)
from codecswap.quantize.gains import DECIBELS, latent_weight
from codecswap.quantize.ranges import MOVING
from codecswap.quantize.scheme import FLOAT, REMEDIES, SPLIT, WIDE, Frontier, Point, Scheme
from codecswap.quantize.sensitivity import WEIGHTS, Cost, costs
from codecswap.quantized.compute import compute
from codecswap.quantized.representation import TransformGraph
from codecswap.quantized.synthesis import QuantizedSynthesis
from codecswap.swaps.closed_form import PERCENT

PICTURES = 4
"""Number of calibration pictures on which errors of single tensors are measured."""
CONFIRMED = 8
"""Number of held-out pictures that candidates decode."""
LARGEST_SIDE = 512
"""Held-out pictures are cut to this many pixels per side."""
CANDIDATES = 6
"""Largest number of sets of remedies that are quantized."""
STEPS = 41
"""Number of prices of a multiply-add for which the best remedies are searched."""
LONGEST_RUN = 8
"""Longest run of layers that the search changes at once: a tensor stays in float only if all layers at it do."""
LESS = 0.97
"""A dearer set of remedies is on the frontier if it loses at most this share of what the cheaper one does."""


@dataclass(frozen=True)
class Budget:
    """What a quantized codec may lose, and what it may cost; None: no limit."""

    loss: float | None = None
    """Loss in dB on held-out pictures, against the float codec; 1 % more bits count as `PERCENT` dB."""
    cost: float | None = None
    """Cost in shares of the plain scheme's, e.g. 1.2."""

    @classmethod
    def of(cls, loss: float | str | None, cost: float | str | None) -> "Budget":
        """A budget from numbers, or from words: ``0.1`` (dB), ``1%`` (of the bits), ``1.2x``."""
        share = str(loss).endswith("%")
        number = None if loss is None else float(str(loss).rstrip("%")) * (PERCENT if share else 1)
        return cls(number, None if cost is None else float(str(cost).rstrip("x")))

    def __str__(self) -> str:
        limits = [f"at most {self.loss:g} dB" if self.loss is not None else ""]
        limits.append(f"at most {self.cost:g} times the cost" if self.cost is not None else "")
        return " for ".join(filter(None, limits))

    def holds(self, point: Point) -> bool:
        """Whether a measured point is within it."""
        assert point.loss is not None
        return (self.loss is None or point.loss <= self.loss) and (self.cost is None or point.cost <= self.cost)


@torch.no_grad()
def search(
    codec: Codec,
    samples: Samples,
    held_out: Iterable[np.ndarray],
    scheme: Scheme,
    budget: Budget,
    *,
    prices: Mapping[str, float],
    part: Part = "decoder",
    form: Form = "native",
    size: tuple[int, int] | None = None,
    cycles: tuple[Mapping[str, float], Mapping[str, float]] | None = None,
    advance: Callable[[int], None] = lambda steps: None,
) -> QuantizedCodec:
    """Find the cheapest remedies that hold a budget, and quantize with them.

    If nothing holds it, the result is the one that loses least.

    Args:
        codec: a float codec; it is not changed.
        samples, scheme, part, form, size: as in `codecswap.quantize.codec.quantize`.
        held_out: pictures ``(3, H, W)`` that are not among the samples, float32 in [0, 1], sides multiples of `Codec.multiple`.
        prices: cost of a multiply-add with each remedy that the target has, by name, in shares of the scheme's own.
        cycles: a compiler's estimate for each layer, in the scheme and in float; None: multiply-adds.
        advance: called with 1 after each candidate, at most `CANDIDATES` times.

    Raises:
        UserError: the decoder is quantized already, or there is no held-out picture.
    """
    if isinstance(codec.g_s, QuantizedSynthesis):
        raise UserError(
            "This decoder was trained in integers, which fixes its remedies: leave out --max_loss and --max_cost."
        )
    pictures = [
        _cut(torch.from_numpy(one)[None], codec.multiple) for _, one in zip(range(CONFIRMED), held_out, strict=False)
    ]
    if not pictures:
        raise UserError("A budget needs pictures that nothing was calibrated on: name a folder with --images.")
    judge, tried = _Judge(codec, pictures), {}

    def measured(point: Point) -> Point:
        if point.remedies not in tried:
            chosen = replace(scheme, remedies=point.remedies)
            made = quantize(codec, samples, chosen, part=part, form=form, size=size)
            tried[point.remedies] = (made, replace(point, loss=judge.loss(made)))
            advance(1)
        return tried[point.remedies][1]

    plain = measured(Point((), 1.0, 0.0))
    networks = tried[()][0].networks
    tensors = [one for name, network in networks.items() for one in _tensors(codec, samples, name, network)]
    work: dict[str, float] = {}
    for network in networks.values():
        work |= _multiply_adds(network.transform)
    known_prices = {name: price for name, price in prices.items() if name in REMEDIES}
    model = _Model(tensors, *(cycles or (work, {})), known_prices, layer_names(codec))
    points = model.frontier()
    tried[()] = (tried[()][0], replace(points[0], loss=plain.loss))
    best = _choose(points, measured, budget)
    known = tuple(tried[point.remedies][1] if point.remedies in tried else point for point in points)
    shares = tuple((one.layer, one.tensor, DECIBELS * one.mse) for one in tensors)
    found = Frontier(known, best, budget.holds(best), str(budget), shares, len(pictures))
    return replace(tried[best.remedies][0], frontier=found)


def decoder_to_budget(
    codec: Codec,
    pictures: Sequence[np.ndarray],
    held_out: Sequence[np.ndarray],
    scheme: Scheme,
    budget: Budget,
    *,
    prices: Mapping[str, float],
    form: Form = "native",
    target: str | None = None,
) -> tuple[QuantizedSynthesis, Frontier]:
    """As `codecswap.quantize.codec.quantized_decoder`, with the remedies that hold a budget (`search`)."""
    samples, form = for_training(codec, pictures, form)
    made = search(codec, samples, held_out, scheme, budget, prices=prices, form=form)
    assert made.frontier
    return trainable(codec, made, target), made.frontier


def _choose(points: Sequence[Point], measured: Callable[[Point], Point], budget: Budget) -> Point:
    """The cheapest point that is measured to hold the budget; else the one with the least loss that is not too dear."""
    allowed = [point for point in points if budget.cost is None or point.cost <= budget.cost + 1e-9]
    found = {0: measured(allowed[0])}
    if budget.loss is None and budget.cost is None:
        return found[0]
    if budget.loss is None:
        best = measured(allowed[-1])
        return min(found[0], best, key=lambda point: (point.loss, point.cost))
    for _ in range(CANDIDATES - 1):
        good = [place for place, point in found.items() if budget.holds(point)]
        bad = [place for place, point in found.items() if not budget.holds(point)]
        low, high = max(bad, default=-1), min(good, default=len(allowed))
        if low >= high - 1:
            break
        # the model's scale comes from the measured point with the least loss
        nearest = found[max(found)] if not good else found[high]
        scale = (nearest.loss or 0) / nearest.predicted if nearest.predicted > 0 else 1
        between = range(low + 1, high)
        fits = [place for place in between if allowed[place].predicted * scale <= budget.loss]
        place = fits[0] if fits else high - 1
        found[place] = measured(allowed[place])
    held = [point for point in found.values() if budget.holds(point)]
    if held:
        return min(held, key=lambda point: point.cost)
    return min(found.values(), key=lambda point: (point.loss, point.cost))


@dataclass(frozen=True)
class _Model:
    """Errors and multiply-adds of layers, and what remedies change."""

    tensors: Sequence[Cost]
    """Their errors are in shares of the distortion."""
    work: Mapping[str, float]
    """Multiply-adds or cycles of each layer."""
    in_float: Mapping[str, float]
    """The same of layers in float, where it is known better than by the price."""
    prices: Mapping[str, float]
    known: Collection[str]
    """Layers of the codec."""

    @cached_property
    def layers(self) -> list[str]:
        """Layers that may have remedies, in order of execution."""
        return [layer for layer in dict.fromkeys(one.layer for one in self.tensors) if layer in self.known]

    def loss(self, chosen: Mapping[str, str]) -> float:
        """Loss in dB with remedies by layer."""
        return DECIBELS * math.log1p(sum(one.mse for one in self.tensors if not self._removed(one, chosen)))

    def _removed(self, one: Cost, chosen: Mapping[str, str]) -> bool:
        remedy = chosen.get(one.layer)
        if one.tensor == WEIGHTS:
            return remedy in (SPLIT, FLOAT)
        return remedy == WIDE or all(chosen.get(layer) == FLOAT for layer in one.touching)

    def cost(self, chosen: Mapping[str, str]) -> float:
        """Multiply-adds or cycles in shares of the plain scheme's."""
        total = 0.0
        for layer, work in self.work.items():
            remedy = chosen.get(layer)
            priced = work * (self.prices[remedy] if remedy else 1)
            total += self.in_float.get(layer, priced) if remedy == FLOAT else priced
        return total / sum(self.work.values())

    def frontier(self) -> list[Point]:
        """The best remedies found, from none to the least loss; costs rise and losses fall."""
        chosen: dict[str, str] = {}
        found = {(): Point((), 1.0, self.loss({}))}
        for price in np.geomspace(100, 1e-4, STEPS):  # in dB for the work of the plain scheme
            chosen = self._descend(chosen, float(price), found)
        result = [found[()]]
        for point in sorted(found.values(), key=lambda point: (point.cost, point.predicted, point.remedies)):
            if point.predicted < result[-1].predicted * LESS - 1e-6:
                result.append(point)
        return result

    def _descend(self, chosen: dict[str, str], price: float, found: dict[Any, Point]) -> dict[str, str]:
        """Change runs of layers while that lowers loss plus ``price`` times cost; all that is tried goes to ``found``."""

        def total(candidate: Mapping[str, str]) -> float:
            remedies = tuple(sorted(candidate.items()))
            if remedies not in found:
                found[remedies] = Point(remedies, self.cost(candidate), self.loss(candidate))
            return found[remedies].predicted + price * found[remedies].cost

        best, improved = total(chosen), True
        while improved:
            improved = False
            for start in range(len(self.layers)):
                for stop in range(start + 1, min(start + LONGEST_RUN, len(self.layers)) + 1):
                    for remedy in (None, *self.prices):
                        run = dict.fromkeys(self.layers[start:stop], remedy)
                        candidate = {layer: one for layer, one in (chosen | run).items() if one}
                        if (value := total(candidate)) < best - 1e-9:
                            best, chosen, improved = value, candidate, True
        return chosen


class _Judge:
    """Measures what quantized networks lose on pictures.

    Args:
        pictures: ``(1, 3, H, W)`` in [0, 1].
    """

    def __init__(self, codec: Codec, pictures: Sequence[Tensor]) -> None:
        self.codec, self.pictures = codec, pictures
        self.latents = [encode(codec, x) for x in pictures]
        self.psnr = self._psnr(codec, self.latents)
        self.bits = self._bits(self.latents)

    def loss(self, made: QuantizedCodec) -> float:
        """Mean loss in dB, the change of the bits included."""
        networks = {name: network.transform for name, network in made.networks.items()}
        codec, latents, lost = copy.copy(self.codec), self.latents, 0.0
        codec._modules = dict(self.codec._modules)  # so that the codec itself is not changed
        if "encoder" in networks:
            codec.g_a = _Computed(networks["encoder"])
            latents = [encode(codec, x) for x in self.pictures]
            lost = 100 * PERCENT * (self._bits(latents) / self.bits - 1)
        if "decoder" in networks:
            codec.g_s = trainable(self.codec, made)
        return lost + self.psnr - self._psnr(codec, latents)

    def _psnr(self, codec: Codec, latents: Sequence[Tensor]) -> float:
        pairs = zip(latents, self.pictures, strict=True)
        return float(np.mean([psnr(to_8_bits(codec.g_s(y)), x).item() for y, x in pairs]))

    def _bits(self, latents: Sequence[Tensor]) -> float:
        return sum(self.codec.bits(y).item() for y in latents)


class _Computed(nn.Module):
    """A transform as a module."""

    def __init__(self, transform: TransformGraph) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, x: Tensor) -> Tensor:
        return compute(self.transform, x)


def _tensors(codec: Codec, samples: Samples, part: str, network: QuantizedNetwork) -> list[Cost]:
    """Errors of a network's tensors at the picture, in shares of the distortion."""
    places = np.linspace(0, len(network.feeds) - 1, min(PICTURES, len(network.feeds))).round().astype(int)
    feed = np.concatenate([network.feeds[place] for place in places])
    x = torch.from_numpy(np.stack([samples.pictures[place] for place in places]))
    assert network.float_transform is not None
    weight = _picture_weight(network.float_transform, feed, x) if part == "decoder" else latent_weight(codec, x)
    found = costs(network.float_transform, network.transform, feed, weight)
    if part == "encoder":
        return found
    picture = _picture(network.transform)  # it is rounded to 8 bits anyway
    return [one for one in found if one.tensor == WEIGHTS or one.name not in picture]


def _picture(graph: TransformGraph) -> set[str]:
    """The output, and tensors of the same values that are only moved to become it."""
    made, found = {step.output: step for step in graph.operations}, [graph.output]
    while (step := made.get(found[-1])) and step.operator in MOVING:
        found.append(step.inputs[0])
    return set(found)


def _picture_weight(transform: TransformGraph, feed: np.ndarray, x: Tensor) -> Tensor:
    """``(B, 1, 1, 1)``: one over each picture's distortion."""
    shown = compute(transform, torch.from_numpy(feed))
    return 1 / (to_8_bits(shown) - x).square().mean((1, 2, 3), keepdim=True).clamp_min(1e-12)


def _multiply_adds(graph: TransformGraph) -> dict[str, float]:
    """Multiply-adds of each layer's convolutions, for one size."""
    shape = tuple(
        side if isinstance(side, int) else 1 if axis == 0 else 64 for axis, side in enumerate(graph.input_shape)
    )
    sizes: dict[str, torch.Size] = {}

    def look(name: str, x: Tensor) -> Tensor:
        sizes[name] = x.shape
        return x

    compute(graph, torch.empty(shape, device="meta"), each=look)
    found: dict[str, float] = {}
    for step in graph.operations:
        found.setdefault(step.layer, 0.0)
        if step.operator in ("Conv", "ConvTranspose"):
            places = sizes[step.output if step.operator == "Conv" else step.inputs[0]]
            found[step.layer] += math.prod(places[2:]) * graph.constants[step.inputs[1]].values.size
    return found


def _cut(x: Tensor, multiple: int) -> Tensor:
    """The center of ``x: (1, 3, H, W)``, of at most `LARGEST_SIDE` pixels per side, multiples of ``multiple``."""
    sides = [min(side, LARGEST_SIDE) // multiple * multiple for side in x.shape[-2:]]
    top, left = ((side - kept) // 2 for side, kept in zip(x.shape[-2:], sides, strict=True))
    return x[..., top : top + sides[0], left : left + sides[1]]
