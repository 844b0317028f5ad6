"""Copies of costly channels, which are rounded separately.

Few channels carry most of the error: those with a wide range that all later layers read. Such a channel becomes two of half
the weight (Zhao et al., "Improving neural network quantization without retraining using outlier channel splitting", 2019).
Their values are half a rounding step apart, so that their mean has half the step. A copy costs one channel's multiply-adds in
the convolutions before and after it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn

from codecswap.graph.leaves import INPUT, Leaves, leaves
from codecswap.graph.lower import LoweredGDN
from codecswap.quantize.equalize import around_gdns
from codecswap.quantize.gains import output_metrics
from codecswap.quantize.signals import Signals

Convolution = nn.Conv2d | nn.ConvTranspose2d
STEPS = 255
"""Steps of an 8-bit tensor."""
MOST = 4
"""Largest number of copies of a channel."""


@dataclass
class _Chain:
    """A convolution, a GDN and a convolution, with what each channel between them costs."""

    before: Convolution
    gdn: LoweredGDN
    after: Convolution
    repeated: int
    """Outputs of ``before`` for each channel: those of a PixelShuffle."""
    work: float
    """Multiply-adds of a copy, in shares of the transform's."""
    signal: Tensor
    """Error of each channel's rounding before the GDN, ``(C,)``."""
    product: Tensor
    """Error of each channel's rounding after the GDN."""
    counts: Tensor
    """Number of copies of each channel."""
    step: float
    """Rounding step before the GDN."""

    def gain(self) -> Tensor:
        """Error that one more copy of each channel removes, ``(C,)``."""
        now, more = self.counts, self.counts + 1
        found = self.signal * (1 / now**2 - 1 / more**2) + self.product * (1 / now - 1 / more)
        return torch.where(now < MOST, found, torch.zeros_like(found))

    def apply(self) -> None:
        """Copy the channels, as `counts` says; first copies keep their places."""
        channels = torch.arange(len(self.counts))
        index, offset = [channels], [(1 - self.counts) / 2]
        for more in range(1, int(self.counts.max())):
            chosen = channels[self.counts > more]
            index.append(chosen)
            offset.append(more + (1 - self.counts[chosen]) / 2)
        places = torch.cat(index)
        share = (1 / self.counts)[places]
        # copies of a mean's step apart, and one step more, so that their products with a root are rounded differently, too
        moved = torch.cat(offset) * (1 + share) * self.step * (self.counts[places] > 1)
        phases = torch.arange(self.repeated)
        _take_outputs(self.before, (places[:, None] * self.repeated + phases).flatten())
        assert self.before.bias is not None
        self.before.bias += moved.repeat_interleave(self.repeated)
        _take_outputs(self.gdn.norm, places)
        _take_inputs(self.gdn.norm, places, share)
        _take_inputs(self.after, places, share)


@torch.no_grad()
def copy_channels(
    transform: nn.Module,
    samples: Sequence[Tensor],
    share: float,
    signals: Mapping[str, Signals] = MappingProxyType({}),
) -> dict[str, int]:
    """Copy the channels that gain most for their multiply-adds, in place; the function does not change.

    Args:
        transform: an equalized lowered transform.
        samples: its inputs, ``(1, C, H, W)``.
        share: multiply-adds that copies may add, in shares of the transform's.
        signals: how the tensors around some GDNs are rounded; the steps of the others are those of their ranges.

    Returns: the number of copies that were added, by the path of the GDN.
    """
    tree = leaves(transform)
    chains = _chains(transform, tree, samples, signals)
    spent, added = 0.0, dict.fromkeys(chains, 0)
    while True:
        gains = {path: (chain.gain() / chain.work).max(0) for path, chain in chains.items()}
        gains = {path: one for path, one in gains.items() if spent + chains[path].work <= share and one.values > 0}
        if not gains:
            break
        path = max(gains, key=lambda one: gains[one].values.item())
        chains[path].counts[gains[path].indices] += 1
        added[path] += 1
        spent += chains[path].work
    for path, chain in chains.items():
        if added[path]:
            chain.apply()
    return {path: number for path, number in added.items() if number}


def _chains(
    transform: nn.Module, tree: Leaves, samples: Sequence[Tensor], signals: Mapping[str, Signals]
) -> dict[str, _Chain]:
    """All places for copies, by the path of the GDN."""
    pairs = around_gdns(transform, tree)
    if not pairs:
        return {}
    names = [one.tensor for pair in pairs.values() for one in pair]
    metrics, steps, work = output_metrics(tree, samples, names), _steps(tree, samples, names), _work(tree, samples[0])
    for one in signals.values():
        steps |= {name: (high - low) / STEPS for name, (low, high) in one.ranges.items() if name in steps}
    made = {}
    for path, (first, second) in pairs.items():
        before: Any = first.source.module
        gdn: Any = first.sink.module
        signal, product = (metrics[one.tensor].diagonal() * steps[one.tensor] ** 2 for one in (first, second))
        if path in signals:
            product = product * signals[path].repeated
        share = (work[first.source.path] + work[second.sink.path] + 2 * work[f"{path}.norm"]) / len(signal)
        made[path] = _Chain(
            before,
            gdn,
            cast(Convolution, second.sink.module),
            before.out_channels // len(signal),
            share / sum(work.values()),
            signal,
            product,
            torch.ones(len(signal)),
            steps[first.tensor],
        )
    return made


def _steps(tree: Leaves, samples: Sequence[Tensor], names: Collection[str]) -> dict[str, float]:
    """Rounding steps of some tensors of 8 bits."""
    low, high = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for x in samples:
        values = tree.compute(x)
        for name in names:
            low[name] = min(low[name], values[name].min().item())
            high[name] = max(high[name], values[name].max().item())
    return {name: (high[name] - low[name]) / STEPS for name in names}


def _work(tree: Leaves, x: Tensor) -> dict[str, float]:
    """Multiply-adds of each convolution, by its path."""
    values = {INPUT: x} | tree.compute(x)
    found: dict[str, float] = {}
    for leaf in tree.steps:
        if isinstance(conv := leaf.module, Convolution):
            places = values[leaf.name if isinstance(conv, nn.Conv2d) else leaf.inputs[0]].shape[2:]
            found[leaf.path] = found.get(leaf.path, 0.0) + float(conv.weight.numel() * places.numel())
    return found


def _take_outputs(conv: Convolution, places: Tensor) -> None:
    assert conv.bias is not None
    axis = int(isinstance(conv, nn.ConvTranspose2d))
    conv.weight = nn.Parameter(conv.weight.index_select(axis, places), requires_grad=False)
    conv.bias = nn.Parameter(conv.bias[places], requires_grad=False)
    conv.out_channels = len(places)


def _take_inputs(conv: Convolution, places: Tensor, share: Tensor) -> None:
    axis = int(isinstance(conv, nn.Conv2d))
    shape = [1, -1, 1, 1] if axis else [-1, 1, 1, 1]
    conv.weight = nn.Parameter(conv.weight.index_select(axis, places) * share.view(shape), requires_grad=False)
    conv.in_channels = len(places)
