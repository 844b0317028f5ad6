"""A transform walked leaf by leaf, twice: in float, and as it will be with the layers so far quantized."""

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from codecswap.graph.leaves import INPUT, Leaf, Leaves, leaves

KEPT_BYTES = 600_000_000
"""Of values that are kept between two layers; where they would be more, they are computed again from further back."""
Values = dict[str, Any]
"""Outputs of leaves, by name."""


class FloatAndRounded:
    """Two versions of a transform's values, sample by sample.

    What a layer gives to another, or puts out of the transform, is rounded to ``steps`` steps of the range that it has in
    float, zero among them.

    Args:
        transform: its weights may change while it is walked; those that it has now are the float ones.
        samples: ``(1, C, H, W)`` each.
        exact_input: what goes in is not rounded.
        float_layers: paths of layers whose outputs are not rounded (`is_inside`).
    """

    def __init__(
        self,
        transform: nn.Module,
        samples: Sequence[Tensor],
        *,
        exact_input: bool,
        steps: int,
        float_layers: Collection[str] = (),
    ) -> None:
        self.tree, self.float_tree = leaves(transform), leaves(copy.deepcopy(transform))
        self.last_use = {name: place for place, leaf in enumerate(self.tree.steps) for name in leaf.inputs}
        rounded = {leaf.name for leaf in self.tree.steps if _is_rounded(leaf, self.tree, float_layers)}
        ranges = self._ranges(samples, rounded if exact_input else {*rounded, INPUT})
        self.step = {name: max(high - low, 1e-12) / steps for name, (low, high) in ranges.items()}
        # of each sample: the leaf that comes next, what it and those after it read in float, and the same rounded
        self.kept = [(0, {INPUT: x}, {INPUT: self._rounded(INPUT, x)}) for x in samples]

    def at(self, place: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The rounded input of the leaf at ``place``, and its float output, of every sample.

        Places are asked for in ascending order, and weights of leaves before one do not change any more.
        """
        leaf, exact_leaf = self.tree.steps[place], self.float_tree.steps[place]
        for number, (start, exact, rounded) in enumerate(self.kept):
            exact, rounded = dict(exact), dict(rounded)
            for at in range(start, place):
                self._compute(self.float_tree.steps[at], at, exact)
                name = self._compute(self.tree.steps[at], at, rounded)
                rounded[name] = self._rounded(name, rounded[name])
            if len(self.kept) * (_bytes(exact) + _bytes(rounded)) <= KEPT_BYTES:
                self.kept[number] = (place, exact, rounded)
            yield rounded[leaf.inputs[0]], exact_leaf.compute(exact)

    def _compute(self, leaf: Leaf, place: int, values: Values) -> str:
        """Add a leaf's output to ``values``, and take away what no other will read; returns its name."""
        values[leaf.name] = leaf.compute(values)
        for name in set(leaf.inputs):
            if self.last_use[name] == place:
                del values[name]
        return leaf.name

    def _rounded(self, name: str, x: Any) -> Any:
        step = self.step.get(name)
        return x if step is None else torch.round(x / step) * step

    def _ranges(self, samples: Sequence[Tensor], names: Collection[str]) -> dict[str, tuple[float, float]]:
        """Least and greatest value in float of some leaves' outputs, and of 0."""
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
    """Whether a module's path is one of ``layers``, or is in a module of theirs."""
    return any(path == layer or path.startswith(f"{layer}.") for layer in layers)


def _is_rounded(leaf: Leaf, tree: Leaves, float_layers: Collection[str]) -> bool:
    readers = [reader for reader in tree.consumers(leaf.name) if reader.layer != leaf.layer]
    if is_inside(leaf.layer, float_layers):
        return False
    # a device puts out what a ReLU leaves, not what it reads
    return leaf.name == tree.output or not all(isinstance(reader.module, nn.ReLU) for reader in readers)


def _bytes(values: Mapping[str, Any]) -> int:
    return sum(one.nbytes for one in values.values() if isinstance(one, Tensor))
