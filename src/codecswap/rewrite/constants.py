"""Constants of a graph: find the stored tensor of a weight, and replace it by a rearranged one."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from codecswap.layers.phase_grid import arrange, output_channels
from codecswap.rewrite.plans import Kernel
from codecswap.rewrite.transposed import NotRewritten

PASSED = ("Identity", "Cast", "QuantizeLinear", "DequantizeLinear")
"""Operators between a stored tensor and a convolution that work element by element, so that values may be moved before them."""
Body = GraphProto | FunctionProto


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The bodies of If, Loop and Scan."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def bodies(body: Body) -> Iterator[Body]:
    """A graph or function and everything nested in it; the innermost first."""
    for node in body.node:
        for graph in subgraphs(node):
            yield from bodies(graph)
    yield body


class Arrangement(Protocol):
    """How to rearrange a stored tensor and its scales."""

    @property
    def key(self) -> tuple:
        """Equal for equal arrangements."""

    def move(self, values: np.ndarray, fill: np.ndarray) -> np.ndarray:
        """The new tensor; ``fill`` is the value that means zero."""

    def axis(self, axis: int, length: int) -> tuple[int, np.ndarray]:
        """The axis that the given one of ``length`` becomes, and which of its entries each new one is."""


@dataclass(frozen=True)
class WeightArrangement:
    """A transposed convolution's weight as that of a convolution."""

    kernel: Kernel
    groups: int

    @property
    def key(self) -> tuple:
        """Equal for equal arrangements."""
        return self.groups, *self.kernel.key

    def move(self, values: np.ndarray, fill: np.ndarray) -> np.ndarray:
        """``(I, O / groups, k, ...)`` to ``(O * phases, I / groups, K, ...)``."""
        kernel = self.kernel
        return arrange(values, kernel.windows, self.groups, fill=fill, phases_first=kernel.phases_first)

    def axis(self, axis: int, length: int) -> tuple[int, np.ndarray]:
        """Scales per output channel follow their channel; those per input channel only where there is one group."""
        if axis == 1:
            channels = output_channels(length * self.groups, self.kernel.phases, phases_first=self.kernel.phases_first)
            return 0, channels % length
        if axis == 0 and self.groups == 1:
            return 1, np.arange(length)
        raise NotRewritten(f"the scales of its weight go along axis {axis}, and a convolution cannot have them so")


@dataclass(frozen=True)
class BiasArrangement:
    """A bias, repeated for each phase."""

    kernel: Kernel

    @property
    def key(self) -> tuple:
        """Equal for equal arrangements."""
        return "bias", self.kernel.phases, self.kernel.phases_first

    def move(self, values: np.ndarray, fill: np.ndarray) -> np.ndarray:
        """``(O,)`` to ``(O * phases,)``."""
        return values[self.axis(0, len(values))[1]]

    def axis(self, axis: int, length: int) -> tuple[int, np.ndarray]:
        """Its only axis."""
        return 0, output_channels(length, self.kernel.phases, phases_first=self.kernel.phases_first)


