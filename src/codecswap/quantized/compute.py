"""Execute a `TransformGraph` in PyTorch, operator by operator, with gradients."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from codecswap.quantized.representation import Constant, Operation, Quantization, TransformGraph

Each = Callable[[str, Tensor], Tensor]
"""Called with the name and value of the input and of every output; later operations read what it returns."""
_Operator = Callable[..., Any]


def _convolve(
    step: Operation, stored: Mapping[str, Constant], x: Tensor, kernel: Tensor, bias: Tensor | None = None
) -> Tensor:
    attributes = step.attributes
    top, left, bottom, right = attributes["pads"]
    options = {
        "stride": attributes["strides"],
        "dilation": attributes.get("dilations", [1, 1]),
        "groups": attributes.get("group", 1),
    }
    if step.operator == "ConvTranspose":
        if (top, left) != (bottom, right):
            raise ValueError(f"{step.name} has pads that differ, {attributes['pads']}")
        more = attributes.get("output_padding", [0, 0])
        return F.conv_transpose2d(x, kernel, bias, padding=[top, left], output_padding=more, **options)
    if (top, left) != (bottom, right):
        x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
    return F.conv2d(x, kernel, bias, padding=[top, left], **options)


def _resize(step: Operation, stored: Mapping[str, Constant], x: Tensor, *sizes: Tensor | None) -> Tensor:
    scales = stored[step.inputs[2]].values[2:]
    return F.interpolate(x, scale_factor=[float(scale) for scale in scales], mode="nearest")


def _slice(step: Operation, stored: Mapping[str, Constant], x: Tensor, *places: Tensor) -> Tensor:
    starts, stops, axes = (stored[name].values for name in step.inputs[1:4])
    parts = [slice(None)] * x.dim()
    for start, stop, axis in zip(starts, stops, axes, strict=True):
        parts[axis] = slice(int(start), int(stop))
    return x[tuple(parts)]


def _plain(function: _Operator) -> _Operator:
    """An operator without attributes."""
    return lambda step, stored, *inputs: function(*inputs)


OPERATORS: dict[str, _Operator] = {
    "Abs": _plain(torch.abs),
    "Add": _plain(torch.add),
    "Clip": _plain(torch.clamp),
    "Concat": lambda step, stored, *inputs: torch.cat(inputs, step.attributes["axis"]),
    "Conv": _convolve,
    "ConvTranspose": _convolve,
    "DepthToSpace": lambda step, stored, x: F.pixel_shuffle(x, step.attributes["blocksize"]),
    "Div": _plain(torch.div),
    "LeakyRelu": lambda step, stored, x: F.leaky_relu(x, step.attributes.get("alpha", 0.01)),
    "MatMul": _plain(torch.matmul),
    "Mul": _plain(torch.mul),
    "Reciprocal": _plain(torch.reciprocal),
    "Relu": _plain(torch.relu),
    "Reshape": lambda step, stored, x, shape: x.reshape(stored[step.inputs[1]].values.tolist()),
    "Resize": _resize,
    "Sigmoid": _plain(torch.sigmoid),
    "Slice": _slice,
    "Softmax": lambda step, stored, x: torch.softmax(x, step.attributes.get("axis", -1)),
    "Sqrt": _plain(lambda x: x.clamp_min(1e-12).sqrt()),  # the derivative at 0 is infinite
    "Sub": _plain(torch.sub),
    "Transpose": lambda step, stored, x: x.permute(step.attributes["perm"]),
}
"""All operators of `codecswap.graph.trace`: called with the operation, the graph's constants, and the inputs (or None)."""


def compute(
    transform: TransformGraph, x: Tensor, *, constants: Mapping[str, Tensor] | None = None, each: Each | None = None
) -> Tensor:
    """Compute a transform's output, float32: its reference execution, up to the order of summation.

    Args:
        x: its input, ``(B, C, H, W)``.
        constants: their real values, on the device of ``x``; by default `reals`, computed at every call.
        each: observes or changes each tensor; by default tensors are rounded as ``transform.activations`` says.
    """
    constants = reals(transform, x.device) if constants is None else constants
    each = each or (lambda name, x: rounded(x, known) if (known := transform.activations.get(name)) else x)
    last = {name: step for step in transform.operations for name in step.inputs}
    computed = {transform.input: each(transform.input, x)}
    for step in transform.operations:
        inputs = [computed[name] if name in computed else constants[name] if name else None for name in step.inputs]
        computed[step.output] = each(step.output, OPERATORS[step.operator](step, transform.constants, *inputs))
        for name in {name for name in step.inputs if last[name] is step and name != transform.output}:
            computed.pop(name, None)
    return computed[transform.output]


def reals(transform: TransformGraph, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The dequantized constants of a transform, float32."""
    return {name: torch.from_numpy(np.array(one.real)).to(device) for name, one in transform.constants.items()}


def output_shape(transform: TransformGraph, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the output for an input of this shape; no values are computed."""
    return tuple(compute(transform, torch.empty(shape, device="meta"), each=lambda name, x: x).shape)


def rounded(x: Tensor, rounding: Quantization) -> Tensor:
    """Fake-quantize ``x``; the gradient is passed straight through, and is 0 where values are clipped."""
    (low, high), step = rounding.range, float(rounding.scale)
    inside = x.clamp(low, high)
    return inside + (torch.round(inside / step) * step - inside).detach()
