"""Compute a transform leaf by leaf in two versions: float, and with the layers so far quantized."""

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from codecswap.graph.leaves import INPUT, Leaf, Leaves, leaves

CACHE_BYTES = 600_000_000
"""Most bytes of cached values between two layers; beyond that they are recomputed from an earlier layer."""
WIDE_STEPS = 65535
"""Steps of a 16-bit tensor."""
Values = dict[str, Any]
"""Outputs of leaves, by name."""


class FloatAndRounded:
    """Two versions of a transform's values, sample by sample.

    Tensors between layers, and the output, are rounded to ``steps`` steps of their range in
    float, which includes 0.

    Args:
        transform: the current weights are the float ones; they may be changed later.
        samples: inputs, ``(1, C, H, W)`` each.
        exact_input: do not round the input.
        float_layers: paths of layers whose outputs are not rounded (`is_inside`).
        wide_layers: paths of layers whose outputs are rounded to `WIDE_STEPS`.
        known_ranges: ranges of some leaves' outputs, by name; the others' are estimated.
    """

    def __init__(
        self,
        transform: nn.Module,
        samples: Sequence[Tensor],
        *,
        exact_input: bool,
        steps: int,
        float_layers: Collection[str] = (),
        wide_layers: Collection[str] = (),
        known_ranges: Mapping[str, tuple[float, float]] = MappingProxyType({}),
    ) -> None:
        self.tree, self.float_tree = leaves(transform), leaves(copy.deepcopy(transform))
        self.last_use = {name: place for place, leaf in enumerate(self.tree.steps) for name in leaf.inputs}
        rounded = {leaf.name for leaf in self.tree.steps if _is_rounded(leaf, self.tree, float_layers)}
        ranges = self._ranges(samples, rounded if exact_input else {*rounded, INPUT})
        ranges |= {name: one for name, one in known_ranges.items() if name in ranges}
        wide = {leaf.name for leaf in self.tree.steps if is_inside(leaf.layer, wide_layers)}
        self.step = {
            name: max(high - low, 1e-12) / (WIDE_STEPS if name in wide else steps)
            for name, (low, high) in ranges.items()
        }
        # for each sample: index of the next leaf, and the values that later leaves read, float and rounded
        self.cache = [(0, {INPUT: x}, {INPUT: self._rounded(INPUT, x)}) for x in samples]

    def at(self, place: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The rounded input and the float output of the leaf at ``place``, for each sample.

        Places must be in ascending order; weights of earlier leaves must not change any more.
        """
        leaf, exact_leaf = self.tree.steps[place], self.float_tree.steps[place]
        for number, (start, exact, rounded) in enumerate(self.cache):
            exact, rounded = dict(exact), dict(rounded)
            for at in range(start, place):
                self._compute(self.float_tree.steps[at], at, exact)
                name = self._compute(self.tree.steps[at], at, rounded)
                rounded[name] = self._rounded(name, rounded[name])
            if len(self.cache) * (_bytes(exact) + _bytes(rounded)) <= CACHE_BYTES:
                self.cache[number] = (place, exact, rounded)
            yield rounded[leaf.inputs[0]], exact_leaf.compute(exact)

    def _compute(self, leaf: Leaf, place: int, values: Values) -> str:
        """Add a leaf's output to ``values``, and remove values that no later leaf reads; returns its name."""
        values[leaf.name] = leaf.compute(values)
        for name in set(leaf.inputs):
            if self.last_use[name] == place:
                del values[name]
        return leaf.name

    def _rounded(self, name: str, x: Any) -> Any:
        step = self.step.get(name)
        return x if step is None else torch.round(x / step) * step

    def _ranges(self, samples: Sequence[Tensor], names: Collection[str]) -> dict[str, tuple[float, float]]:
        """Smallest and largest float value of some outputs; the range includes 0."""
        found = dict.fromkeys(names, (0.0, 0.0))
        for x in samples:
            values: Values = {INPUT: x}
            for place, leaf in enumerate((None, *self.float_tree.steps)):
                name = INPUT if leaf is None else self._compute(leaf, place - 1, values)
                if name in found:
                    low, high = found[name]
                    found[name] = min(low, values[name].min().item()), max(high, values[name].max().item())
        return found


def is_inside(path: str, layers: Collection[str]) -> bool:
    """Whether a module's path is one of ``layers``, or inside one of them."""
    return any(path == layer or path.startswith(f"{layer}.") for layer in layers)


def _is_rounded(leaf: Leaf, tree: Leaves, float_layers: Collection[str]) -> bool:
    readers = [reader for reader in tree.consumers(leaf.name) if reader.layer != leaf.layer]
    if is_inside(leaf.layer, float_layers):
        return False
    # devices round after a ReLU, not before it
    return leaf.name == tree.output or not all(isinstance(reader.module, nn.ReLU) for reader in readers)


def _bytes(values: Mapping[str, Any]) -> int:
    return sum(one.nbytes for one in values.values() if isinstance(one, Tensor))