@dataclass(frozen=True)
class Source:
    """A constant: a stored tensor, and the nodes that it passes through."""

    tensor: TensorProto
    home: Body
    """The graph that stores it, as an initializer or in a Constant."""
    steps: tuple[NodeProto, ...] = ()
    """From the tensor on; no Identity."""
    names: tuple[str, ...] = ()
    """Names of all values on the way."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(self.tensor.dims)


@dataclass
class Constants:
    """The constants of one graph with all that is nested in it, or of one function."""

    root: Body
    taken: set[str]
    """Names used anywhere in the model."""
    folder: Path
    """Folder of external data."""
    made: dict[tuple, str] = field(default_factory=dict)
    """New constants, by what they were made of."""
    prelude: list[NodeProto] = field(default_factory=list)
    """Constants to put at the beginning of a function, which has no initializers."""

    def __post_init__(self) -> None:
        self._producers: dict[str, tuple[NodeProto, Body]] = {}
        self._stored: dict[str, tuple[TensorProto, Body]] = {}
        for body in bodies(self.root):
            for node in body.node:
                self._producers |= {output: (node, body) for output in node.output if output}
            if isinstance(body, GraphProto):
                self._stored |= {tensor.name: (tensor, body) for tensor in body.initializer}

    def source(self, name: str, what: str) -> Source:
        """Find the stored tensor of a value.

        Raises:
            NotRewritten: it is computed at run time.
        """
        steps: list[NodeProto] = []
        names = [name]
        while name not in self._stored:
            node, body = self._producers.get(name, (None, None))
            if node is None or body is None or len(names) > len(self._producers) + 1:
                raise NotRewritten(f"{what} is an input")
            if node.op_type == "Constant":
                value = next((one for one in node.attribute if one.name == "value" and one.HasField("t")), None)
                if value is None:
                    raise NotRewritten(f"{what} is a Constant without a tensor")
                return Source(value.t, body, tuple(reversed(steps)), tuple(names))
            if node.op_type not in PASSED:
                raise NotRewritten(f"{what} is computed by {node.op_type}")
            steps += [] if node.op_type == "Identity" else [node]
            name = node.input[0]
            names.append(name)
        tensor, body = self._stored[name]
        return Source(tensor, body, tuple(reversed(steps)), tuple(names))

    def values(self, source: Source) -> np.ndarray:
        """The stored values."""
        return numpy_helper.to_array(self._loaded(source.tensor))

    def stored(self, name: str) -> TensorProto | None:
        """The initializer of this name, with its data."""
        return self._loaded(self._stored[name][0]) if name in self._stored else None

    def producer(self, name: str) -> NodeProto | None:
        """The node that makes a value."""
        return self._producers[name][0] if name in self._producers else None

    def _loaded(self, tensor: TensorProto) -> TensorProto:
        if not uses_external_data(tensor):
            return tensor
        loaded = deepcopy(tensor)
        load_external_data_for_tensor(loaded, str(self.folder))
        return loaded

    def rearranged(self, source: Source, how: Arrangement, hint: str, before: list[NodeProto]) -> str:
        """The name of a constant in a new arrangement.

        Args:
            source: what is rearranged.
            how: the arrangement.
            hint: beginning of new names.
            before: nodes are appended here, where the constant passes through some.
        """
        scales = [self._scales(step, len(source.shape), how, hint) for step in source.steps]
        fill = np.zeros(())
        for step, (_, zero) in zip(reversed(source.steps), reversed(scales), strict=True):
            fill = {"DequantizeLinear": zero, "QuantizeLinear": np.zeros(())}.get(step.op_type, fill)
        key = (source.names[-1], fill.tobytes(), *how.key)
        if key not in self.made:
            self.made[key] = self.store(how.move(self.values(source), fill), hint, source.home)
        name = self.made[key]
        for step, (node, _) in zip(source.steps, scales, strict=True):
            node.name = self.unique(f"{hint}_{step.op_type}")
            node.input[0] = name
            name = node.output[0] = self.unique(f"{hint}_{step.op_type}_output")
            before.append(node)
        return name

    def _scales(self, step: NodeProto, rank: int, how: Arrangement, hint: str) -> tuple[NodeProto, np.ndarray]:
        """A step with the scales of the new arrangement; its zero points, as they go with the old tensor of that rank."""
        node = deepcopy(step)
        sources = [self.source(name, "the scale of its weight") for name in step.input[1:] if name]
        if step.op_type == "Cast":
            return node, np.zeros(())
        attributes = {one.name: helper.get_attribute_value(one) for one in step.attribute}
        if attributes.get("block_size") or any(source.steps or len(source.shape) > 1 for source in sources):
            raise NotRewritten("its weight is quantized in blocks, or with scales that are computed")
        zero = self.values(sources[1]) if len(sources) > 1 else np.zeros(())
        length = int(np.prod(sources[0].shape))
        if length == 1:
            return node, zero.reshape(())
        axis = attributes.get("axis", 1)
        axis += rank if axis < 0 else 0
        moved, entries = how.axis(axis, length)
        for place, source in enumerate(sources, 1):
            key = (source.names[-1], "scale", *how.key)
            if key not in self.made:
                self.made[key] = self.store(
                    self.values(source)[entries], f"{hint}_{('scale', 'zero')[place - 1]}", source.home
                )
            node.input[place] = self.made[key]
        kept = [one for one in step.attribute if one.name != "axis"]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("axis", moved)])
        return node, zero.reshape([-1 if place == axis else 1 for place in range(min(rank, 2))]) if zero.ndim else zero

    def store(self, values: np.ndarray, hint: str, home: Body) -> str:
        """Add a constant to a graph, or to a function; returns its name."""
        name = self.unique(hint)
        tensor = numpy_helper.from_array(np.ascontiguousarray(values), name)
        if isinstance(home, GraphProto):
            home.initializer.append(tensor)
        else:
            self.prelude.append(helper.make_node("Constant", [], [name], name=name, value=tensor))
        return name

    def unique(self, hint: str) -> str:
        """A name that is not used in the model."""
        name, number = hint, 1
        while name in self.taken:
            number += 1
            name = f"{hint}_{number}"
        self.taken.add(name)
        return name
