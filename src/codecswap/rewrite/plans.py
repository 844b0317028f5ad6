"""Lowerings of a transposed convolution in ONNX, as plans: nodes without their weights."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from codecswap.layers.phase_grid import Axis, Grid, Window
from codecswap.rewrite.transposed import NotRewritten, Transposed

MOST_NUMBERS = 1 << 26
"""Most numbers of a mask, and of a new weight unless the old one has about as many: more is a mistake or an attack."""
MOST_PHASES = 1024
"""Most convolutions that `phases` writes for one node."""
X, Y, WEIGHT, BIAS = "X", "Y", "W", "B"
"""Names inside a plan: input, output, and the beginnings of its weights' and biases'."""


@dataclass(frozen=True)
class Kernel:
    """How a plan's weight comes out of the node's (`codecswap.layers.phase_grid.arrange`)."""

    windows: tuple[Window, ...]
    phases_first: bool = False

    @property
    def phases(self) -> int:
        """Output channels for each one of the transposed convolution."""
        return math.prod(len(window.taps) for window in self.windows)

    @property
    def size(self) -> tuple[int, ...]:
        """Taps along each axis."""
        return tuple(window.taps.shape[1] for window in self.windows)

    @property
    def key(self) -> tuple:
        """Two kernels with one key arrange weights alike."""
        return self.phases_first, *((window.taps.shape, window.taps.tobytes()) for window in self.windows)


@dataclass
class Plan:
    """One form of one node. Names in it are its own, `X` and `Y` its input and output."""

    form: str
    layer: Transposed
    opset: int
    nodes: list[NodeProto] = field(default_factory=list)
    kernels: dict[str, Kernel] = field(default_factory=dict)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    """Constants: shapes, scales, masks."""
    mask: str | None = None
    """The one of the tensors that has the type of what is computed."""
    enlarged: bool = False
    """Its convolutions run at the output's resolution."""
    baked: bool = False
    """It is valid only for the layer's input lengths."""

    @property
    def operators(self) -> set[str]:
        """ONNX names."""
        return {node.op_type for node in self.nodes}

    @property
    def parameters(self) -> int:
        """Numbers in its weights and its mask."""
        layer = self.layer
        if self.form == "native":
            return math.prod(layer.weight_shape)
        weights = sum(
            layer.outputs * kernel.phases * (layer.inputs // layer.groups) * math.prod(kernel.size)
            for kernel in self.kernels.values()
        )
        return weights + (self.tensors[self.mask].size if self.mask else 0)

    def multiply_adds(self, lengths: Sequence[int]) -> int:
        """Multiply-adds of its convolutions, for one item of a batch and these input lengths."""
        layer, total = self.layer, 0
        if self.form == "native":
            return math.prod(layer.weight_shape) * math.prod(lengths)
        for kernel in self.kernels.values():
            places = 1
            for axis, window, length in zip(layer.axes, kernel.windows, lengths, strict=True):
                scale = axis.stride if self.enlarged else 1
                places *= scale * length + sum(window.pads) - window.dilation * (window.taps.shape[1] - 1)
            total += places * layer.outputs * kernel.phases * layer.inputs // layer.groups * math.prod(kernel.size)
        return total

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Append a node; returns the name of its output."""
        output = f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def convolve(self, x: str, kernel: Kernel) -> str:
        """Append a convolution without stride."""
        layer, number = self.layer, str(len(self.kernels))
        numbers = layer.outputs * kernel.phases * (layer.inputs // layer.groups) * math.prod(kernel.size)
        if numbers > max(MOST_NUMBERS, 4 * math.prod(layer.weight_shape)):
            raise NotRewritten(f"its weight would have {numbers:,} numbers")
        self.kernels[number] = kernel
        pads = [window.pads[end] for end in (0, 1) for window in kernel.windows]
        return self.add(
            "Conv",
            x,
            WEIGHT + number,
            BIAS + number,
            kernel_shape=kernel.size,
            pads=pads,
            dilations=[window.dilation for window in kernel.windows],
            strides=[1] * len(pads[::2]),
            group=layer.groups,
        )

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        """Append a Reshape; 0 copies a length, -1 is what remains.

        The Rust runtime tract reads a 0 that directly follows the batch's 0 wrongly, so channels are always given as a number.
        """
        return self.add("Reshape", x, self.tensor(np.array(shape, np.int64)))

    def transpose(self, x: str, *order: int) -> str:
        """Append a Transpose."""
        return self.add("Transpose", x, perm=order)

    def split(self, x: str, count: int) -> list[str]:
        """Append a Split of the channels into equal parts."""
        outputs = [f"part{index}" for index in range(count)]
        how: dict[str, Any] = {"num_outputs": count} if self.opset >= 18 else {}
        self.nodes.append(helper.make_node("Split", [x], outputs, axis=1, **how))
        return outputs

    def crop(self, x: str, crops: Sequence[tuple[int, int]]) -> str:
        """Append a Slice, or nothing."""
        axes = [axis for axis, ends in enumerate(crops, 2) if any(ends)]
        if not axes:
            return x
        starts = [crops[axis - 2][0] for axis in axes]
        ends = [-crops[axis - 2][1] or np.iinfo(np.int64).max for axis in axes]
        if self.opset < 10:
            return self.add("Slice", x, starts=starts, ends=ends, axes=axes)
        return self.add("Slice", x, *(self.tensor(np.array(values, np.int64)) for values in (starts, ends, axes)))

    def tensor(self, values: np.ndarray) -> str:
        """Store a constant; returns its name."""
        name = f"T{len(self.tensors)}"
        self.tensors[name] = values
        return name

    def finish(self) -> "Plan":
        """Name the last output `Y`."""
        self.nodes[-1].output[0] = Y
        return self


def subpixel(layer: Transposed, opset: int, *, mode: str = "CRD") -> Plan:
    """Convolution, DepthToSpace, and Slice or nothing; where DepthToSpace does not go, Reshape and Transpose.

    Args:
        mode: order of the channels that DepthToSpace reads. ONNX has CRD since opset 11.
    """
    plan = Plan("subpixel", layer, opset)
    grids = [axis.together() for axis in layer.axes]
    square = len(set(layer.strides)) == 1 and len(layer.axes) == 2 and layer.strides[0] > 1
    phases_first = square and mode == "DCR" and layer.groups == 1
    x = plan.convolve(X, Kernel(tuple(grid.windows[0] for grid in grids), phases_first))
    if square and (phases_first or (mode == "CRD" and opset >= 11)):
        modes = {"mode": mode} if opset >= 11 else {}
        x = plan.add("DepthToSpace", x, blocksize=layer.strides[0], **modes)
    elif math.prod(layer.strides) > 1:
        x = _interleave(plan, x, _lengths(plan, grids))
    plan.crop(x, [grid.crop for grid in grids])
    return plan.finish()


def phases(layer: Transposed, opset: int, *, split: bool = False) -> Plan:
    """A convolution for each phase, interleaved by Concat, Reshape and, where the size is open, Transpose.

    Args:
        split: one convolution for all phases, and Split, which is faster where its kernel has no gaps. Not with groups.
    """
    plan = Plan("phases", layer, opset)
    if (count := math.prod(layer.strides)) > MOST_PHASES:
        raise NotRewritten(f"it has {count:,} phases")
    if split and layer.groups > 1:
        raise NotRewritten("the phases of several groups are not side by side")
    grids = [axis.together() if split else axis.apart() for axis in layer.axes]
    kernels = [Kernel(windows, split) for windows in product(*(grid.windows for grid in grids))]
    parts = [plan.convolve(X, kernel) for kernel in kernels]
    if split and count > 1:
        parts = plan.split(parts[0], count)
    grouped = [parts[start : start + layer.strides[-1]] for start in range(0, count, layer.strides[-1])]
    height, width = (1, *_lengths(plan, grids))[-2:]
    if len(layer.axes) == 1 or not (height and width):
        rows = [_join(plan, row, len(layer.axes) + 1) for row in grouped]
        if len(rows) > 1:
            rows = [plan.transpose(_join(plan, [plan.transpose(row, 0, 1, 3, 2) for row in rows], 3), 0, 1, 3, 2)]
    else:
        plan.baked = count > 1
        rows = [_join_columns(plan, row, height, width) for row in grouped]
        if len(rows) > 1:
            shape = [0, layer.outputs, height * len(rows), width * layer.strides[1]]
            rows = [plan.reshape(plan.add("Concat", *rows, axis=3), shape)]
    plan.crop(rows[0], [grid.crop for grid in grids])
    return plan.finish()


def masked(layer: Transposed, opset: int) -> Plan:
    """Zero insertion, as nearest Resize and Mul by a constant mask, and a convolution; for a fixed size."""
    plan = Plan("masked", layer, opset, enlarged=True)
    x = X
    if math.prod(layer.strides) > 1:
        if None in layer.lengths:
            raise NotRewritten("a mask has one size and its input any; fix the input's size or take another form")
        plan.baked = True
        sizes = [stride * length for stride, length in zip(layer.strides, layer.lengths, strict=True) if length]
        if math.prod(sizes) > MOST_NUMBERS:
            raise NotRewritten(f"its mask would have {math.prod(sizes):,} numbers")
        mask = np.zeros((1, 1, *sizes), np.float32)
        mask[(..., *(slice(None, None, stride) for stride in layer.strides))] = 1
        plan.mask = plan.tensor(mask)
        x = plan.add("Mul", _enlarge(plan, x), plan.mask)
    grids = [axis.inserted() for axis in layer.axes]
    plan.crop(plan.convolve(x, Kernel(tuple(grid.windows[0] for grid in grids))), [grid.crop for grid in grids])
    return plan.finish()


def native(layer: Transposed, opset: int) -> Plan:
    """The node itself, with explicit pads in place of auto_pad, output_shape and, where they can say it, output_padding."""
    plan = Plan("native", layer, opset)
    ends = [axis.pads for axis in layer.axes]
    extra = [max(0, -end) for _, end in ends]
    attributes = {
        "kernel_shape": layer.weight_shape[2:],
        "strides": layer.strides,
        "dilations": [axis.dilation for axis in layer.axes],
        "pads": [front for front, _ in ends] + [max(0, end) for _, end in ends],
        "group": layer.groups,
    }
    attributes |= {"output_padding": extra} if any(extra) else {}
    plan.add("ConvTranspose", X, WEIGHT, BIAS, **attributes)
    return plan.finish()


FORMS: dict[str, Callable[[Transposed, int], Plan]] = {
    "subpixel": subpixel,
    "masked": masked,
    "phases": phases,
    "native": native,
}
"""Lowerings by their names in ``--form``."""


def _enlarge(plan: Plan, x: str) -> str:
    """Nearest upsampling by the strides."""
    scales = np.array([1, 1, *plan.layer.strides], np.float32)
    if plan.opset < 9:
        return plan.add("Upsample", x, mode="nearest", scales=scales.tolist())
    if plan.opset < 11:
        return plan.add("Upsample" if plan.opset < 10 else "Resize", x, plan.tensor(scales), mode="nearest")
    none = "" if plan.opset >= 13 else plan.tensor(np.zeros(0, np.float32))
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return plan.add("Resize", x, none, plan.tensor(scales), **how)


def _lengths(plan: Plan, grids: Sequence[Grid]) -> list[int | None]:
    """Low-resolution positions of each axis that a grid's convolutions compute; None: any number."""

    def positions(grid: Grid, axis: Axis, length: int | None) -> int | None:
        if length is None:
            return None
        return (axis.stride * length + axis.excess + sum(grid.crop)) // axis.stride

    layer = plan.layer
    return [positions(*one) for one in zip(grids, layer.axes, layer.lengths, strict=True)]


def _interleave(plan: Plan, x: str, lengths: Sequence[int | None]) -> str:
    """Depth to space in CRD order, ``(B, O * phases, m, ...) -> (B, O, s m, ...)``, by Reshape and Transpose."""
    outputs, strides = plan.layer.outputs, plan.layer.strides
    if lengths.count(None) > 1:  # of two open lengths, Reshape can copy only one to its place, so they are turned there
        x = plan.reshape(plan.transpose(x, 2, 3, 0, 1), [0, 0, 0, outputs, *strides])
        x = plan.reshape(plan.transpose(x, 2, 3, 1, 5, 0, 4), [0, outputs, 0, strides[1], -1])
        return plan.reshape(plan.transpose(x, 0, 1, 4, 2, 3), [0, outputs, 0, -1])
    plan.baked = any(lengths)
    rows, columns = strides[0] if len(strides) > 1 else 1, strides[-1]
    if columns > 1:
        x = plan.transpose(plan.reshape(x, [0, outputs * rows, columns, -1]), 0, 1, 3, 2)
    if len(strides) == 1:
        return plan.reshape(x, [0, outputs, -1])
    height, width = lengths
    wide = width * columns if width else -1
    if rows > 1:  # in two steps, each of which moves one axis only: runtimes are slow at more
        x = plan.transpose(plan.reshape(x, [0, outputs, rows, height or -1, wide]), 0, 1, 3, 2, 4)
    return plan.reshape(x, [0, outputs, height * rows if height else -1, wide])


def _join(plan: Plan, parts: Sequence[str], open_axis: int) -> str:
    """Interleave tensors along their last axis, ``open_axis``, whatever the lengths are."""
    if len(parts) == 1:
        return parts[0]
    batch, column = [0, plan.layer.outputs], [0] * (open_axis - 1) + [1]
    joined = plan.add("Concat", *(plan.reshape(part, batch + column) for part in parts), axis=open_axis + 1)
    return plan.reshape(joined, batch + [0] * (open_axis - 2) + [-1])


def _join_columns(plan: Plan, parts: Sequence[str], height: int, width: int) -> str:
    """Interleave tensors ``(B, O, height, width)`` along their last axis, with no more than four axes."""
    if len(parts) == 1:
        return parts[0]
    outputs = plan.layer.outputs
    columns = [plan.reshape(part, [0, outputs * height, width, 1]) for part in parts]
    return plan.reshape(plan.add("Concat", *columns, axis=3), [0, outputs, height, width * len(parts)])
