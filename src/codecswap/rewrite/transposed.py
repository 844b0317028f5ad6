"""ConvTranspose nodes: what their attributes mean, as axes of `codecswap.layers.phase_grid`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnx import AttributeProto, NodeProto, helper

from codecswap.layers.phase_grid import Axis

MOST_STRIDE, MOST_KERNEL = 1 << 12, 1 << 16
"""Larger ones are mistakes or attacks."""


class NotRewritten(Exception):
    """A node is not changed; the message says why, as the end of a sentence."""


@dataclass(frozen=True)
class Transposed:
    """A transposed convolution."""

    axes: tuple[Axis, ...]
    groups: int
    weight_shape: tuple[int, ...]
    """``(I, O / groups, k, ...)``."""
    lengths: tuple[int | None, ...]
    """Lengths of the input's spatial axes; None: any."""
    batch: int | None = None
    fixed: bool = False
    """The attributes hold for these lengths only (output_shape)."""

    @property
    def inputs(self) -> int:
        """Input channels."""
        return self.weight_shape[0]

    @property
    def outputs(self) -> int:
        """Output channels."""
        return self.weight_shape[1] * self.groups

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each axis."""
        return tuple(axis.stride for axis in self.axes)

    def output_lengths(self, lengths: Sequence[int]) -> tuple[int, ...]:
        """Lengths of the output's spatial axes for these input lengths."""
        return tuple(axis.stride * length + axis.excess for axis, length in zip(self.axes, lengths, strict=True))

    def least_lengths(self) -> tuple[int, ...]:
        """The smallest input that has an output."""
        return tuple(max(1, -(-(1 - axis.excess) // axis.stride)) for axis in self.axes)


def read(node: NodeProto, weight_shape: Sequence[int], input_shape: Sequence[int | None] | None) -> Transposed:
    """Resolve a node's attributes, ``auto_pad`` and ``output_shape`` included, as ONNX Runtime reads them.

    Args:
        weight_shape: ``(I, O / groups, k, ...)``.
        input_shape: ``(B, I, L, ...)`` as far as it is known.

    Raises:
        NotRewritten: it has no exact replacement, or its attributes contradict each other.
    """
    rank = len(weight_shape) - 2
    if rank not in (1, 2):
        raise NotRewritten(f"it has {rank} spatial axes, and only 1 and 2 are rewritten")
    if any(attribute.ref_attr_name for attribute in node.attribute):
        raise NotRewritten("its attributes are arguments of the function that it is in; inline that first")
    given = {attribute.name: _value(attribute) for attribute in node.attribute}
    groups = given.get("group", 1)
    kernel = tuple(weight_shape[2:])
    strides = _spatial(given, "strides", rank, 1)
    dilations = _spatial(given, "dilations", rank, 1)
    extras = _spatial(given, "output_padding", rank, 0)
    if min(*weight_shape, groups, *strides, *dilations) < 1 or min(extras) < 0 or weight_shape[0] % groups:
        raise NotRewritten("its attributes are out of range")
    if max(strides) > MOST_STRIDE or max(kernel) > MOST_KERNEL:
        raise NotRewritten(f"its stride {max(strides):,} or its kernel {max(kernel):,} is too large")
    if tuple(given.get("kernel_shape", kernel)) != kernel:
        raise NotRewritten(f"its kernel_shape {given['kernel_shape']} is not that of its weight, {list(kernel)}")
    lengths = tuple(input_shape[2:]) if input_shape and len(input_shape) == rank + 2 else (None,) * rank
    if input_shape and len(input_shape) == rank + 2 and input_shape[1] not in (None, weight_shape[0]):
        raise NotRewritten(f"its input has {input_shape[1]} channels and its weight is for {weight_shape[0]}")
    mode = given.get("auto_pad", b"NOTSET").decode("ascii", "replace")
    if mode not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise NotRewritten(f"its auto_pad is {mode}")
    wanted = given.get("output_shape")
    fixed = bool(wanted)
    pads = _spatial(given, "pads", 2 * rank, 0)
    if min(pads) < 0:
        raise NotRewritten("its pads are negative")
    axes = []
    for index, (k, s, d, extra, length) in enumerate(zip(kernel, strides, dilations, extras, lengths, strict=True)):
        ends = (pads[index], pads[index + rank]) if mode == "NOTSET" else (0, 0)
        spare = (k - 1) * d + 1 + extra - s  # output length without pads, minus stride times input length
        if wanted:
            if length is None:
                raise NotRewritten("it has an output_shape and its input has no fixed size")
            spare -= wanted[-rank + index] - s * length
        if wanted or mode.startswith("SAME"):
            if spare < 0 and (not wanted or -spare >= s):
                raise NotRewritten(
                    "its output is larger than stride and kernel make it, which runtimes read differently"
                )
            half = max(spare, 0) // 2
            ends = (half, spare - half) if mode == "SAME_UPPER" or spare < 0 else (spare - half, half)
        axes.append(Axis.of(k, s, d, ends, extra))
    return Transposed(tuple(axes), groups, tuple(weight_shape), lengths, input_shape[0] if input_shape else None, fixed)


def _value(attribute: AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    kinds = {"auto_pad": bytes, "group": int}
    if not isinstance(value, kinds.get(attribute.name, list)):
        raise NotRewritten(f"its attribute {attribute.name} has the wrong type")
    return value


def _spatial(given: dict[str, Any], name: str, count: int, default: int) -> tuple[int, ...]:
    values = given.get(name) or [default] * count
    if len(values) != count or not all(isinstance(value, int) for value in values):
        raise NotRewritten(f"its {name} are {values[:8]}, not {count} numbers")
    return tuple(values)
